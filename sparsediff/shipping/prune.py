"""prune: old versions out of a store, without cutting off anybody within the retention.

Enters: a store and what to retain. Leaves: a store whose oldest version has an
anchor. A version that is retained can be reached from nothing, and whoever
holds a retained version can reach every later one. Objects leave the pointer
first and are deleted by a later run, after a time of grace, because somebody
may be fetching them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from sparsediff.errors import UnavailableError
from sparsediff.shipping.absent import no_pointer
from sparsediff.shipping.catalog import Catalog, StoredPatch, Version
from sparsediff.shipping.catalog_json import POINTER, dump, read_catalog
from sparsediff.stores import Store


@dataclass(frozen=True, slots=True)
class PruneResult:
    """What `prune` did, or would do.

    Attributes:
        versions: no longer offered.
        patches: no longer offered; deleted when the time of grace is over.
        deleted: keys of objects deleted now.
        deleted_bytes: their size.
        kept: versions that stay.
        held_back: the oldest version asked to stay, if an older one had to stay for
            its anchor; else None.
    """

    versions: list[Version]
    patches: list[StoredPatch]
    deleted: list[str]
    deleted_bytes: int
    kept: list[Version]
    held_back: Version | None


def prune(
    store: Store,
    *,
    now: float,
    keep: int = 1,
    max_age: float | None = None,
    grace: float = 3600.0,
    dry_run: bool = False,
) -> PruneResult:
    """Drop versions that are neither among the last ``keep`` nor younger than ``max_age``.

    Args:
        store: to prune.
        now: seconds since the epoch.
        keep: how many of the newest versions stay, however old.
        max_age: in seconds; younger ones stay, however many.
        grace: seconds between dropping an object and deleting it.
        dry_run: change nothing.

    Raises:
        UnavailableError: nothing was shipped here, or another shipper published meanwhile.
    """
    found = read_catalog(store)
    if found is None:
        raise no_pointer(store)
    catalog, tag = found
    wanted, first = _window(catalog, now, keep, max_age)
    kept = [v for v in catalog.versions if v.version >= first]
    gone = [v for v in catalog.versions if v.version < first]
    trimmed = tuple(
        replace(v, patches=tuple(p for p in v.patches if p.base is None or p.base >= first))
        for v in kept
    )
    smaller = catalog.having(trimmed, now)
    used = {p.key for v in smaller.versions for p in v.patches}
    known = {p.key: p for v in catalog.versions for p in v.patches}
    patches = [p for key, p in known.items() if key not in used]  # each object once
    # Clocks differ a little between machines; one that was far ahead keeps nothing for ever.
    due = [d for d in smaller.dropped if abs(now - d.since) >= grace]
    over = {d.key for d in due}
    # What is gone already, by a run that was killed or by hand, is not deleted again.
    sizes = {key: store.size(key) for key in sorted(over - used)}
    deleted = [key for key, n_bytes in sizes.items() if n_bytes is not None]
    deleted_bytes = sum(n_bytes or 0 for n_bytes in sizes.values())
    if not dry_run:
        if smaller.versions != catalog.versions:
            if not store.swap(POINTER, dump(smaller), tag):
                raise UnavailableError(
                    "another shipper published meanwhile; try again", file=store.name
                )
            smaller, tag = _read(store)
        for key in deleted:
            store.delete(key)
        if due:
            rest = tuple(d for d in smaller.dropped if d.key not in over)
            # If a shipper is faster here, the next run finds nothing left to delete.
            store.swap(POINTER, dump(replace(smaller, dropped=rest)), tag)
    return PruneResult(
        gone,
        patches,
        deleted,
        deleted_bytes,
        kept,
        catalog.get(wanted) if wanted != first else None,
    )


def _read(store: Store) -> tuple[Catalog, str]:
    found = read_catalog(store)
    if found is None:
        raise UnavailableError("the pointer of the store vanished", file=store.name)
    return found


def _window(catalog: Catalog, now: float, keep: int, max_age: float | None) -> tuple[int, int]:
    """The oldest version that was asked to stay, and the oldest that has to."""
    versions = catalog.versions
    stay = set(versions[-max(keep, 1) :])
    if max_age is not None:
        stay |= {v for v in versions if now - v.shipped <= max_age}
    wanted = min(v.version for v in stay)
    # Nearest anchor from which everything after it can be reached.
    for version in reversed(versions):
        if version.version <= wanted and version.anchor is not None:
            rest = [v for v in versions if v.version >= version.version]
            within = replace(catalog, versions=tuple(rest))
            if {v.version for v in rest if v.version >= wanted} <= within.reachable():
                return wanted, version.version
    return wanted, versions[0].version
