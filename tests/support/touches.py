"""Doing something when what changes a disk is called the n-th time: of `os`, or a file's own."""

from __future__ import annotations

import builtins
import io
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


def at_each(run: Callable[[int], bool], few: int | None = None) -> int:
    """Call ``run`` with 1, 2, … until it returns False: there are not so many touches.

    Args:
        run: what to do, whether something was done at that touch.
        few: leave touches out from this one on, ever more of them; None for none.

    Returns:
        The number that was one too many.
    """
    n, step = 1, 1
    while run(n):
        n += step
        if few is not None and n >= few:
            step = n // 2
    return n


class Touched:
    """What changes a disk, before the n-th call of which something is done.

    That is functions of `os`, and opening files to write, and writing to them, as Python does.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch

    def before(self, n: int, act: Callable[[], object], *, lasting: bool = False) -> list[str]:
        """Call ``act`` before the n-th call from now on; the list then holds the name of that.

        If it belongs to a removal, the name begins with "removal".

        Args:
            n: which call.
            act: what to do.
            lasting: do it before all later calls, too, which belong to no removal.
        """
        count, touched = 0, list[str]()
        aside = False  # the last call gave something a temporary name, to remove it

        def touch(name: str, removes: bool) -> None:
            nonlocal count
            count += 1
            if count == n or (lasting and count > n and not removes):
                touched.append(f"removal: {name}" if removes else name)
                act()

        def wrap(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
            def wrapped(*args: Any, **kwargs: Any) -> Any:
                nonlocal aside
                if name != "open" or args[1] & (os.O_WRONLY | os.O_RDWR):
                    touch(name, aside or name in REMOVALS)
                    aside = name == "rename" and is_temp(Path(args[1]).name)
                return function(*args, **kwargs)

            return wrapped

        self._patch.setattr(kernels, "rebuild", lambda *_: None)  # which writes without `os`

        class Written(io.FileIO):
            def write(self, data: Any, /) -> int:
                touch("write", False)
                return super().write(data)

        def opened(file: Any, mode: str = "r", buffering: int = -1, *args: Any, **more: Any) -> Any:
            if "b" not in mode or not buffering or not set(mode) & set("wax+"):
                return plain(file, mode, buffering, *args, **more)
            if not isinstance(file, int) and not more.get("opener"):
                touch("open", False)
            about = {name: more[name] for name in ("closefd", "opener") if name in more}
            raw = Written(file, mode.replace("b", ""), **about)
            return io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)

        plain = io.open
        for owner in (io, builtins):
            self._patch.setattr(owner, "open", opened)
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
