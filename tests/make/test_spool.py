"""Where payloads wait: a disk that is full is told of by the name of what was to be written."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from sparsediff import make_patch
from sparsediff.errors import UnavailableError
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
