"""Temporary files and directories that are surely our own.

Enters: names from `names.temp_sibling`, which anybody can guess. Leaves: a file or a
directory of that name, made anew and locked. What a killed run left there goes first; what
anybody else put there is neither written nor removed, but refused. Or, of scratch
directories, no name enters: they lie where temporary files go, each locked while it is used,
and whoever makes one removes those that nobody holds any more.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from sparsediff.disk.locks import lock, until_free, waiting
from sparsediff.disk.names import is_temp, temp_sibling
from sparsediff.errors import LockedError, SparsediffError, UsageError, os_errors

_SCRATCH = ".sparsediff-"  # begins the names of scratch directories
_PATIENCE = 10.0  # seconds for who looks whether a new one is left over


@contextmanager
def temp_file(path: Path, mode: int = 0o666) -> Iterator[int]:
    """Make the temporary file ``path`` and lock it; yields its descriptor.

    Whoever asked for it renames or removes it.

    Args:
        path: its name.
        mode: its permissions, before the umask.

    Raises:
        UsageError: something that is not ours has this name.
        LockedError: another run holds it.
    """

    def acquire() -> int:
        clear(path)
        with _cleared_if_interrupted(path):
            return lock(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)

    fd = until_free(acquire)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def temp_directory(path: Path, mode: int = 0o777) -> Iterator[None]:
    """Make the temporary directory ``path`` and lock it; see `temp_file`."""

    def acquire() -> int:
        clear(path)
        with _cleared_if_interrupted(path):
            with os_errors(path):
                try:
                    path.mkdir(mode)
                except FileExistsError:
                    raise LockedError("another run is writing here", file=path) from None
            try:
                return lock(path, os.O_RDONLY | os.O_DIRECTORY)
            except LockedError:
                raise
            except SparsediffError:
                with suppress(OSError):
                    path.rmdir()
                raise

    fd = until_free(acquire)
    try:
        yield
    finally:
        os.close(fd)


@contextmanager
def scratch_directory() -> Iterator[Path]:
    """Make a directory where temporary files go, for this user only; yields its path.

    It is removed in the end, or if the process is killed, by the next that calls this here. What
    cannot be removed is left without a word: whatever it was for has been done by then.

    Raises:
        UnavailableError: it cannot be made, or not be locked.
    """
    import tempfile  # takes long

    with os_errors("temporary directory"):
        home = Path(tempfile.gettempdir())
    _clear_scratch(home)
    path = temp_sibling(home / f"{_SCRATCH[1:]}{os.urandom(8).hex()}")
    with ExitStack() as stack:
        with waiting(_PATIENCE, lambda _: None):
            stack.enter_context(temp_directory(path, 0o700))
        try:
            yield path
        finally:
            with suppress(OSError):
                remove(path)


def _clear_scratch(home: Path) -> None:
    """Remove the scratch directories in ``home`` that nobody holds; not those of other users."""
    try:
        names = os.listdir(home)
    except OSError:  # one may be allowed to make files there, but not to list them
        return
    for name in names:
        if name.startswith(_SCRATCH) and is_temp(name):
            with suppress(SparsediffError):
                clear(home / name)


@contextmanager
def _cleared_if_interrupted(path: Path) -> Iterator[None]:
    """Remove what was made at ``path`` if it cannot be handed to anybody any more."""
    try:
        yield
    except KeyboardInterrupt:
        with suppress(SparsediffError):
            clear(path)
        raise


def clear(path: Path) -> None:
    """Remove what a killed run left under a temporary name, if anything.

    Raises:
        UsageError: it is not ours.
        LockedError: a run is still at work on it.
    """
    with os_errors(path):
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            return
        _check_ours(path, status)
        if stat.S_ISLNK(status.st_mode):  # had the place of an output that was replaced
            path.unlink()
            return
        directory = stat.S_ISDIR(status.st_mode)
        fd = lock(path, os.O_RDONLY | os.O_DIRECTORY if directory else os.O_RDWR | os.O_NONBLOCK)
        try:
            _check_ours(path, os.fstat(fd))
            remove(path)
        finally:
            os.close(fd)


def clear_parts(temp: Path) -> None:
    """Remove what killed runs left beside ``temp`` of what whoever holds its lock owns, too.

    Raises:
        UsageError: something is not ours.
    """
    with os_errors(temp.parent):
        for name in os.listdir(temp.parent):
            if name.startswith(f"{temp.name}.") and is_temp(name):
                clear(temp.parent / name)


def _check_ours(path: Path, status: os.stat_result) -> None:
    """Raise UsageError unless we made what has this status."""
    if not any(kind(status.st_mode) for kind in (stat.S_ISREG, stat.S_ISDIR, stat.S_ISLNK)):
        found = "neither a file nor a directory"
    elif stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
        found = f"a file with {status.st_nlink} names"
    elif status.st_uid != os.geteuid() and status.st_uid != _own_uid(path.parent):
        found = f"owner {status.st_uid}"
    else:
        return
    raise UsageError(
        "has the name of a temporary file of ours, but we did not make it; remove it",
        file=path,
        found=found,
    )


def _own_uid(directory: Path) -> int:
    """Owner of the files we make there: file servers may map all users to one."""
    import tempfile

    with tempfile.TemporaryFile(dir=directory) as probe:
        return os.fstat(probe.fileno()).st_uid


def remove(path: Path) -> None:
    """Remove a file, a link, or a directory with everything in it, even if interrupted once."""
    try:
        _remove(path)
    except KeyboardInterrupt:
        with suppress(FileNotFoundError):
            _remove(path)
        raise


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        try:
            path.rmdir()
        except OSError:  # not empty
            import shutil  # takes long; who fills a directory loads it before

            shutil.rmtree(path)
    else:
        path.unlink()


def discard(path: Path) -> None:
    """Remove a file or a directory if it is there."""
    if os.path.lexists(path):
        with os_errors(path):
            remove(path)
