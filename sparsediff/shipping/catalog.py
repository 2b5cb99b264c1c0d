"""The catalog of a store, as records: which versions there are and which patches lead to them.

Enters: what `catalog_json` read, or what was just shipped. Leaves: the cheapest way from
one version to another, and what is left when versions go. Versions are ordered by their
number in the store, never by any clock. Knows nothing of how it is stored.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from itertools import count

from sparsediff.patch.measures import share

PREFIX = "versions/"


@dataclass(frozen=True, slots=True)
class StoredPatch:
    """A patch in the store.

    Attributes:
        base: version it starts from; None for an anchor, which starts from nothing.
        key: of the object.
        n_bytes: of the object.
        sha256: of the object, hex.
    """

    base: int | None
    key: str
    n_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What of a checkpoint was not shipped: who pulls it has a part of what the trainer wrote.

    Attributes:
        include: patterns of the files that were asked for; empty for all.
        exclude: patterns of those that were not.
        n_files: how many files were left out.
        n_bytes: of these files.
    """

    include: tuple[str, ...]
    exclude: tuple[str, ...]
    n_files: int
    n_bytes: int


@dataclass(frozen=True, slots=True)
class Version:
    """One shipped checkpoint.

    Attributes:
        version: 1 and up, in the order of shipping.
        name: of the checkpoint at its source, made unique; a plain file name.
        number: in the checkpoint's name, None if it has none.
        source: fingerprint of the checkpoint's files when they were read.
        shipped: when, in seconds since the epoch, by the shipper's clock.
        n_bytes: of the checkpoint.
        n_elements: of its tensors, in words.
        n_changed: words that differ from the version before; None if that is not known.
        patches: ways to get here.
        left_out: what of the checkpoint was not shipped, where that was asked for; else None.
    """

    version: int
    name: str
    number: int | None
    source: str
    shipped: float
    n_bytes: int
    n_elements: int
    n_changed: int | None
    patches: tuple[StoredPatch, ...]
    left_out: LeftOut | None = None

    @property
    def anchor(self) -> StoredPatch | None:
        """The patch from nothing, if this version has one."""
        return next((p for p in self.patches if p.base is None), None)

    @property
    def step(self) -> StoredPatch | None:
        """The patch from the version before, if there is one."""
        return next((p for p in self.patches if p.base == self.version - 1), None)

    @property
    def patch_bytes(self) -> int:
        """Size of the patch from the version before, or of the anchor where there is none."""
        patch = self.step or self.anchor
        return 0 if patch is None else patch.n_bytes

    @property
    def ratio(self) -> float | None:
        """Bytes of the checkpoint per byte of `patch_bytes`."""
        return share(self.n_bytes, self.patch_bytes)

    @property
    def density(self) -> float | None:
        """Changed words per word; None if that is not known."""
        return None if self.n_changed is None else share(self.n_changed, self.n_elements)


@dataclass(frozen=True, slots=True)
class Dropped:
    """An object that nothing refers to any more, to be deleted after a time of grace.

    Attributes:
        key: of the object.
        since: when it was dropped, in seconds since the epoch.
    """

    key: str
    since: float


@dataclass(frozen=True, slots=True)
class Run:
    """The run whose checkpoints a store holds.

    Attributes:
        id: random, made when the store was bound; who ships knows it.
        name: of the source, a directory or a file.
        host: digest of the name of the machine that it was on when the store was bound.
        path: digest of its place there.
    """

    id: str
    name: str
    host: str
    path: str


@dataclass(frozen=True, slots=True)
class Catalog:
    """Everything a store says of itself.

    Attributes:
        id: made when the store was; another id means another history.
        versions: the oldest first; never empty.
        dropped: objects on their way out.
        run: whose checkpoints these are; None in stores of earlier releases.
    """

    id: str
    versions: tuple[Version, ...]
    dropped: tuple[Dropped, ...] = ()
    run: Run | None = None

    @property
    def latest(self) -> Version:
        """The newest version."""
        return self.versions[-1]

    def get(self, version: int) -> Version | None:
        """The version with this number."""
        return next((v for v in self.versions if v.version == version), None)

    def find(self, wanted: str) -> Version | None:
        """The version a person means: its name, the number in its name, or its number."""
        for matches in (
            [v for v in self.versions if v.name == wanted],
            [v for v in self.versions if str(v.number) == wanted],
            [v for v in self.versions if str(v.version) == wanted],
        ):
            if matches:
                return matches[-1]
        return None

    def path(
        self, held: Collection[int], wanted: int, avoid: Collection[str] = ()
    ) -> tuple[int | None, list[StoredPatch]] | None:
        """The way to a version that takes the fewest bytes, then the fewest patches.

        Args:
            held: versions at hand.
            wanted: version to get to.
            avoid: keys of patches that cannot be used.

        Returns:
            The version to start from (None for nothing) and the patches in
            order; None if no way is left.
        """
        steps: dict[int | None, list[tuple[int, StoredPatch]]] = {}
        for version in self.versions:
            for patch in version.patches:
                if patch.key not in avoid:
                    steps.setdefault(patch.base, []).append((version.version, patch))
        # Ways to compare: bytes, patches, a tie breaker; then to where, and by which last patch.
        order = count()
        ways: list[tuple[int, int, int, int, int | None, StoredPatch | None]] = [
            (0, 0, -(start or 0), next(order), start, None) for start in (None, *held)
        ]
        heapq.heapify(ways)
        last: dict[int | None, StoredPatch | None] = {}  # on the cheapest way to a version
        while ways and wanted not in last:
            n_bytes, n, tie, _, here, by = heapq.heappop(ways)
            if here in last:
                continue
            last[here] = by
            for there, step in steps.get(here, []):
                if there not in last:
                    entry = (n_bytes + step.n_bytes, n + 1, tie, next(order), there, step)
                    heapq.heappush(ways, entry)
        if wanted not in last:
            return None
        way: list[StoredPatch] = []
        start: int | None = wanted
        while (by := last[start]) is not None:
            way.append(by)
            start = by.base
        return start, way[::-1]

    def reachable(self, avoid: Collection[str] = ()) -> set[int]:
        """Versions that can be had starting from nothing."""
        found: set[int | None] = {None}
        for version in self.versions:
            if any(p.base in found and p.key not in avoid for p in version.patches):
                found.add(version.version)
        return {v for v in found if v is not None}

    def is_lost(self, version: Version) -> bool:
        """Whether a version that is listed cannot be had any more."""
        return version.version not in self.reachable()

    def keys(self) -> set[str]:
        """Keys of all objects that belong to the store, the pointer aside."""
        kept = {p.key for v in self.versions for p in v.patches}
        return kept | {d.key for d in self.dropped}

    def without(self, keys: Collection[str], since: float) -> Catalog:
        """The same without the objects of these keys; see `having`."""
        versions = tuple(
            replace(v, patches=tuple(p for p in v.patches if p.key not in keys))
            for v in self.versions
        )
        return self.having(versions, since)

    def having(self, versions: tuple[Version, ...], since: float) -> Catalog:
        """The same with fewer versions, or fewer patches of them.

        An object is dropped when the last patch that refers to it goes: two may share one.

        Args:
            versions: those that stay, with the patches that stay.
            since: now, in seconds since the epoch.
        """
        used = {p.key for v in versions for p in v.patches}
        gone = {p.key for v in self.versions for p in v.patches} - used
        known = tuple(d for d in self.dropped if d.key not in gone)
        dropped = known + tuple(Dropped(key, since) for key in sorted(gone))
        return replace(self, versions=versions, dropped=dropped)


def object_key(version: int, name: str, base: int | None, sha256: str) -> str:
    """Where a patch is stored; its digest is part of it, so no two contents share a key."""
    readable = re.sub(r"[^A-Za-z0-9._=+-]", "_", name)[:100]
    kind = "anchor" if base is None else f"from-{base:06}"
    return f"{PREFIX}{version:06}-{readable}/{kind}-{sha256[:16]}.sdiff"
