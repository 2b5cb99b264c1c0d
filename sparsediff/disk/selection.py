"""Which files of a checkpoint are carried, where not all are: weights without optimizer state.

Enters: patterns as a shell writes them, and relative names. Leaves: which of the names
are taken.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import NamedTuple


class Selection(NamedTuple):
    """Files of a directory, by patterns in which ``*`` stands for any characters.

    A pattern holds for a file if it matches its relative name, or the last part of it, or
    either of a directory that the file is in: ``optimizer*`` leaves out
    ``optimizer.pt``, ``rank_0/optimizer.bin`` and ``optimizer/a/b``.

    Attributes:
        include: only files for which one of these holds; all files if there is none.
        exclude: of those, not the ones for which one of these holds.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.include or self.exclude)

    def takes(self, name: str) -> bool:
        """Whether the file of this relative name is carried."""
        if self.include and not _holds(self.include, name):
            return False
        return not _holds(self.exclude, name)


def _holds(patterns: tuple[str, ...], name: str) -> bool:
    names = list(_with_directories(name))
    return any(fnmatchcase(n, p.removesuffix("/")) for p in patterns for n in names)


def _with_directories(name: str) -> Iterator[str]:
    while name:
        yield name
        yield posixpath.basename(name)
        name = posixpath.dirname(name)
