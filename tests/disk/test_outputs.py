"""Outputs appear whole: what cannot be synced does not."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from sparsediff.disk.outputs import staged_directory
from sparsediff.errors import UnavailableError


def test_directory_with_one_that_the_disk_does_not_list_does_not_appear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nothing_left: None
) -> None:
    plain, broken = os.scandir, 1

    def scandir(path: Any) -> Any:
        nonlocal broken
        if broken and os.fspath(path).endswith("below"):
            broken -= 1
            raise OSError(errno.EIO, os.strerror(errno.EIO), os.fspath(path))
        return plain(path)

    def make() -> None:
        with staged_directory(tmp_path / "out", force=False) as staged:
            (staged / "below").mkdir()
            (staged / "below/file").write_text("not synced")
            monkeypatch.setattr(os, "scandir", scandir)

    with pytest.raises(UnavailableError, match="below: input/output error"):
        make()
    assert not broken
    assert not (tmp_path / "out").exists()
