"""A store that counts what is asked of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from sparsediff.stores import Store, Stored
from sparsediff.stores.store import Found


class Counting:
    """Hands everything on.

    Attributes:
        calls: how often each operation was called.
        bytes: what each of them moved, of contents.
    """

    def __init__(self, store: Store) -> None:
        self.name, self.trust, self.signer = store.name, store.trust, store.signer
        self._store = store
        self.reset()

    def reset(self) -> None:
        """Begin to count anew."""
        self.calls: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()

    def _count(self, name: str, n_bytes: int = 0) -> None:
        self.calls[name] += 1
        self.bytes[name] += n_bytes

    def get(self, key: str, known: Found | None = None) -> Found | None:
        found = self._store.get(key, known)
        self._count("get", 0 if found is None or found is known else len(found[0]))
        return found

    def tag(self, key: str) -> str | None:
        self._count("tag")
        return self._store.tag(key)

    def size(self, key: str) -> int | None:
        self._count("size")
        return self._store.size(key)

    def read(self, key: str, offset: int, n_bytes: int) -> bytes:
        self._count("read", n_bytes)
        return self._store.read(key, offset, n_bytes)

    def put(self, key: str, path: Path) -> None:
        self._count("put", path.stat().st_size)
        self._store.put(key, path)

    def swap(self, key: str, data: bytes, expected: str | None) -> bool:
        self._count("swap", len(data))
        return self._store.swap(key, data, expected)

    def list(self, prefix: str) -> Iterator[Stored]:
        self._count("list")
        return self._store.list(prefix)

    def delete(self, key: str) -> None:
        self._count("delete")
        self._store.delete(key)

    def leftovers(self) -> Iterator[Stored]:
        self._count("leftovers")
        return self._store.leftovers()
