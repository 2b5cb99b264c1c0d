"""Patches that were made elsewhere, as a version of a store.

Enters: patches as files, what they lead to. Leaves: objects and a new pointer. For writers
that have no run directory, and keep nothing like what `ship` keeps.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sparsediff.errors import UnavailableError
from sparsediff.make import MakeResult
from sparsediff.shipping.catalog import Catalog
from sparsediff.shipping.fetch import digest_file
from sparsediff.shipping.pointer import publish_version
from sparsediff.shipping.policy import unique_name
from sparsediff.shipping.records import Run, StoredPatch, Version, object_key
from sparsediff.stats import stats_of_result
from sparsediff.stores import Store


@dataclass(frozen=True, slots=True)
class Made:
    """A patch that leads to a new version.

    Attributes:
        base: version that it starts from; None for an anchor.
        path: of the file.
        result: of making it.
    """

    base: int | None
    path: Path
    result: MakeResult


def put_version(
    store: Store,
    before: Catalog | None,
    made: Sequence[Made],
    name: str,
    number: int | None,
    run: Run,
) -> Catalog:
    """Publish a version.

    Args:
        store: where to.
        before: its catalog, as it was when the patches were made; None if it held nothing.
        made: its patches, that from the version before first.
        name: of the checkpoint; the version's too, if it is new to the store.
        number: of the checkpoint, in its name.
        run: to bind the store to, if it is bound to none.

    Returns:
        The catalog afterwards.

    Raises:
        UnavailableError: the store is out of reach, or another writer was faster.
    """
    version = 1 if before is None else before.latest.version + 1
    name = unique_name(name, number, version, before)
    patches = []
    for patch in made:
        sha256 = digest_file(patch.path)
        key = object_key(version, name, patch.base, sha256)
        store.put(key, patch.path)
        patches.append(StoredPatch(patch.base, key, patch.result.patch_bytes, sha256))
    stats = stats_of_result(made[0].result)
    record = Version(
        version=version,
        name=name,
        number=number,
        source=patches[0].sha256[:32],
        shipped=float(int(time.time())),
        n_bytes=stats.target_bytes,
        n_elements=stats.total.n_elements,
        n_changed=None if made[0].base is None else stats.total.n_changed,
        patches=tuple(patches),
    )
    after = publish_version(store, before, record, run)
    if after is None:
        raise UnavailableError("another writer was faster; try again", file=store.name)
    return after
