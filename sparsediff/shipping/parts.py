"""Patches of several objects: parts that different machines put, and a list that joins them.

Enters: files, each a piece of one patch. Leaves: objects, and a list of them, which is what
a version refers to; and from that, which bytes of the patch lie in which object. A patch is
its parts one after the other, byte for byte; one that is a single object is its only part.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from sparsediff.checksum import digest, digest_rest
from sparsediff.disk.inputs import InputFile
from sparsediff.errors import CorruptError, os_errors
from sparsediff.shipping import fields
from sparsediff.shipping.fields import FieldError
from sparsediff.shipping.records import LIST, Part, StoredPatch, object_key, part_key
from sparsediff.shipping.small import get_small, put_small, to_lines
from sparsediff.stores import Store
from sparsediff.stores.store import MAX_SMALL_BYTES

_FORMAT = "sparsediff-parts"
_part_key = fields.matching(r"versions/[0-9]{6,19}-parts/[0-9a-f]{32}", "the key of a part")


def put_part(store: Store, version: int, path: Path) -> Part:
    """Store a piece of a patch; if it is there already, nothing is sent.

    Machines may do this at the same time. A part that no version refers to in the end is an
    orphan, which ``check --repair`` deletes after a day.

    Args:
        store: where to.
        version: number of the version that the patch will lead to.
        path: file that holds the piece.

    Returns:
        What `join_parts` needs of it, on whichever machine.

    Raises:
        UnavailableError: the store is full or out of reach, or the file changes.
    """
    n_bytes = InputFile.of(path).size
    with os_errors(path), open(path, "rb") as file:
        sha256 = digest_rest(file)
    part = Part(part_key(version, sha256), n_bytes, sha256)
    if store.size(part.key) != n_bytes:
        store.put(part.key, path)
    return part


def join_parts(
    store: Store, version: int, name: str, base: int | None, parts: Sequence[Part]
) -> StoredPatch:
    """Store the list that makes parts one patch, to be published with `publish_version`.

    Args:
        store: that holds the parts.
        version: number of the version that the patch leads to.
        name: of that version.
        base: that the patch starts from; None for an anchor.
        parts: in order, that of header and manifest first.
    """
    data = dump_list(parts)
    sha256 = digest(data)
    key = object_key(version, name, base, sha256, LIST)
    put_small(store, key, data)
    return StoredPatch(base, key, sum(p.n_bytes for p in parts), sha256, len(data))


def parts_of(store: Store, patch: StoredPatch) -> tuple[Part, ...]:
    """The objects that hold a patch, in order.

    Raises:
        CorruptError: the list of them is missing or damaged.
        UnavailableError: the store is out of reach.
    """
    if patch.list_bytes is None:
        return (Part(patch.key, patch.n_bytes, patch.sha256),)
    return read_list(store, patch)[0]


def read_list(store: Store, patch: StoredPatch) -> tuple[tuple[Part, ...], bytes]:
    """The parts of a patch that has a list of them, and the list as it is; see `parts_of`."""
    assert patch.list_bytes is not None
    data = get_small(store, patch.key, patch.list_bytes, patch.sha256)
    parts = parse_list(data)
    if parts is None or sum(p.n_bytes for p in parts) != patch.n_bytes:
        raise CorruptError(
            "not the list of the parts of this patch", file=f"{store.name}/{patch.key}"
        )
    return parts, data


def listed_parts(store: Store, key: str) -> tuple[Part, ...]:
    """The parts in a list of which only the key is known; none if it is gone or damaged."""
    n_bytes = store.size(key)
    if n_bytes is None or n_bytes > MAX_SMALL_BYTES:
        return ()
    data = store.read(key, 0, n_bytes)
    return (parse_list(data) or ()) if key.endswith(f"-{digest(data)[:16]}{LIST}") else ()


def read_parts(store: Store, parts: Iterable[Part], offset: int, n_bytes: int) -> bytes:
    """Bytes of a patch, by its parts.

    Raises:
        CorruptError: an object is missing, or shorter.
    """
    pieces = []
    for part in parts:
        start, stop = max(offset, 0), min(offset + n_bytes, part.n_bytes)
        if start < stop:
            pieces.append(store.read(part.key, start, stop - start))
        offset -= part.n_bytes
    return b"".join(pieces)


def dump_list(parts: Iterable[Part]) -> bytes:
    """The JSON of a list of parts."""
    return to_lines({"format": _FORMAT, "parts": [p._asdict() for p in parts]})


def parse_list(data: bytes) -> tuple[Part, ...] | None:
    """The parts in a list; None if it is no such list."""
    try:
        row = fields.Row(fields.parsed(data))
        if row.get("format", fields.any_text) != _FORMAT:
            return None
        return tuple(row.get("parts", fields.listed(_part)))
    except FieldError:
        return None


def _part(value: object) -> Part:
    row = fields.Row(value)
    return Part(
        row.get("key", _part_key),
        row.get("n_bytes", fields.count),
        row.get("sha256", fields.sha256),
    )
