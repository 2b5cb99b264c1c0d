"""A pointer that was lost or damaged, made anew from the objects it pointed to.

Enters: a store whose keys say which version a patch leads to and where it
starts, and whose patches say of themselves what they are of. Leaves: a
`Catalog` of all that are whole. It begins another history, so everybody who
pulls starts from an anchor once: nothing says any more whether what he holds
belongs to this one.
"""

from __future__ import annotations

import re
import tempfile
import time
import uuid
from dataclasses import replace

from sparsediff.errors import CorruptError
from sparsediff.shipping import entries
from sparsediff.shipping.catalog import LAYOUT, PREFIX, Catalog, StoredPatch, Version
from sparsediff.shipping.catalog_json import POINTER
from sparsediff.shipping.fetch import digest_object
from sparsediff.shipping.parts import listed_parts
from sparsediff.shipping.records import LIST
from sparsediff.shipping.sealing import PAGES
from sparsediff.stats import patch_stats
from sparsediff.stores import Store, Stored

_KEY = re.compile(
    re.escape(PREFIX) + r"([0-9]{6,12})-([^/]*)/(?:anchor|from-([0-9]{6,12}))"
    r"-([0-9a-f]{16})(\.sdiff|\.parts\.json)"
)
_LAYOUT_2 = re.compile(rb'"layout": ?2\b')


def recover(store: Store) -> tuple[Catalog, dict[str, str]]:
    """Read every patch of a store and list those that are whole.

    Returns:
        The catalog; and keys of patches that are not whole, with what is wrong.

    Raises:
        CorruptError: none is.
        UnavailableError: the store is out of reach.
    """
    versions: dict[int, Version] = {}
    damaged: dict[str, str] = {}
    pointer = store.get(POINTER)
    layout = 1 if pointer is None or not _LAYOUT_2.search(pointer[0]) else LAYOUT
    for stored in store.list(PREFIX):
        match = _KEY.fullmatch(stored.key)
        if stored.key.startswith(PAGES) or stored.key.endswith(LIST):
            layout = LAYOUT  # else the one that everybody can read
        if match is None:
            continue
        try:
            found = _version(store, stored, match)
        except CorruptError as e:
            damaged[stored.key] = e.problem  # what is left of it is an orphan
            continue
        known = versions.setdefault(found.version, found)
        # Shippers that raced may have left two checkpoints of one number; one of them counts.
        same = (known.name, known.n_bytes) == (found.name, found.n_bytes)
        if known is not found and same:
            versions[found.version] = _merged(known, found)
    if not versions:
        raise CorruptError("no patch is left from which a pointer could be made", file=store.name)
    named: dict[str, Version] = {}
    for version in versions.values():
        name = version.name
        if name in named:  # the training was taken back, or pruned: names came again
            name = f"{name}-{version.version:06}"
        named[name] = replace(version, name=name)
    ordered = sorted(named.values(), key=lambda v: v.version)
    made = Catalog(uuid.uuid4().hex, tuple(ordered), layout=layout, rewind=int(time.time()))
    return made, damaged


def _version(store: Store, stored: Stored, match: re.Match[str]) -> Version:
    """What one patch tells of the version it leads to."""
    version, name = int(match[1]), match[2]
    base = None if match[3] is None else int(match[3])
    with tempfile.TemporaryFile() as spool:
        is_list = match[5] == LIST
        sha256 = digest_object(store, stored.key, stored.n_bytes, None if is_list else spool)
        if not sha256.startswith(match[4]):
            raise CorruptError("object does not match the digest in its name", file=stored.key)
        for part in listed_parts(store, stored.key) if is_list else ():
            if digest_object(store, part.key, part.n_bytes, spool) != part.sha256:
                raise CorruptError("part does not match its SHA-256", file=part.key)
        n_bytes = spool.tell()
        spool.seek(0)
        stats = patch_stats(spool)
    list_bytes = stored.n_bytes if is_list else None
    return Version(
        version,
        name,
        entries.number_in(name),
        "",
        float(int(stored.modified)),
        stats.target_bytes,
        stats.total.n_elements,
        stats.total.n_changed if base == version - 1 else None,
        (StoredPatch(base, stored.key, n_bytes, sha256, list_bytes),),
    )


def _merged(a: Version, b: Version) -> Version:
    """Two patches that lead to the same version."""
    n_changed = b.n_changed if a.n_changed is None else a.n_changed
    patches = tuple(sorted((*a.patches, *b.patches), key=lambda p: -(p.base or 0)))
    return replace(a, n_changed=n_changed, patches=patches)
