"""All objects of a store: which belong to it, and those that go.

Enters: a catalog and its store. Leaves: keys, those that only a list names included; and a
store without objects that were dropped long enough ago.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TypeVar

from sparsediff.errors import CorruptError
from sparsediff.parallel import ordered_map
from sparsediff.shipping import fields
from sparsediff.shipping.catalog import PREFIX, Catalog, Dropped
from sparsediff.shipping.catalog_json import stored_key
from sparsediff.shipping.fields import FieldError
from sparsediff.shipping.parts import listed_parts, parts_of
from sparsediff.shipping.records import LIST, Part, StoredPatch, part_prefix
from sparsediff.shipping.sealing import LIST_FORMAT
from sparsediff.shipping.small import get_small
from sparsediff.stores import Store

R = TypeVar("R")

_BATCH = 16  # not more: who is interrupted waits for so many


def patches_of(store: Store, catalog: Catalog) -> dict[str, StoredPatch]:
    """What versions say of each object that holds a patch, or a list of its parts, by key.

    Raises:
        CorruptError: they contradict each other. What is read of an object for each thing that
            is said of it would have no bound, and no writer gives two contents one key.
    """
    found: dict[str, StoredPatch] = {}
    for version in catalog.versions:
        for patch in version.patches:
            if found.setdefault(patch.key, patch).stated != patch.stated:
                raise CorruptError(
                    "versions say different things of this object", file=f"{store.name}/{patch.key}"
                )
    return found


def keys_of(store: Store, catalog: Catalog) -> set[str]:
    """Keys of all objects that belong to a store, the pointer aside."""
    keys = catalog.keys()
    for patch in patches_of(store, catalog).values():
        with suppress(CorruptError):  # `check` says that it is broken
            keys |= {part.key for part in parts_of(store, patch)}
    for key in _named(store, catalog.dropped):
        keys |= {key, *(part.key for part in _parts(store, key))}
    return keys


def over(store: Store, due: Collection[Dropped], catalog: Catalog) -> list[str]:
    """Keys of what can be deleted: dropped objects, what they list, and then the lists.

    Args:
        store: that they are in.
        due: dropped objects, the time of grace of which is over.
        catalog: of what stays, which may have come to use some of them again.
    """
    if not due:
        return []
    keys = _named(store, due)
    parts = {part.key: key for key in keys for part in _parts(store, key)}
    lists = [d.key for d in due if d.list_bytes is not None]
    used = replace(catalog, dropped=()).keys()  # a version stored anew has the key that was dropped
    touched = {key.rpartition("/")[0] + "/" for key in parts}
    for version in catalog.versions if touched else ():
        if part_prefix(version.version) in touched:
            for patch in {p.key: p for p in version.patches}.values():  # each list once
                if patch.list_bytes is not None:
                    with suppress(CorruptError):
                        used |= {part.key for part in parts_of(store, patch)}
    return [key for key in dict.fromkeys([*parts, *keys, *lists]) if key not in used]


def delete(store: Store, keys: Sequence[str], streams: int) -> None:
    """Delete objects, lists of others last: until then they tell what is left to delete."""
    last = [k for k in keys if k.endswith(LIST) or k.startswith(f"{PREFIX}pages/")]
    ends = set(last)
    for some in ([k for k in keys if k not in ends], last):
        for _ in of_each(store.delete, some, streams):
            pass


def of_each(call: Callable[[str], R], keys: Sequence[str], streams: int) -> Iterator[R]:
    """``call(key)`` for each key, in order, ``streams`` at a time.

    Of very many keys a thread is handed several at once: with a directory, to hand them over
    one by one takes as long as the calls.
    """
    n = max(1, min(_BATCH, len(keys) // (4 * streams)))
    batches = [keys[i : i + n] for i in range(0, len(keys), n)]
    for found in ordered_map(lambda batch: [call(key) for key in batch], batches, streams):
        yield from found


def _parts(store: Store, key: str) -> tuple[Part, ...]:
    return listed_parts(store, key) if key.endswith(LIST) else ()


def _named(store: Store, dropped: Iterable[Dropped]) -> list[str]:
    """Keys of dropped objects, with those that only a list names."""
    keys = []
    for d in {d.key: d for d in dropped}.values():  # each list once
        if d.list_bytes is None or d.sha256 is None:
            keys.append(d.key)
            continue
        with suppress(CorruptError, FieldError):  # what it named is orphans then
            row = fields.Row(fields.parsed(get_small(store, d.key, d.list_bytes, d.sha256)))
            if row.get("format", fields.any_text) == LIST_FORMAT:
                keys += row.get("keys", fields.listed(stored_key))
    return keys
