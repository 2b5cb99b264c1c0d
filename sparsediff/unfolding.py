"""Bytes that unfold to very many objects: Python's search for garbage waits meanwhile.

Enters and leaves: nothing. Each time some hundred lists or dictionaries more have been made,
Python looks through them and the older ones for cycles that nobody refers to. While a file is
unfolded all of them are referred to: the search finds nothing, and takes most of the time.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_n_inside = 0
_was_on = False


@contextmanager
def uncollected() -> Iterator[None]:
    """Make objects without that search; as a decorator, for as long as a function runs.

    It is of the whole process: it waits until no thread is in here any more.
    """
    global _n_inside, _was_on
    with _lock:
        if _n_inside == 0:
            _was_on = gc.isenabled()
            gc.disable()
        _n_inside += 1
    try:
        yield
    finally:
        with _lock:
            _n_inside -= 1
            if _n_inside == 0 and _was_on:
                gc.enable()
