"""One policy for what may pass: try again, later and later.

Enters: a store. Leaves: the same store, of which UnavailableError comes only
after some retries, and which reads again only what changed. Nothing else is
retried: a missing object, a refused permission or a lost race stays what it is.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from sparsediff.errors import UnavailableError
from sparsediff.parallel import check_wanted
from sparsediff.stores.store import Found, Store, Stored

FIRST_DELAY = 0.2  # seconds
LONGEST_DELAY = 10.0
_REMEMBERED = 256  # small objects that may have changed since they were read, such as the pointer

R = TypeVar("R")


def retried(call: Callable[[], R], retries: int) -> R:
    """Result of ``call``, called up to ``retries`` more times while it is unavailable."""
    for attempt in range(retries):
        try:
            return call()
        except UnavailableError:
            delay = min(LONGEST_DELAY, FIRST_DELAY * 2**attempt)
            # Jitter: those who failed together should not come back together.
            time.sleep(delay * (1 - os.urandom(1)[0] / 512))
            check_wanted()
    return call()


class Retrying:
    """A store whose operations are `retried`.

    Args:
        store: the one that does the work.
        retries: how often at most.
        uploads: False if ``store`` retries the parts of an upload by itself, which
            beats starting over.
    """

    def __init__(self, store: Store, retries: int, *, uploads: bool = True) -> None:
        self.name, self.trust, self.signer = store.name, store.trust, store.signer
        self._store = store
        self._known: dict[str, Found] = {}  # what `get` returned last
        self._lock = threading.Lock()
        self._retries = retries
        self._upload_retries = retries if uploads else 0

    def get(self, key: str, known: Found | None = None) -> Found | None:
        """See `Store`; what was returned last is known by itself."""
        known = known or self._known.get(key)
        found = retried(lambda: self._store.get(key, known), self._retries)
        with self._lock:
            self._known.pop(key, None)
            if found is not None:
                self._known[key] = found
            if len(self._known) > _REMEMBERED:
                del self._known[next(iter(self._known))]
        return found

    def tag(self, key: str) -> str | None:
        """See `Store`."""
        return retried(lambda: self._store.tag(key), self._retries)

    def size(self, key: str) -> int | None:
        """See `Store`."""
        return retried(lambda: self._store.size(key), self._retries)

    def read(self, key: str, offset: int, n_bytes: int) -> bytes:
        """See `Store`."""
        return retried(lambda: self._store.read(key, offset, n_bytes), self._retries)

    def put(self, key: str, path: Path) -> None:
        """See `Store`."""
        retried(lambda: self._store.put(key, path), self._upload_retries)

    def swap(self, key: str, data: bytes, expected: str | None) -> bool:
        """See `Store`."""

        def attempt() -> bool:
            # What was refused may be there: an attempt whose answer never came, or the same
            # request, which arrived twice, had written it.
            try:
                swapped = self._store.swap(key, data, expected)
            except UnavailableError:
                if self._holds(key, data):
                    return True
                raise
            return swapped or self._holds(key, data)

        return retried(attempt, self._retries)

    def _holds(self, key: str, data: bytes) -> bool:
        found = self._store.get(key)
        return found is not None and found[0] == data

    def list(self, prefix: str) -> Iterator[Stored]:
        """See `Store`."""
        # All of it at once, or a retry in the middle would repeat objects.
        return iter(retried(lambda: _by_key(self._store.list(prefix)), self._retries))

    def delete(self, key: str) -> None:
        """See `Store`."""
        retried(lambda: self._store.delete(key), self._retries)

    def leftovers(self) -> Iterator[Stored]:
        """See `Store`."""
        return iter(retried(lambda: _by_key(self._store.leftovers()), self._retries))


def _by_key(objects: Iterator[Stored]) -> list[Stored]:
    return sorted(objects, key=lambda o: o.key)
