"""Locks that keep two runs apart.

Enters: the path of what only one run at a time may touch. Leaves: its descriptor,
locked until the run lets go of it or ends, however it ends. Who finds it locked is
told so at once, or waits as long as `waiting` allows.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from sparsediff.errors import LockedError, from_os_error, os_errors

_POLL = 0.05  # seconds; flock itself cannot wait for a while only
_IN_USE = "another run is writing here"

Tell = Callable[[LockedError], None]

_patience: ContextVar[tuple[float, Tell, Callable[[], bool]]] = ContextVar(
    "_patience", default=(0.0, lambda _: None, lambda: False)
)


@contextmanager
def waiting(
    seconds: float, tell: Tell, ended: Callable[[], bool] = lambda: False
) -> Iterator[None]:
    """Let all locks taken in this context be waited for.

    Args:
        seconds: how long, for each lock; then a LockedError is raised as usual.
        tell: called when waiting begins, with the error that would have been raised.
        ended: asked again and again; once it says so, the error is raised.
    """
    token = _patience.set((seconds, tell, ended))
    try:
        yield
    finally:
        _patience.reset(token)


def until_free(acquire: Callable[[], int]) -> int:
    """The descriptor that ``acquire`` returns, tried again while it raises LockedError.

    Raises:
        LockedError: the time of `waiting` is over, or it has ended.
    """
    seconds, tell, ended = _patience.get()
    end: float | None = None
    while True:
        try:
            return acquire()
        except LockedError as e:
            if end is None:
                end = time.monotonic() + seconds
                if seconds > 0:
                    tell(e)
            if time.monotonic() >= end or ended():
                raise
        time.sleep(_POLL)


@contextmanager
def locked(path: Path, flags: int) -> Iterator[int]:
    """Open ``path`` and hold an exclusive lock on it; yields the descriptor.

    Raises:
        LockedError: another run holds it.
    """
    fd = until_free(lambda: lock(path, flags))
    try:
        yield fd
    finally:
        os.close(fd)


def lock(path: Path, flags: int, mode: int = 0o666) -> int:
    """Open ``path``, never through a link, and lock it; returns the descriptor.

    Raises:
        LockedError: another run holds it, or with ``os.O_EXCL`` has just made it.
    """
    while True:
        with os_errors(path):
            try:
                fd = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
            except FileExistsError:
                raise LockedError(_IN_USE, file=path) from None
            except FileNotFoundError:
                if not path.parent.is_dir():
                    raise
                # It was there a moment ago: another run has just renamed it into place.
                raise LockedError(_IN_USE, file=path) from None
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise LockedError(_IN_USE, file=path) from None
            except OSError as e:  # there are file systems that have no locks
                if flags & os.O_EXCL:  # it was made just now
                    os.unlink(path)
                raise from_os_error(e, path) from e
            # Another run may have renamed it into place between open and lock.
            if _is_at(fd, path):
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _is_at(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.lstat(path), os.fstat(fd))
    except FileNotFoundError:
        return False
