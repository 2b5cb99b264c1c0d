"""One tree of errors, each carrying the exit code the command line returns for it.

Enters: what went wrong and where. Leaves: one line that names file, tensor,
offset, expected and found, as far as they are known. The library raises only
these for bad input; anything else that escapes is a defect of ours.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager


class SparsediffError(Exception):
    """Base of every error sparsediff raises on purpose.

    Args:
        problem: what is wrong, in a few words. An argument that would help stands in
            backticks, with ``=True`` if it is a flag; the command line says its option instead.
        file: path of the file it was found in.
        tensor: name of the tensor concerned.
        offset: byte offset, counted from the start of ``file``.
        expected: what should have been there.
        found: what was there instead.
    """

    exit_code = 1

    def __init__(
        self,
        problem: str,
        *,
        file: object = None,
        tensor: str | None = None,
        offset: int | None = None,
        expected: object = None,
        found: object = None,
    ) -> None:
        self.problem = problem
        self.file = file
        self.tensor = tensor
        self.offset = offset
        self.expected = expected
        self.found = found
        super().__init__(problem)

    def __str__(self) -> str:
        where = []
        if self.file is not None:
            where.append(printable(self.file))
        if self.tensor is not None:
            where.append(f"tensor '{printable(self.tensor)}'")
        if self.offset is not None:
            where.append(f"offset {self.offset}")
        text = f"{', '.join(where)}: {self.problem}" if where else self.problem
        if self.expected is not None:
            text += f", expected {printable(self.expected)}"
        if self.found is not None:
            text += f", found {printable(self.found)}"
        return one_line(text)


def one_line(text: str) -> str:
    """The same without line breaks and control characters, which are written in hexadecimal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def printable(value: object) -> str:
    """Text of one line, not too long, whatever a hostile file put in a name."""
    safe = one_line(str(value))
    return safe if len(safe) <= 300 else safe[:297] + "..."


class UsageError(SparsediffError):
    """The request itself cannot be served: output exists, base equals output, and the like."""

    exit_code = 2


class WrongBaseError(SparsediffError):
    """The base given is not the one the patch was made from."""

    exit_code = 10


class CorruptError(SparsediffError):
    """A patch or a checkpoint is damaged, malformed or hostile."""

    exit_code = 11


class UntrustedError(CorruptError):
    """Intact perhaps, but not signed by anybody who is trusted, or older than what was seen."""


class TooLargeError(CorruptError):
    """Declared to be larger than the caller allows."""


class UnsupportedError(SparsediffError):
    """Well-formed, but not something this version can do."""

    exit_code = 12


class UnavailableError(SparsediffError):
    """Disk or store unavailable, full, or changing meanwhile: try again later."""

    exit_code = 13


class LockedError(SparsediffError):
    """Another run holds the lock on the same output."""

    exit_code = 14


_CALLERS_MISTAKES = (
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EACCES,
    errno.EPERM,
    errno.ELOOP,
    errno.ENAMETOOLONG,
)


@contextmanager
def os_errors(path: object) -> Iterator[None]:
    """Turn an ``OSError`` on ``path`` into `from_os_error`."""
    try:
        yield
    except OSError as e:
        raise from_os_error(e, path) from e


def from_os_error(error: OSError, path: object) -> SparsediffError:
    """The error of ours for an ``OSError`` on ``path``.

    A missing or forbidden path is the caller's mistake (2); anything else the
    machine refuses (full, read-only or failing disk) may pass and is 13.
    """
    file = error.filename if error.filename is not None else path
    reason = (error.strerror or str(error)).lower()
    kind = UsageError if error.errno in _CALLERS_MISTAKES else UnavailableError
    return kind(reason, file=file)
