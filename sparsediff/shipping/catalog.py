"""The catalog of a store: which versions there are and which patches lead to them.

Enters: what `catalog_json` read, or what was just shipped. Leaves: the cheapest way from
one version to another, and what is left when versions go. Versions are ordered by their
number in the store, never by any clock. Knows nothing of how it is stored.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import count

from sparsediff.shipping.pages import History
from sparsediff.shipping.records import (
    PREFIX,
    Dropped,
    LeftOut,
    Part,
    Run,
    StoredPatch,
    Version,
    object_key,
)

__all__ = [
    "LAYOUT",
    "PREFIX",
    "Catalog",
    "Dropped",
    "LeftOut",
    "Part",
    "Run",
    "StoredPatch",
    "Version",
    "object_key",
]

LAYOUT = 2
"""Of new stores. One that is there goes on with its own."""


@dataclass(frozen=True, slots=True)
class Catalog:
    """Everything a store says of itself.

    Attributes:
        id: made when the store was; another id means another history.
        versions: the oldest first; never empty. Older ones may be read when asked for.
        dropped: objects on their way out, or lists of them.
        run: whose checkpoints these are; None in stores of earlier releases.
        layout: of the store, which says how it is stored.
        replaced: pages that ``versions`` were read from before they were changed.
        rewind: grows whenever a history takes the place of another one deliberately; readers
            follow to another history only if this is above what they knew.
        is_signed: whether it was when it was read.
    """

    id: str
    versions: Sequence[Version]
    dropped: tuple[Dropped, ...] = ()
    run: Run | None = None
    layout: int = LAYOUT
    replaced: tuple[Dropped, ...] = field(default=(), compare=False)
    rewind: int = 0
    is_signed: bool = field(default=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.versions, History):
            object.__setattr__(self, "versions", History(self.versions))

    @property
    def history(self) -> History:
        """The versions, with more ways to look for one."""
        assert isinstance(self.versions, History)
        return self.versions

    @property
    def latest(self) -> Version:
        """The newest version."""
        return self.versions[-1]

    def get(self, version: int) -> Version | None:
        """The version with this number."""
        return self.history.get(version)

    def find(self, wanted: str) -> Version | None:
        """The version a person means: its name, the number in its name, or its number."""
        found = self.history.named(wanted)
        number = int(wanted) if wanted.isascii() and wanted.isdigit() and len(wanted) < 20 else -1
        if found is None and str(number) == wanted:
            found = next(self.history.numbered(number), None) or self.get(number)
        return found

    def path(
        self,
        held: Collection[int],
        wanted: int,
        avoid: Collection[str] = (),
        lost: set[int | None] | None = None,
    ) -> tuple[int | None, list[StoredPatch]] | None:
        """The way to a version that takes the fewest bytes, then the fewest patches.

        It is looked for from its end, so no version is read that is farther from there.

        Args:
            held: versions at hand.
            wanted: version to get to.
            avoid: keys of patches that cannot be used.
            lost: versions to which no way leads, by earlier calls with the same ``held`` and
                ``avoid``; takes those that this one finds.

        Returns:
            The version to start from (None for nothing) and the patches in
            order; None if no way is left.
        """
        starts = {None, *held}
        # Ways to compare: bytes, patches, a tie breaker; then from where, and by which patch to
        # which version, where the rest of the way is known.
        order = count()
        ways: list[tuple[int, int, int, int, int | None, StoredPatch | None, int | None]]
        ways = [(0, 0, 0, next(order), wanted, None, None)]
        onward: dict[int | None, tuple[StoredPatch | None, int | None]] = {}
        while ways:
            n_bytes, n, _, _, here, by, there = heapq.heappop(ways)
            if here in onward or (lost and here in lost):
                continue
            onward[here] = by, there
            if here in starts:
                return here, _along(onward, here)
            version = None if here is None else self.get(here)
            for patch in () if version is None else version.patches:
                if patch.key not in avoid and patch.base not in onward:
                    tie = -(patch.base or 0) if patch.base in starts else 0
                    entry = (n_bytes + patch.n_bytes, n + 1, tie, next(order), patch.base)
                    heapq.heappush(ways, (*entry, patch, here))
        if lost is not None:
            lost.update(onward)
        return None

    def reachable(self, avoid: Collection[str] = ()) -> set[int]:
        """Versions that can be had starting from nothing."""
        found: set[int | None] = {None}
        for version in self.versions:
            if any(p.base in found and p.key not in avoid for p in version.patches):
                found.add(version.version)
        return {v for v in found if v is not None}

    def is_lost(self, version: Version) -> bool:
        """Whether a version that is listed cannot be had any more.

        That those listed on pages can be had is taken for granted: a repair takes out those that
        cannot, and whoever finds that the latest one cannot stores the next one whole.
        """
        recent = {v.version: v for v in self.history.recent}
        seen: set[int | None] = set()
        ways: list[int | None] = [version.version]
        while ways:
            here = ways.pop()
            if here in seen:
                continue
            seen.add(here)
            if here is None:
                return False
            found = version if here == version.version else recent.get(here)
            if found is not None:
                ways += [p.base for p in found.patches]
            elif self.get(here) is not None:
                return False
        return True

    def keys(self) -> set[str]:
        """Keys of all objects that belong to the store, but for the pointer and what lists name."""
        kept = {p.key for v in self.versions for p in v.patches}
        pages = {p.key for p in self.history.all_pages()}
        return kept | pages | {d.key for d in self.dropped}

    def published(self, version: Version) -> Catalog:
        """The same with a version at its end, in the place of one with the same number."""
        return replace(self, versions=self.history.with_latest(version))

    def without(self, keys: Collection[str], since: float) -> Catalog:
        """The same without the objects of these keys; see `having`."""
        versions = (
            replace(v, patches=tuple(p for p in v.patches if p.key not in keys))
            for v in self.versions
        )
        return self.having(versions, since)

    def having(self, versions: Iterable[Version], since: float) -> Catalog:
        """The same with fewer versions, or fewer patches of them.

        An object is dropped when the last patch that refers to it goes: two may share one.

        Args:
            versions: those that stay, with the patches that stay.
            since: now, in seconds since the epoch.
        """
        versions = tuple(versions)
        used = {p.key for v in versions for p in v.patches}
        gone = {p.key for v in self.versions for p in v.patches} - used
        known = tuple(d for d in self.dropped if d.key not in gone)
        dropped = known + tuple(Dropped(key, since) for key in sorted(gone))
        pages = tuple(Dropped(p.key, since) for p in self.history.all_pages())
        return replace(self, versions=versions, dropped=dropped, replaced=pages + self.replaced)


def _along(
    onward: dict[int | None, tuple[StoredPatch | None, int | None]], here: int | None
) -> list[StoredPatch]:
    """The patches of a way from ``here`` on."""
    way = []
    by, there = onward[here]
    while by is not None:
        way.append(by)
        by, there = onward[there]
    return way
