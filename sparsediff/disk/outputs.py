"""Outputs that appear whole, by rename, or not at all.

Enters: paths and bytes. Leaves: files and directories that are synced before anybody
sees them. Never follows a link to write.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from sparsediff.disk.attributes import keep_attributes
from sparsediff.disk.inputs import InputFile
from sparsediff.disk.locks import locked
from sparsediff.disk.names import temp_sibling
from sparsediff.disk.replace import check_output, check_replaceable
from sparsediff.disk.temps import clear, remove, temp_directory, temp_file
from sparsediff.errors import UnavailableError, UsageError, os_errors

ENTRY_BYTES = 4096  # of a disk that a file or a directory takes beside its bytes, if it has any
_RENAME_EXCHANGE = 2
_AT_FDCWD = -100
_FICLONE = 0x40049409  # Linux
_SYNC_FILE_RANGE_WRITE = 2
_BEGUN_BYTES = 1 << 16  # for less it would be as much work to ask


@contextmanager
def staged_file(
    path: Path, *, force: bool, like: Path | None = None, mode: int = 0o666
) -> Iterator[BinaryIO]:
    """Build the file ``path`` in a temporary sibling; yields it, empty and open for writing.

    On success the sibling is synced and renamed over ``path``; on any error it
    is removed and ``path`` is as it was.

    Args:
        path: the file.
        force: replace what is there.
        like: a file whose owner, permissions and extended attributes it gets; until then it
            is for nobody else. Without, it is made like any new file.
        mode: permissions of a new file, before the umask.
    """
    _check_file(path, force=force)
    temp = temp_sibling(path)
    with temp_file(temp, mode if like is None else 0o600) as fd:
        try:
            _check_file(path, force=force)  # somebody may have made it while we waited
            with os_errors(path):
                stream = os.fdopen(os.dup(fd), "wb")
            try:
                yield stream
                with os_errors(path):
                    stream.flush()
            finally:
                with suppress(OSError):  # what an error left in its buffer is nobody's any more
                    stream.close()
            with os_errors(path):
                if like is not None:
                    keep_attributes(like, fd)
                os.fsync(fd)
                _check_file(path, force=force)
                os.rename(temp, path)
        except BaseException:
            temp.unlink(missing_ok=True)
            raise
        with os_errors(path):
            sync(path.parent)


def _check_file(path: Path, *, force: bool) -> None:
    check_output(path, force=force)
    if path.is_dir() and not path.is_symlink():
        raise UsageError("output is a directory, but a file is to be written", file=path)


@contextmanager
def staged_directory(
    path: Path, *, force: bool, replaceable: Collection[str] = ()
) -> Iterator[Path]:
    """Build the directory ``path`` in a temporary sibling; yields the sibling.

    On success all of it is synced and it takes the place of ``path`` in one
    rename (an exchange where ``path`` exists, atomic where the system has one);
    on any error it is removed and ``path`` is as it was.

    Args:
        path: the directory.
        force: replace what is there: a file, or a directory that `check_replaceable` allows.
        replaceable: names of the files that such a directory may hold.
    """
    import shutil  # takes long, so not for files; and now, when nothing is begun

    _check_directory(path, force, replaceable)
    temp = temp_sibling(path)
    with temp_directory(temp):
        try:
            _check_directory(path, force, replaceable)
            yield temp
            with os_errors(path):
                for directory, _, names in os.walk(temp, onerror=_raised):
                    for name in names:
                        sync(Path(directory, name))
                    sync(Path(directory))
                _check_directory(path, force, replaceable)
                publish(temp, path)
        except BaseException:
            shutil.rmtree(temp, ignore_errors=True)
            raise
        with os_errors(path):
            sync(path.parent)


def _raised(error: OSError) -> NoReturn:
    """Of a directory that cannot be listed, what is in it would not be synced."""
    raise error


def _check_directory(path: Path, force: bool, replaceable: Collection[str]) -> None:
    check_output(path, force=force)
    if path.is_dir() and not path.is_symlink():
        check_replaceable(path, replaceable)


def publish(temp: Path, path: Path) -> None:
    """Give ``temp`` the name ``path``, and remove what had it before."""
    with ExitStack() as stack:
        if not os.path.lexists(path):
            os.rename(temp, path)
            return
        if path.is_dir() and not path.is_symlink():
            # Not while it is updated in place; and until it is removed nobody else shall do that.
            stack.enter_context(locked(path, os.O_RDONLY | os.O_DIRECTORY))
        _exchange(temp, path)
        sync(path.parent)  # else the power may fail when the old one still has its name, but gaps
        remove(temp)


def _exchange(a: Path, b: Path) -> None:
    """Swap two names atomically; where the system cannot, rename one after the other."""
    import ctypes  # takes long: see `_sync_file_range`

    rename2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename2 is not None:
        args = (_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _RENAME_EXCHANGE)
        if rename2(*args) == 0:
            return
        if ctypes.get_errno() not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), os.fspath(b))
    aside = temp_sibling(b.parent / f"{b.name}.aside")
    clear(aside)
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


@contextmanager
def written(path: Path) -> Iterator[int]:
    """Descriptor of the existing file ``path``; what goes wrong with it is told by its name."""
    with os_errors(path):
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            yield fd
        finally:
            os.close(fd)


def write_at(path: Path, offset: int, data: Any) -> None:
    """Write all of ``data`` at ``offset`` of the existing file ``path``."""
    with written(path) as fd:
        write_all(fd, offset, data)


def write_all(fd: int, offset: int, data: Any) -> None:
    """Write all of ``data`` at ``offset`` of an open file."""
    view = memoryview(data).cast("B")
    done = 0
    while done < len(view):
        done += os.pwrite(fd, view[done:], offset + done)
    if len(view) >= _BEGUN_BYTES and (begin := _sync_file_range()) is not None:
        begin(fd, offset, len(view), _SYNC_FILE_RANGE_WRITE)


@cache
def _sync_file_range() -> Any:
    """Linux's call that has the disk begin to write, so that the sync at the end waits for less.

    It promises nothing, and what goes wrong is told by that sync.
    """
    import ctypes  # takes long, and who only looks does without

    call = getattr(ctypes.CDLL(None), "sync_file_range", None)
    if call is not None:
        call.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
    return call


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


def check_room(directory: Path, n_bytes: int, n_entries: int = 1) -> None:
    """Refuse what a disk certainly has no room for, before anything is written.

    Where the system tells nothing of its size, it is taken to be large enough; quotas are found
    when they are reached.

    Args:
        directory: exists.
        n_bytes: that are going to be written below it.
        n_entries: files and directories that they are in, each of which takes a block beside.

    Raises:
        UnavailableError: there is less room.
    """
    with os_errors(directory):
        found = os.statvfs(directory)
    if found.f_files and found.f_favail < n_entries:
        raise UnavailableError(
            "too few free inodes on device for what is to be written",
            file=directory,
            expected=n_entries,
            found=found.f_favail,
        )
    n_bytes += ENTRY_BYTES * n_entries
    free = found.f_bfree * found.f_frsize  # with what is kept for root: rather too much
    if found.f_blocks and free < n_bytes:
        raise UnavailableError(
            "no space left on device for what is to be written",
            file=directory,
            expected=f"{n_bytes} bytes",
            found=f"{free} bytes",
        )


def create(path: Path, size: int) -> None:
    """Create ``path`` with ``size`` zero bytes, and the directories above it."""
    with os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            os.ftruncate(fd, size)
        finally:
            os.close(fd)
