"""Pinned reads: of a file that changes under its reader nothing is believed.

Enters: paths. Leaves: bytes of files as they were when first seen, or the error that
says one changed; all the files below a directory, by relative name.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

from sparsediff.disk.names import is_temp
from sparsediff.errors import CorruptError, UnavailableError, UsageError, from_os_error, os_errors

_MAX_OPEN = 16  # files that a bucket, or a chain, may hold open
_PAIR = 2  # a base file and a target file, which bucket after bucket is of


class Readable(Protocol):
    """What is read of a checkpoint's file, which may be memory (`memory.MemoryFile`)."""

    @property
    def path(self) -> Path:
        """What messages call it."""

    @property
    def size(self) -> int:
        """Bytes."""

    def read_into(self, offset: int, buffer: Any) -> None:
        """Fill ``buffer`` (a writable byte buffer) from ``offset``."""

    def read(self, offset: int, size: int) -> bytes:
        """Read ``size`` bytes from ``offset``."""

    def check_unchanged(self) -> None:
        """Raise UnavailableError if it is no longer what it was."""


class InputFile(NamedTuple):
    """A file being read, pinned to the state it had when it was first seen.

    Attributes:
        path: where it is, links resolved or not.
        size: bytes.
        identity: device, inode and mtime in ns.
        ctime: in ns.
        n_links: how many names it has.
    """

    path: Path
    size: int
    identity: tuple[int, int, int]
    ctime: int
    n_links: int

    @classmethod
    def of(cls, path: Path) -> InputFile:
        """Pin ``path``, following links.

        Raises:
            UsageError: it is missing or not a regular file.
        """
        with os_errors(path):
            status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise UsageError("not a regular file", file=path)
        size, ctime, n_links = status.st_size, status.st_ctime_ns, status.st_nlink
        return cls(path, size, _identity(status), ctime, n_links)

    def read_into(self, offset: int, buffer: Any) -> None:
        """Fill ``buffer`` (a writable byte buffer) from ``offset``.

        Raises:
            UnavailableError: the file changed since it was pinned.
        """
        with OpenFiles() as files:
            files.read(self, offset, buffer)

    def read(self, offset: int, size: int) -> bytes:
        """Read ``size`` bytes from ``offset``; see `read_into`."""
        buffer = bytearray(size)
        self.read_into(offset, buffer)
        return bytes(buffer)

    def beside(self, name: str) -> InputFile:
        """Pin the file of that name in the same directory; see `of`."""
        return InputFile.of(self.path.parent / name)

    def open(self) -> int:
        """Descriptor for reading; see `read_into`."""
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise self.changed() from None
        try:
            self._check(os.fstat(fd))
        except BaseException:
            os.close(fd)
            raise
        return fd

    def check_unchanged(self) -> None:
        """Raise UnavailableError if the file is no longer what was pinned."""
        try:
            status = os.stat(self.path)
        except OSError as e:
            raise self.changed() from e
        self._check(status)

    def _check(self, status: os.stat_result) -> None:
        if status.st_size != self.size or _identity(status) != self.identity:
            raise self.changed()
        # A write whose mtime was set back; but a name that comes or goes changes it as well,
        # as when a trainer deletes a checkpoint of which others hold hard links.
        if status.st_ctime_ns != self.ctime and max(self.n_links, status.st_nlink) == 1:
            raise self.changed()

    def changed(self) -> UnavailableError:
        """The error that says so."""
        return UnavailableError("file changed while it was read; try again", file=self.path)


@dataclass(frozen=True, slots=True)
class Window:
    """A file that lies inside another, as the members of an archive do.

    Attributes:
        path: what the archive calls it.
        size: bytes.
        outer: the file on disk.
        start: its first byte there.
        others: start and size there of all that is in the archive, by name.
    """

    path: Path
    size: int
    outer: InputFile
    start: int
    others: Mapping[str, tuple[int, int]] = field(repr=False, compare=False)

    def read_into(self, offset: int, buffer: Any) -> None:
        """Fill ``buffer`` from ``offset``; see `InputFile.read_into`."""
        with OpenFiles() as files:
            files.read(self, offset, buffer)

    def read(self, offset: int, size: int) -> bytes:
        """Read ``size`` bytes from ``offset``; see `InputFile.read_into`."""
        buffer = bytearray(size)
        self.read_into(offset, buffer)
        return bytes(buffer)

    def place(self, offset: int, size: int) -> int:
        """Where ``size`` of its bytes from ``offset`` lie in the file on disk.

        Raises:
            CorruptError: they are not all its own.
        """
        if not 0 <= offset <= offset + size <= self.size:
            raise CorruptError("read beyond its end", file=self.path, offset=offset)
        return self.start + offset

    def beside(self, name: str) -> Window:
        """The file of that name in the same directory of the archive.

        Raises:
            UsageError: there is none.
        """
        path = self.path.parent / name
        if str(path) not in self.others:
            raise UsageError("no such file", file=path)
        start, size = self.others[str(path)]
        return Window(path, size, self.outer, start, self.others)

    def check_unchanged(self) -> None:
        """Raise UnavailableError if the file on disk is no longer what was pinned."""
        self.outer.check_unchanged()


Input = InputFile | Window
"""What formats are looked for in."""


class OpenFiles:
    """Reads from pinned files; each is opened at its first read and closed with this."""

    def __init__(self) -> None:
        self._descriptors: dict[Path, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])

    def close_many(self) -> None:
        """Close all, if they are more than a pair: what follows is likely to need that again."""
        if len(self._descriptors) > _PAIR:
            self.__exit__()

    def reader(self, files: Sequence[Readable]) -> Callable[[int, int, Any], None]:
        """`read` of one of ``files``, by its index."""
        return lambda index, offset, buffer: self.read(files[index], offset, buffer)

    def locator(
        self, files: Sequence[Readable]
    ) -> Callable[[int, int, int], tuple[int, int] | None]:
        """`locate` of one of ``files``, by its index."""
        return lambda index, offset, size: self.locate(files[index], offset, size)

    def locate(self, file: Readable, offset: int, size: int) -> tuple[int, int] | None:
        """Where ``size`` bytes from ``offset`` can be read: descriptor, which stays open, offset.

        Returns:
            None if they are not on disk, or too many files are open.
        """
        if isinstance(file, Window):
            offset = file.place(offset, size)
            file = file.outer
        if not isinstance(file, InputFile):
            return None
        fd = self._descriptors.get(file.path)
        if fd is None:
            if len(self._descriptors) == _MAX_OPEN:
                return None
            fd = self._descriptor(file)
        return fd, offset

    def read(self, file: Readable, offset: int, buffer: Any) -> None:
        """Fill ``buffer`` from ``offset``; see `InputFile.read_into`."""
        if isinstance(file, Window):
            offset = file.place(offset, memoryview(buffer).nbytes)
            file = file.outer
        if not isinstance(file, InputFile):
            file.read_into(offset, buffer)
            return
        fd = self._descriptor(file)
        view = memoryview(buffer).cast("B")
        while len(view):
            try:
                n = os.preadv(fd, [view], offset)
            except OSError as e:
                raise from_os_error(e, file.path) from e
            if n == 0:
                raise file.changed()
            view, offset = view[n:], offset + n

    def _descriptor(self, file: InputFile) -> int:
        """An open one of ``file``."""
        fd = self._descriptors.get(file.path)
        if fd is None:
            if len(self._descriptors) == _MAX_OPEN:
                self.__exit__()
            with os_errors(file.path):
                fd = self._descriptors[file.path] = file.open()
        return fd


class InputStream(io.RawIOBase):
    """A pinned file read like a stream; it holds no descriptor, ``files`` does while it can."""

    def __init__(self, file: InputFile, files: OpenFiles) -> None:
        super().__init__()
        self._file, self._files, self._at = file, files, 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill ``buffer`` as far as the file goes; see `InputFile.read_into`."""
        view = memoryview(buffer).cast("B")
        n = min(len(view), max(0, self._file.size - self._at))
        self._files.read(self._file, self._at, view[:n])
        self._at += n
        return n

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to an offset, counted from the start, from here or from the end."""
        self._at = offset + (0, self._at, self._file.size)[whence]
        return self._at

    def tell(self) -> int:
        """Where the next byte is read."""
        return self._at


def _identity(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_dev, status.st_ino, status.st_mtime_ns


def walk(root: Path, *, passed_over: list[Path] | None = None) -> Iterator[tuple[str, Path]]:
    """Relative name and path of each file below ``root``, sorted, links followed.

    What a killed run left behind (`is_temp`) is passed over: it is no part of a checkpoint.

    Args:
        root: a directory.
        passed_over: if given, what was passed over is added to it.

    Raises:
        UsageError: a link leads back to a directory above itself, or
            something is neither file nor directory.
    """

    def visit(
        directory: Path, prefix: str, above: frozenset[tuple[int, int]]
    ) -> Iterator[tuple[str, Path]]:
        with os_errors(directory):
            status = os.stat(directory)
            here = (status.st_dev, status.st_ino)
            if here in above:
                raise UsageError("link loops back to a directory above it", file=directory)
            entries = sorted(os.scandir(directory), key=lambda e: e.name)
            for entry in entries:
                path = directory / entry.name
                if is_temp(entry.name):
                    if passed_over is not None:
                        passed_over.append(path)
                    continue
                if entry.is_dir():
                    yield from visit(path, f"{prefix}{entry.name}/", above | {here})
                elif entry.is_file():
                    yield f"{prefix}{entry.name}", path
                else:
                    raise UsageError("neither a file nor a directory (broken link?)", file=path)

    yield from visit(root, "", frozenset())
