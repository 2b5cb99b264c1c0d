"""Doing something when a function of `os` that changes a disk is called the n-th time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sparsediff import kernels
from sparsediff.disk.names import is_temp

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


class Touched:
    """Functions of `os` that change a disk, before the n-th call of which something is done."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch

    def before(self, n: int, act: Callable[[], object]) -> list[str]:
        """Call ``act`` before the n-th call from now on; the list then holds the name of that.

        If it belongs to a removal, the name begins with "removal".
        """
        count, touched = 0, list[str]()
        aside = False  # the last call gave something a temporary name, to remove it

        def wrap(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
            def wrapped(*args: Any, **kwargs: Any) -> Any:
                nonlocal count, aside
                if name != "open" or args[1] & (os.O_WRONLY | os.O_RDWR):
                    count += 1
                    if count == n:
                        touched.append(f"removal: {name}" if aside or name in REMOVALS else name)
                        act()
                    aside = name == "rename" and is_temp(Path(args[1]).name)
                return function(*args, **kwargs)

            return wrapped

        self._patch.setattr(kernels, "rebuild", lambda *_: None)  # which writes without `os`
        for name in TOUCHES:
            self._patch.setattr(os, name, wrap(name, getattr(os, name)))
        return touched

    def leave(self) -> None:
        """Have the functions do only what they do."""
        self._patch.undo()


@pytest.fixture
def touched() -> Iterator[Touched]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield Touched(monkeypatch)
