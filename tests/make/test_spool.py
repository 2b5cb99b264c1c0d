"""Where payloads wait: a disk that is full is told of by the name of what was to be written."""

from __future__ import annotations

import errno
import io
import os
import tempfile
import threading
from functools import partial
from pathlib import Path

import pytest

from sparsediff import make_patch
from sparsediff.errors import UnavailableError, UsageError
from sparsediff.make.shares import Share
from sparsediff.make.spool import spool
from sparsediff.make.write_part import make_part
from tests.support.pairs import training_pair, write_safetensors


def test_disk_that_is_full_for_what_is_buffered_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closing the file tries to write once more, and must not hide what was said."""
    before, after = training_pair(1_000_000, 1e-3)
    for name, words in (("base", before), ("target", after)):
        write_safetensors(tmp_path / name, {"w": words})
    full = open("/dev/full", "r+b")  # noqa: SIM115 - make_patch closes it
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: full)
    with pytest.raises(UnavailableError, match="out: no space left on device"):
        make_patch(tmp_path / "base", tmp_path / "target", tmp_path / "out")
    assert full.closed
    assert not (tmp_path / "out").exists()


def test_a_directory_that_nobody_may_write_is_told_by_the_name_of_the_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbid(**_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(tmp_path / "tmpq3x_"))

    monkeypatch.setattr(tempfile, "TemporaryFile", forbid)
    with (
        pytest.raises(UsageError, match=r"p\.sdiff: permission denied"),
        spool(tmp_path / "p.sdiff"),
    ):
        pass


@pytest.mark.parametrize("jobs", [1, 2])
def test_no_file_or_thread_stays_for_whoever_keeps_the_error(
    jobs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after = training_pair(1_000_000, 1e-2)
    for name, words in (("base", before), ("target", after)):
        write_safetensors(tmp_path / name, {"w": words})
    was_open, n_threads = os.listdir("/proc/self/fd"), threading.active_count()
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: io.FileIO("/dev/full", "r+"))
    for make in (make_patch, partial(make_part, part=Share(1, 1))):
        with pytest.raises(UnavailableError) as kept:
            make(
                tmp_path / "base",
                tmp_path / "target",
                output=tmp_path / "out",
                bucket_words=50_000,
                jobs=jobs,
            )
        assert "no space left" in str(kept.value)
        assert (os.listdir("/proc/self/fd"), threading.active_count()) == (was_open, n_threads)
