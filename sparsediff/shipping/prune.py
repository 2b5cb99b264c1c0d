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
from sparsediff.shipping.catalog_json import read_catalog
from sparsediff.shipping.objects import delete, of_each, over, patches_of
from sparsediff.shipping.sealing import check_signer, write_catalog
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
    streams: int = 4,
) -> PruneResult:
    """Drop versions that are neither among the last ``keep`` nor younger than ``max_age``.

    Args:
        store: to prune.
        now: seconds since the epoch.
        keep: how many of the newest versions stay, however old.
        max_age: in seconds; younger ones stay, however many.
        grace: seconds between dropping an object and deleting it.
        dry_run: change nothing.
        streams: requests to the store at once.

    Raises:
        CorruptError: the pointer or a page is damaged, or they contradict themselves.
        UsageError: the store is signed, and ``store`` has no signer.
        UnavailableError: nothing was shipped here, or another shipper published meanwhile.
    """
    found = read_catalog(store)
    if found is None:
        raise no_pointer(store)
    catalog, tag = found
    if not dry_run:
        check_signer(store, catalog)
    versions, known = catalog.history[:], patches_of(store, catalog)
    wanted, first = _window(versions, now, keep, max_age)
    kept = [v for v in versions if v.version >= first]
    gone = [v for v in versions if v.version < first]
    trimmed = tuple(
        replace(v, patches=tuple(p for p in v.patches if p.base is None or p.base >= first))
        for v in kept
    )
    changed = trimmed != versions
    smaller = catalog.having(trimmed, now) if changed else catalog
    used = {p.key for v in trimmed for p in v.patches}
    patches = [p for key, p in known.items() if key not in used]  # each object once
    if changed and not dry_run:
        if not write_catalog(store, smaller, tag):
            raise UnavailableError(
                "another shipper published meanwhile; try again", file=store.name
            )
        smaller, tag = _read(store)
    # Clocks differ a little between machines; one that was far ahead keeps nothing for ever.
    due = {d.key: d for d in smaller.dropped if abs(now - d.since) >= grace}
    # What is gone already, by a run that was killed or by hand, is not counted.
    keys = over(store, due.values(), smaller)
    sizes = zip(keys, of_each(store.size, keys, streams), strict=True)
    deleted = {key: n_bytes for key, n_bytes in sizes if n_bytes is not None}
    if due and not dry_run:
        delete(store, keys, streams)  # what is gone already may have left an empty directory
        rest = tuple(d for d in smaller.dropped if d.key not in due)
        # If a shipper is faster here, the next run finds nothing left to delete.
        write_catalog(store, replace(smaller, dropped=rest), tag)
    return PruneResult(
        gone,
        patches,
        list(deleted),
        sum(deleted.values()),
        kept,
        next((v for v in kept if v.version == wanted), None) if wanted != first else None,
    )


def _read(store: Store) -> tuple[Catalog, str]:
    found = read_catalog(store)
    if found is None:
        raise UnavailableError("the pointer of the store vanished", file=store.name)
    return found


def _window(
    versions: tuple[Version, ...], now: float, keep: int, max_age: float | None
) -> tuple[int, int]:
    """The oldest version that was asked to stay, and the oldest that has to."""
    wanted = versions[-max(keep, 1) :][0].version
    if max_age is not None:
        young = (v.version for v in versions if now - v.shipped <= max_age)
        wanted = min(wanted, next(young, wanted))
    # Of each version, the newest one that it can still be had from when all before that go.
    newest: dict[int | None, int] = {}
    for version in versions:
        starts = [newest[p.base] for p in version.patches if p.base in newest]
        starts += [version.version] if version.anchor is not None else []
        if starts:
            newest[version.version] = max(starts)
    starts = [newest.get(v.version, 0) for v in versions if v.version >= wanted]
    needed = min([wanted, *starts])
    anchors = (v.version for v in reversed(versions) if v.anchor and v.version <= needed)
    return wanted, next(anchors, versions[0].version)
