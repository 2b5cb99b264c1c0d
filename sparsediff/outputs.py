"""Writing so that nothing is lost and nothing is half-written.

Enters: paths and bytes. Leaves: outputs that appear whole, by rename, or not at
all; locks that keep two runs apart. Never follows a link to write.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from sparsediff.errors import LockedError, UsageError, os_errors
from sparsediff.files import TEMP_SUFFIX, InputFile, temp_sibling

_RENAME_EXCHANGE = 2
_AT_FDCWD = -100
_FICLONE = 0x40049409  # Linux


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
