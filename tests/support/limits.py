"""Less of what the system gives a process."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def limited(what: int, n: int) -> Iterator[None]:
    """Have no more than this inside, as ``RLIMIT_NOFILE`` descriptors."""
    before = resource.getrlimit(what)
    resource.setrlimit(what, (n, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(what, before)
