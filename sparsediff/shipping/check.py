"""check: every object of a store, every way through it, and what lies there for nothing.

Enters: a store. Leaves: a `CheckResult`; with repair, a store without what is
broken or belongs to nobody. Reads every object once and keeps none of them, and
follows the checksums in them from patch to patch.
"""

from __future__ import annotations

import concurrent.futures.thread  # noqa: F401 - before anything is begun
from collections import Counter
from dataclasses import dataclass, field, replace

from sparsediff.errors import (
    CorruptError,
    UnavailableError,
    UnsupportedError,
    UntrustedError,
    UsageError,
)
from sparsediff.parallel import Progress, ordered_map
from sparsediff.patch.manifest import Manifest
from sparsediff.shipping.absent import has_objects, no_pointer
from sparsediff.shipping.catalog import LAYOUT, PREFIX, Catalog, StoredPatch
from sparsediff.shipping.catalog_json import POINTER, read_catalog
from sparsediff.shipping.fetch import digest_object
from sparsediff.shipping.links import Follower, stored_manifest
from sparsediff.shipping.objects import delete, keys_of, patches_of
from sparsediff.shipping.parts import parts_of
from sparsediff.shipping.recover import recover
from sparsediff.shipping.sealing import write_catalog
from sparsediff.stores import Store, Stored


@dataclass(slots=True)
class CheckResult:
    """What `check` found.

    Attributes:
        catalog: of the store, as it was.
        broken: keys of patches that are missing or damaged or do not continue the one
            before, and what is wrong; with a new pointer also of those it leaves out.
        unreachable: versions that cannot be had starting from nothing.
        lost: those of them that a repair knew of already: no patch leads there from a
            version that is listed.
        unproven: keys of patches whose checksums are over other bytes than those of the
            one before, because tensors moved between files, say; `pull` compares the bytes.
        orphans: objects that belong to nothing.
        young: orphans that may yet belong to a run at work, and are left alone.
        checked_bytes: of objects read.
        removed: keys of what was removed, by repair.
        has_new_pointer: whether repair made one, because it was missing or damaged.
        was_upgraded: whether the store got the latest layout.
    """

    catalog: Catalog
    broken: dict[str, str] = field(default_factory=dict)
    unreachable: list[int] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)
    unproven: list[str] = field(default_factory=list)
    orphans: list[Stored] = field(default_factory=list)
    young: list[Stored] = field(default_factory=list)
    checked_bytes: int = 0
    removed: list[str] = field(default_factory=list)
    has_new_pointer: bool = False
    was_upgraded: bool = False

    @property
    def is_sound(self) -> bool:
        """Whether every version that the store offers can be had."""
        return not self.broken and set(self.unreachable) <= set(self.lost)


def check(
    store: Store,
    *,
    now: float,
    repair: bool = False,
    upgrade: bool = False,
    grace: float = 86400.0,
    streams: int = 4,
    progress: Progress | None = None,
) -> CheckResult:
    """Read and check everything in a store.

    Args:
        store: to check.
        now: seconds since the epoch.
        repair: remove orphans; take patches that are broken and versions that cannot be
            had out of the pointer, so that the next shipper stores a version whole where
            the chain is cut; make a new pointer if it is missing or damaged.
        upgrade: give a store of an earlier layout the latest one, if it is sound or repaired.
            Readers of releases that do not know it are refused from then on.
        grace: orphans younger than this, in seconds, are left alone: a shipper may be
            about to publish them.
        streams: objects read at once.
        progress: told of bytes read.

    Raises:
        CorruptError: the pointer or a page is damaged, or they contradict themselves.
        UnavailableError: nothing was shipped here, the store is out of reach, or with
            repair another shipper published meanwhile; try again.
    """
    # Listed first: what is published after this is not taken for an orphan.
    listed = [s for s in store.list("") if s.key != POINTER]
    catalog, tag, damaged = _read_or_recover(store, repair)
    is_new = damaged is not None
    result = CheckResult(catalog, has_new_pointer=is_new)
    patches = patches_of(store, catalog)  # an object that two versions refer to is read once
    still_used = Counter(p.key for v in catalog.versions for p in v.patches)
    total = sum(p.n_bytes for p in patches.values())
    if progress is not None:
        progress(0, total)

    def job(patch: StoredPatch) -> Manifest | str:
        try:
            _check_object(store, patch)
            return stored_manifest(store, patch)
        except (CorruptError, UnsupportedError) as e:
            return e.problem if e.file is not None else str(e)

    follower = Follower(catalog.versions)
    results = ordered_map(job, patches.values(), streams)
    read: dict[str, Manifest | str] = {}  # what a version has still to see
    for version in catalog.versions:
        manifests: dict[str, Manifest] = {}
        for patch in version.patches:
            key = patch.key
            if key not in read:
                read[key] = next(results)
                result.checked_bytes += patch.n_bytes
                if progress is not None:
                    progress(result.checked_bytes, total)
            found = read[key]
            still_used[key] -= 1
            if not still_used[key]:
                del read[key]
            if isinstance(found, str):
                result.broken[key] = found
            else:
                manifests[key] = found
        result.broken |= follower.follow(version, manifests)
    result.unproven = follower.unproven
    reachable = catalog.reachable(result.broken)
    result.unreachable = [v.version for v in catalog.versions if v.version not in reachable]
    numbers = {v.version for v in catalog.versions}
    result.lost = [
        v.version
        for v in catalog.versions
        if v.version not in reachable and numbers.isdisjoint(p.base or 0 for p in v.patches)
    ]
    known = keys_of(store, catalog)
    strays = [s for s in listed if s.key.startswith(PREFIX) and s.key not in known]
    for stray in [*strays, *store.leftovers()]:
        old = abs(now - stray.modified) >= grace  # the store's clock may be ahead of ours
        (result.orphans if old else result.young).append(stray)
    smaller, is_changed = catalog, is_new
    if repair:
        smaller = _without_useless(catalog.without(result.broken, now), now)
        is_changed = is_new or smaller.history != catalog.history
    if upgrade and catalog.layout < LAYOUT and (repair or result.is_sound):
        smaller, is_changed = replace(smaller, layout=LAYOUT), True
        result.was_upgraded = True
    if is_changed and not write_catalog(store, smaller, tag):
        raise UnavailableError("another shipper published meanwhile; try again", file=store.name)
    if repair:
        # What was published since then may have come to use some of them.
        latest = read_catalog(store)
        used = set() if latest is None else keys_of(store, latest[0])
        result.orphans = [o for o in result.orphans if o.key not in used]
        delete(store, [o.key for o in result.orphans], streams)
        result.removed = [*result.broken, *(o.key for o in result.orphans)]
    result.broken = (damaged or {}) | result.broken
    return result


def _without_useless(catalog: Catalog, now: float) -> Catalog:
    """The catalog without the versions that cannot be rebuilt; the latest stays for its number."""
    reachable = catalog.reachable() | {catalog.latest.version}
    return catalog.having((v for v in catalog.versions if v.version in reachable), now)


def _check_object(store: Store, patch: StoredPatch) -> None:
    for part in dict.fromkeys(parts_of(store, patch)):  # each once, however often it is listed
        which = "" if patch.list_bytes is None else f"{part.key}: "
        size = store.size(part.key)
        if size is None:
            raise CorruptError(f"{which}missing")
        if size != part.n_bytes:
            raise CorruptError(f"{which}wrong size", expected=part.n_bytes, found=size)
        if digest_object(store, part.key, size) != part.sha256:
            raise CorruptError(f"{which}does not match its SHA-256")


def _read_or_recover(
    store: Store, repair: bool
) -> tuple[Catalog, str | None, dict[str, str] | None]:
    """The catalog and the tag of its pointer; and if that had to be made anew, see `recover`."""
    try:
        found = read_catalog(store)
        if found is not None:  # a page that is damaged is no better than a pointer that is
            patches_of(store, found[0])
    except UntrustedError:
        raise  # whoever put this pointer there may have put objects, too
    except CorruptError as e:
        if not repair:
            if store.trust is None:
                e.problem += " (`repair=True` makes a new pointer from what is there)"
            raise
    else:
        if found is not None:
            return *found, None
        error = no_pointer(store)
        if not repair or isinstance(error, UsageError) or not has_objects(store):
            raise error
    if store.trust is not None:
        raise UntrustedError(
            "a pointer made anew would vouch for objects that nobody signed; `rewind=True` of ship "
            "begins anew from the checkpoints of the run",
            file=store.name,
        )
    catalog, damaged = recover(store)
    return catalog, store.tag(POINTER), damaged
