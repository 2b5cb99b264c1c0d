"""Patches that were made elsewhere, as a version of a store.

Enters: patches as files, what they lead to. Leaves: objects and a new pointer. For writers
that have no run directory, and keep nothing like what `ship` keeps.
"""

from __future__ import annotations

import concurrent.futures.thread  # noqa: F401 - both, before anything is begun
import tempfile  # noqa: F401
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sparsediff.errors import UnavailableError
from sparsediff.make import MakeResult
from sparsediff.parallel import ordered_map
from sparsediff.shipping.catalog import Catalog
from sparsediff.shipping.fetch import digest_file
from sparsediff.shipping.parts import join_parts
from sparsediff.shipping.pointer import publish_version
from sparsediff.shipping.policy import unique_name
from sparsediff.shipping.records import Part, Run, StoredPatch, Version, object_key
from sparsediff.stores import Store

_STREAMS = 16  # requests at once, when parts are looked for


@dataclass(frozen=True, slots=True)
class Made:
    """A patch that leads to a new version.

    Attributes:
        base: version that it starts from; None for an anchor.
        content: a file; or parts that were put already, in order.
        result: of making it.
    """

    base: int | None
    content: Path | Sequence[Part]
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
        UnavailableError: the store is out of reach, or lacks a part, or another writer was
            faster.
        UnsupportedError: patches in parts are to go into a store of layout 1.
    """
    version = 1 if before is None else before.latest.version + 1
    name = unique_name(name, number, version, before)
    patches = [_stored(store, version, name, patch) for patch in made]
    result = made[0].result
    record = Version(
        version=version,
        name=name,
        number=number,
        source=patches[0].sha256[:32],
        shipped=float(int(time.time())),
        n_bytes=result.target_bytes,
        n_elements=result.n_elements,
        n_changed=None if made[0].base is None else result.n_changed,
        patches=tuple(patches),
    )
    after = publish_version(store, before, record, run)
    if after is None:
        raise UnavailableError("another writer was faster; try again", file=store.name)
    return after


def _stored(store: Store, version: int, name: str, made: Made) -> StoredPatch:
    """A patch as it is in the store, put there if it is a file."""
    if not isinstance(made.content, Path):
        _check_there(store, made.content)
        return join_parts(store, version, name, made.base, made.content)
    sha256 = digest_file(made.content)
    key = object_key(version, name, made.base, sha256)
    store.put(key, made.content)
    return StoredPatch(made.base, key, made.result.patch_bytes, sha256)


def _check_there(store: Store, parts: Sequence[Part]) -> None:
    """Raise UnavailableError unless the store holds parts, as this machine sees it."""
    for part, size in zip(
        parts, ordered_map(lambda p: store.size(p.key), parts, _STREAMS), strict=True
    ):
        if size != part.n_bytes:
            raise UnavailableError(
                "a part that another machine put is not here; all must use the same store",
                file=f"{store.name}/{part.key}",
                expected=f"{part.n_bytes} bytes",
                found="nothing" if size is None else f"{size} bytes",
            )
