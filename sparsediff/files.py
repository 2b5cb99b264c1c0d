"""Reading and writing files so that nothing is lost and nothing is half-written.

Enters: paths and bytes. Leaves: outputs that appear whole, by rename, or not
at all; reads that notice a file changing under them; names that stay inside
their directory. Never follows a link to write.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

from sparsediff.checksum import checksum
from sparsediff.errors import (
    CorruptError,
    LockedError,
    UnavailableError,
    UsageError,
    from_os_error,
    os_errors,
)

TEMP_SUFFIX = ".sparsediff-tmp"
_MAX_OPEN = 64  # files that one bucket may hold open
_RENAME_EXCHANGE = 2
_AT_FDCWD = -100
_FICLONE = 0x40049409  # Linux


def check_relative_name(name: str, *, file: object = None) -> str:
    """Return ``name`` if it is a safe relative path with ``/`` separators.

    Raises:
        CorruptError: it is absolute, climbs, is too long or too deep, or is
            the name of a temporary file.
    """
    parts = name.split("/")
    bad = (
        not name
        or "\0" in name
        or len(name.encode("utf-8", "surrogatepass")) > 4095
        or "\\" in name
        or any(p in ("", ".", "..") for p in parts)
        or len(parts) > 100
        or any(p[1:2] == ":" or is_temp(p) for p in parts)
        or any(len(p.encode("utf-8", "surrogatepass")) > 255 for p in parts)
        or any("\ud800" <= c <= "\udfff" for c in name)
    )
    if bad:
        raise CorruptError("unsafe file name", file=file, found=repr(name))
    return name


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


@dataclass(frozen=True, slots=True)
class InputFile:
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


class OpenFiles:
    """Reads from pinned files; each is opened at its first read and closed with this."""

    def __init__(self) -> None:
        self._descriptors: dict[Path, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])

    def reader(self, files: Sequence[Readable]) -> Callable[[int, int, Any], None]:
        """`read` of one of ``files``, by its index."""
        return lambda index, offset, buffer: self.read(files[index], offset, buffer)

    def read(self, file: Readable, offset: int, buffer: Any) -> None:
        """Fill ``buffer`` from ``offset``; see `InputFile.read_into`."""
        if not isinstance(file, InputFile):
            file.read_into(offset, buffer)
            return
        fd = self._descriptors.get(file.path)
        if fd is None:
            if len(self._descriptors) == _MAX_OPEN:
                self.__exit__()
            with os_errors(file.path):
                fd = self._descriptors[file.path] = file.open()
        view = memoryview(buffer).cast("B")
        while len(view):
            try:
                n = os.preadv(fd, [view], offset)
            except OSError as e:
                raise from_os_error(e, file.path) from e
            if n == 0:
                raise file.changed()
            view, offset = view[n:], offset + n


def _identity(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_dev, status.st_ino, status.st_mtime_ns


def walk(root: Path) -> Iterator[tuple[str, Path]]:
    """Relative name and path of each file below ``root``, sorted, links followed.

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
                    continue  # what a killed run left behind is no part of a checkpoint
                if entry.is_dir():
                    yield from visit(path, f"{prefix}{entry.name}/", above | {here})
                elif entry.is_file():
                    yield f"{prefix}{entry.name}", path
                else:
                    raise UsageError("neither a file nor a directory (broken link?)", file=path)

    yield from visit(root, "", frozenset())


def temp_sibling(path: Path, part: int | None = None) -> Path:
    """Where the output ``path`` is built before it is renamed into place.

    Whoever holds the lock on it also owns the siblings with a ``part``.
    """
    name = path.name
    if len(os.fsencode(name)) > 200:  # a name may have 255 bytes
        name = checksum(os.fsencode(name))
    return path.parent / f".{name}{TEMP_SUFFIX}{'' if part is None else f'.{part}'}"


def is_temp(name: str) -> bool:
    """Whether a file of this name is one that `temp_sibling` named."""
    return name.startswith(".") and name.rstrip("0123456789").rstrip(".").endswith(TEMP_SUFFIX)


def check_output(path: Path, *, force: bool, inputs: Iterable[Path | str] = ()) -> None:
    """Raise UsageError if ``path`` may not be written.

    It may not if it exists (unless ``force``), is neither file nor directory,
    has no parent, or is, contains or lies in one of ``inputs``.
    """
    with os_errors(path):
        if os.path.lexists(path):
            if not force:
                raise UsageError("output exists (--force replaces it)", file=path)
            if not (path.is_file() or path.is_dir() or path.is_symlink()):
                raise UsageError("output is neither a file nor a directory", file=path)
        if not path.parent.is_dir():
            raise UsageError("directory of the output does not exist", file=path)
        real = path.resolve()
        there = [Path(i).resolve() for i in inputs if os.path.exists(i)]
    for other in there:
        if real == other or (other.is_dir() and other in real.parents):
            raise UsageError("output is, or lies in, one of the inputs", file=path, found=other)
        if real in other.parents:
            raise UsageError("output would replace one of the inputs", file=path, found=other)


@contextmanager
def locked(path: Path, flags: int) -> Iterator[int]:
    """Open ``path`` and hold an exclusive lock on it; yields the descriptor.

    Raises:
        LockedError: another run holds it.
    """
    while True:
        with os_errors(path):
            try:
                fd = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
            except FileNotFoundError:
                if not path.parent.is_dir():
                    raise
                # It was there a moment ago: another run has just renamed it into place.
                raise LockedError("another run is writing here", file=path) from None
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise LockedError("another run is writing here", file=path) from None
            # Another run may have renamed it into place between open and lock.
            try:
                same = os.path.samestat(os.lstat(path), os.fstat(fd))
            except FileNotFoundError:
                same = False
            if same:
                yield fd
                return
        finally:
            os.close(fd)


@contextmanager
def staged_file(path: Path, *, force: bool) -> Iterator[int]:
    """Build the file ``path`` in a temporary sibling; yields its descriptor.

    On success the sibling is synced and renamed over ``path``; on any error it
    is removed and ``path`` is as it was.
    """
    check_output(path, force=force)
    if path.is_dir() and not path.is_symlink():
        raise UsageError("output is a directory, but shall become a file", file=path)
    temp = temp_sibling(path)
    if temp.is_dir() and not temp.is_symlink():  # left by a killed run
        with locked(temp, os.O_RDONLY | os.O_DIRECTORY):
            remove(temp)
    with locked(temp, os.O_RDWR | os.O_CREAT) as fd:
        try:
            with os_errors(path):
                os.ftruncate(fd, 0)
            yield fd
            with os_errors(path):
                os.fsync(fd)
                check_output(path, force=force)
                os.rename(temp, path)
        except BaseException:
            temp.unlink(missing_ok=True)
            raise
        with os_errors(path):
            sync(path.parent)


@contextmanager
def staged_directory(path: Path, *, force: bool) -> Iterator[Path]:
    """Build the directory ``path`` in a temporary sibling; yields the sibling.

    On success all of it is synced and it takes the place of ``path`` in one
    rename (an exchange where ``path`` exists, atomic where the system has one);
    on any error it is removed and ``path`` is as it was.
    """
    check_output(path, force=force)
    temp = temp_sibling(path)
    if os.path.lexists(temp) and (temp.is_symlink() or not temp.is_dir()):  # left by a killed run
        with locked(temp, os.O_RDWR):
            remove(temp)
    with os_errors(path):
        temp.mkdir(exist_ok=True)
    with locked(temp, os.O_RDONLY | os.O_DIRECTORY):
        try:
            with os_errors(path):
                for left in temp.iterdir():  # of a run that was killed
                    remove(left)
            yield temp
            with os_errors(path):
                for directory, _, names in os.walk(temp):
                    for name in names:
                        sync(Path(directory, name))
                    sync(Path(directory))
                check_output(path, force=force)
                publish(temp, path)
        except BaseException:
            shutil.rmtree(temp, ignore_errors=True)
            raise
        with os_errors(path):
            if os.path.lexists(temp):
                remove(temp)
            sync(path.parent)


def publish(temp: Path, path: Path) -> None:
    """Give ``temp`` the name ``path``; what had it before is then called ``temp``."""
    if not os.path.lexists(path):
        os.rename(temp, path)
    elif path.is_dir() and not path.is_symlink():
        with locked(path, os.O_RDONLY | os.O_DIRECTORY):  # not while it is updated in place
            _exchange(temp, path)
    else:
        _exchange(temp, path)


def remove(path: Path) -> None:
    """Remove a file, a link, or a directory with everything in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _exchange(a: Path, b: Path) -> None:
    """Swap two names atomically; where the system cannot, rename one after the other."""
    rename2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename2 is not None:
        args = (_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _RENAME_EXCHANGE)
        if rename2(*args) == 0:
            return
        if ctypes.get_errno() not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), os.fspath(b))
    aside = b.parent / f".{b.name}.aside{TEMP_SUFFIX}"
    os.rename(b, aside)
    try:
        os.rename(a, b)
    except BaseException:
        os.rename(aside, b)
        raise
    os.rename(aside, a)


def sync(path: Path) -> None:
    """Flush a file or a directory to the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_at(path: Path, offset: int, data: Any) -> None:
    """Write all of ``data`` at ``offset`` of the existing file ``path``."""
    view = memoryview(data).cast("B")
    with os_errors(path):
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            done = 0
            while done < len(view):
                done += os.pwrite(fd, view[done:], offset + done)
        finally:
            os.close(fd)


def clone(source: InputFile, path: Path) -> bool:
    """Let the existing file ``path`` share the blocks of ``source``, where the system can.

    Only a true clone is asked for: a copy would read what has been read already.

    Raises:
        UnavailableError: ``source`` changed since it was pinned.
    """
    with ExitStack() as stack:
        with os_errors(source.path):
            a = source.open()
            stack.callback(os.close, a)
        with os_errors(path):
            b = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            stack.callback(os.close, b)
        try:
            fcntl.ioctl(b, _FICLONE, a)
        except OSError:
            return False
    return True


def create(path: Path, size: int) -> None:
    """Create ``path`` with ``size`` zero bytes, and the directories above it."""
    with os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            os.ftruncate(fd, size)
        finally:
            os.close(fd)
