"""Small objects of a store that never change, as bytes: pages and lists.

Enters: bytes and a key that holds their digest. Leaves: an object, or the bytes of one, of
the size and the SHA-256 that were stated.
"""

from __future__ import annotations

import json

from sparsediff.checksum import digest
from sparsediff.disk.temps import scratch_directory
from sparsediff.errors import CorruptError, os_errors
from sparsediff.stores import Store
from sparsediff.stores.store import check_small


def put_small(store: Store, key: str, data: bytes) -> None:
    """Store bytes; whatever was there under the key is replaced."""
    with scratch_directory() as room:
        path = room / "small"
        with os_errors(path):
            path.write_bytes(data)
        store.put(key, path)


def get_small(store: Store, key: str, n_bytes: int, sha256: str) -> bytes:
    """The bytes of an object.

    Raises:
        CorruptError: it is missing, too large, or not what was stated.
    """
    file = f"{store.name}/{key}"
    check_small(file, n_bytes)
    data = store.read(key, 0, n_bytes)
    if digest(data) != sha256:
        raise CorruptError("object does not match its SHA-256", file=file, expected=sha256[:16])
    return data


def to_lines(document: dict[str, object]) -> bytes:
    """JSON with each field, and each item of an array, on a line of its own."""
    lines = []
    for name, value in document.items():
        if isinstance(value, list) and value:
            text = "[\n  " + ",\n  ".join(map(json.dumps, value)) + "\n ]"
        else:
            text = json.dumps(value)
        lines.append(f" {json.dumps(name)}: {text}")
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()
