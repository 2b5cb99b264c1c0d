"""Run a function over many inputs on a few threads, results in input order.

Enters: a function and an iterator of arguments. Leaves: an iterator of
results. At most ``jobs`` + 1 calls run or have results waiting, so memory stays
bounded; on an error or an interrupt nothing new starts and all threads end, those that
`check_wanted` at once.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sized
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import Future

A = TypeVar("A")
R = TypeVar("R")
T = TypeVar("T")

Progress = Callable[[int, int], None]
"""Told, while a call works, how much is done and how much there is in total, in bytes."""

_SMALL = 1 << 20  # bytes
_here = threading.local()  # ``ending``: of the map this thread works for


class UnwantedError(Exception):
    """Ends a call whose result nobody waits for any more; nobody sees it."""


def check_wanted() -> None:
    """For long calls: raise UnwantedError if the map that made this one is ending."""
    ending = getattr(_here, "ending", None)
    if ending is not None and ending.is_set():
        raise UnwantedError


def default_jobs() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads(jobs: int | None, n_bytes: int | None = None) -> int:
    """How many threads work, and all loaded that several need: call it before anything is begun.

    Args:
        jobs: what was asked for; default all processors.
        n_bytes: how much there is to do, if it is known: what is done before other threads
            have started needs none of them by default.
    """
    if jobs is None:
        small = n_bytes is not None and n_bytes <= _SMALL
        jobs = 1 if small else default_jobs()
    if jobs > 1:
        import concurrent.futures.thread  # noqa: F401 - with logging, which takes long
    return jobs


class Budget:
    """Memory that calls on several threads hold at a time, together."""

    def __init__(self, total: int) -> None:
        """Have ``total`` bytes, all of them free."""
        self._total = self._free = total
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, n_bytes: int) -> Iterator[None]:
        """Wait until so many bytes are free, and hold them; more than there are: all of them.

        A thread that holds some asks for no more, or two might wait for each other.
        """
        taken = min(n_bytes, self._total)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= taken)
            self._free -= taken
        try:
            yield
        finally:
            with self._changed:
                self._free += taken
                self._changed.notify_all()


@contextmanager
def per_thread(made: Callable[[], AbstractContextManager[T]]) -> Iterator[Callable[[], T]]:
    """What each thread that asks for it has one of; all end with this, when no thread uses them."""
    own = threading.local()
    with ExitStack() as stack:

        def mine() -> T:
            if not hasattr(own, "made"):
                own.made = stack.enter_context(made())
            found: T = own.made
            return found

        yield mine


def ordered_map(
    function: Callable[[A], R], arguments: Iterable[A], jobs: int
) -> Generator[R, None, None]:
    """Yield ``function(a)`` for each ``a``, in order, ``jobs`` at a time."""
    if jobs <= 1 or (isinstance(arguments, Sized) and len(arguments) <= 1):
        yield from map(function, arguments)
        return
    from concurrent.futures import ThreadPoolExecutor  # see `threads`

    waiting: deque[Future[R]] = deque()
    ending = threading.Event()
    with ThreadPoolExecutor(jobs, initializer=setattr, initargs=(_here, "ending", ending)) as pool:
        try:
            for argument in arguments:
                waiting.append(pool.submit(function, argument))
                if len(waiting) > jobs:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            ending.set()
            for future in waiting:
                future.cancel()
