"""A disk that fails once, wherever a command touches it: one line, old or new, then it works."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sparsediff.disk.names import is_temp
from tests.conftest import Run
from tests.support.commands import CASES, left_over
from tests.support.refusals import EXIT

TOUCHES = (
    "fsync",
    "ftruncate",
    "link",
    "mkdir",
    "open",
    "pwrite",
    "rename",
    "replace",
    "rmdir",
    "symlink",
    "unlink",
)
REMOVALS = ("rmdir", "unlink")  # what is left after one that failed, the next run removes


class FailingDisk:
    """Functions of `os` that change a disk, the n-th call of which fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch

    def fail(self, n: int, code: int) -> list[str]:
        """Let the n-th call from now on fail; the list holds its name as soon as it has.

        Of a call that belongs to a removal the name begins with "removal".
        """
        count, failed = 0, list[str]()
        aside = False  # the last call gave something a temporary name, to remove it

        def wrap(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
            def wrapped(*args: Any, **kwargs: Any) -> Any:
                nonlocal count, aside
                if name != "open" or args[1] & (os.O_WRONLY | os.O_RDWR):
                    count += 1
                    if count == n:
                        failed.append(f"removal: {name}" if aside or name in REMOVALS else name)
                        raise OSError(code, os.strerror(code))
                    aside = name == "rename" and is_temp(Path(args[1]).name)
                return function(*args, **kwargs)

            return wrapped

        for name in TOUCHES:
            self._patch.setattr(os, name, wrap(name, getattr(os, name)))
        return failed

    def mend(self) -> None:
        self._patch.undo()


@pytest.fixture
def disk() -> Iterator[FailingDisk]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield FailingDisk(monkeypatch)


CODES = [
    pytest.param(errno.ENOSPC, id="full"),
    pytest.param(errno.EIO, id="broken", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("name", CASES)
def test_an_error_of_the_disk(
    name: str, code: int, tmp_path: Path, disk: FailingDisk, cli: Run
) -> None:
    case = CASES[name](tmp_path)
    for n in range(1, 1000):
        case.prepare()
        failed = disk.fail(n, code)
        found, out, err = cli(*case.words)
        disk.mend()
        where = f"{n}: {failed}: {found} {err}"
        case.sound()
        if failed and not failed[0].startswith("removal"):
            assert not left_over(tmp_path / "live"), where
        if found:
            assert found == EXIT["unavailable"], where
            assert failed, where
            assert err.count("\n") == 1, where
            assert err.startswith("sparsediff: "), where
            assert out == "", where
        else:
            case.done()
        if not failed:
            assert n > 3, "the disk was hardly touched"
            return
        again = cli(*case.words)
        assert again[0] == 0, (where, again)
        case.done()
        assert not left_over(tmp_path / "live"), where
