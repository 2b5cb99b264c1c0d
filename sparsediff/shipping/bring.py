"""The ways by which a version comes to a destination, tried until one of them is intact.

Enters: a destination, locked, and the catalog of a store. Leaves: the version there, switched to;
or the reason why no way led there. What is damaged is gone around where another way exists.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sparsediff.disk.selection import Selection
from sparsediff.errors import (
    CorruptError,
    SparsediffError,
    TooLargeError,
    UnavailableError,
    UsageError,
    WrongBaseError,
    printable,
)
from sparsediff.parallel import Progress
from sparsediff.shipping.absent import existing_catalog
from sparsediff.shipping.catalog import Catalog, StoredPatch, Version
from sparsediff.shipping.catalog_json import POINTER, read_catalog
from sparsediff.shipping.fetch import BadObjectError, fetch
from sparsediff.shipping.kept import Note
from sparsediff.shipping.limits import check_declared, check_way
from sparsediff.shipping.places import Place
from sparsediff.stores import Store

if TYPE_CHECKING:
    from sparsediff.shipping.shares import Plan

_MOST_WAYS = 50  # from what is in a store, that are tried: not as many as a pointer may claim


@dataclass(slots=True)
class PullResult:
    """What a run of `pull` did.

    Attributes:
        path: where the version is.
        version: the one switched to, or found to be there.
        catalog: of the store.
        previous: version that was there before; None if there was none.
        switched: whether this run changed anything.
        patches: applied, in order.
        fetched_bytes: by this run.
        fetch_seconds: time to fetch.
        apply_seconds: time to rebuild and verify.
        notes: what was gone around.
        share_bytes: of the files that were asked for; None if these are all, or nothing came.
    """

    path: Path | None = None
    version: Version | None = None
    catalog: Catalog | None = None
    previous: int | None = None
    switched: bool = False
    patches: list[StoredPatch] = field(default_factory=list)
    fetched_bytes: int = 0
    fetch_seconds: float = 0.0
    apply_seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    share_bytes: int | None = None


class Run:
    """One run of `pull`, which looks ahead, and brings while it holds the lock."""

    def __init__(
        self,
        store: Store,
        place: Place,
        found: tuple[Catalog, str],
        asked: str | None,
        max_bytes: int | None,
        streams: int,
        keep_patches: bool,
        note: Note,
        progress: Progress | None,
        result: PullResult,
    ) -> None:
        self._store, self._place, self._asked = store, place, asked
        self._catalog, self._tag = found
        self._max_bytes = max_bytes
        self._keep_patches = keep_patches
        self._streams, self._note, self._progress = streams, note, progress
        self._result = result
        self._said: set[str] = set()
        self._planned: tuple[list[StoredPatch], Plan] | None = None

    @property
    def catalog(self) -> Catalog:
        """The one that was read last."""
        return self._catalog

    @property
    def wanted(self) -> Version:
        """The version that was chosen last."""
        assert self._result.version is not None
        return self._result.version

    @property
    def told(self) -> str:
        """What identifies the version switched to."""
        return f"{self._catalog.id} {self.wanted.version}"

    def look_again(self) -> Catalog:
        """The catalog as it is now, which counts from here on."""
        self._catalog, self._tag = existing_catalog(self._store)
        return self._catalog

    def choose(
        self, held: Collection[int], avoid: Collection[str]
    ) -> tuple[int | None, list[StoredPatch]]:
        """Choose the version to bring, and the way there: from where, and by which patches.

        Raises:
            UsageError: there is no such version.
            CorruptError: no way is left.
            UnavailableError: what can be had is older than what is here.
        """
        wanted = self._result.version = self._wanted(held)
        self._result.catalog = self._catalog
        if wanted.version in held:
            return wanted.version, []
        way = self._catalog.path(held, wanted.version, avoid)
        if way is None:
            raise CorruptError(
                f"no intact way to version {wanted.version} ({printable(wanted.name)}); "
                "sparsediff check STORE says what is damaged",
                file=self._store.name,
            )
        return way

    def bring(self) -> None:
        """Find a way, fetch, rebuild, switch; if something on the way is damaged, another way."""
        place, result = self._place, self._result
        result.previous = place.current()
        held = place.held()
        avoid: set[str] = set()
        for _ in range(_MOST_WAYS + len(held)):
            start, patches = self.choose(held, avoid)
            wanted = self.wanted
            if patches:
                try:
                    self._build(start, patches, wanted)
                except TooLargeError:  # any other way leads to as much
                    raise
                except BadObjectError as e:
                    self._around(e)
                    avoid.add(e.key)
                    continue
                except (WrongBaseError, CorruptError) as e:
                    self._around(e)
                    if start is not None:  # most likely it is what lies here
                        held.remove(start)
                    else:
                        named = {p.key for p in patches if p.sha256 in str(e.file)}
                        avoid |= named or {p.key for p in patches}
                    continue
            result.patches = patches
            result.switched = wanted.version != result.previous
            if result.switched:
                place.switch(wanted)
            if self._keep_patches:
                place.keep_patches([p.sha256 for p in patches if p.base is not None])
            place.tidy()
            if self._keep_patches:
                oldest = min(place.held())
                later = self._catalog.history.later(oldest)
                place.tidy_patches({p.sha256 for v in later for p in v.patches})
            result.path = place.path(wanted)
            return
        raise CorruptError(
            f"{_MOST_WAYS} ways to version {wanted.version} ({printable(wanted.name)}) were not "
            "intact; sparsediff check STORE says what is damaged",
            file=self._store.name,
        )

    def plan(self, patches: list[StoredPatch]) -> Plan | None:
        """Of a share, what is to be fetched of each patch; None if all of them is.

        What is fetched to know it is fetched once, for the look ahead and for the run.

        Raises:
            TooLargeError: that is too much, or the version is, by what is said of them.
        """
        store, wanted, limit = self._store, self.wanted, self._max_bytes
        if not self._place.files:
            check_declared(store.name, wanted, wanted.n_bytes, limit)
            check_way(
                store.name, wanted, sum({p.sha256: p.n_bytes for p in patches}.values()), limit
            )
            return None
        from sparsediff.shipping.shares import plan  # it brings NumPy, which most do without

        if self._planned is None or self._planned[0] != patches:
            self._planned = patches, plan(store, patches, Selection(self._place.files))
        found = self._planned[1]
        check_declared(store.name, wanted, found.target_bytes, limit)
        check_way(store.name, wanted, sum(s.n_bytes for s in found.shares), limit)
        return found

    def written(self, start: int | None, found: Plan | None) -> int:
        """Bytes that are surely written once the patches are here.

        From nothing that is all of the version. From one that is here, the patches say which
        files change, and the others may become clones.
        """
        if start is not None:
            return 0
        return self.wanted.n_bytes if found is None else found.target_bytes

    def _around(self, error: SparsediffError) -> None:
        self._result.notes.append(str(error))
        self._note(f"{error}; trying another way")
        if self._store.tag(POINTER) == self._tag:
            return
        found = read_catalog(self._store)  # it was pruned, perhaps
        if found is not None and found[0].id == self._catalog.id:
            newer = found[0].latest.version >= self._catalog.latest.version
            self._catalog, self._tag = found if newer else (self._catalog, self._tag)

    def _wanted(self, held: Collection[int]) -> Version:
        if self._asked is None:
            return self._newest(held)
        version = self._catalog.find(self._asked)
        if version is None:
            raise UsageError(
                f"has no version {self._asked!r}",
                file=self._store.name,
                expected=f"one from {self._catalog.versions[0].name} to {self._catalog.latest.name}"
                " (sparsediff log STORE lists them)",
            )
        return version

    def _newest(self, held: Collection[int]) -> Version:
        """The latest version; while nothing leads there, the newest that can be had."""
        catalog, latest = self._catalog, self._catalog.latest
        dead: set[int | None] = set()
        for version in reversed(catalog.versions):
            if catalog.path(held, version.version, lost=dead) is not None:
                break
        else:
            return latest
        if version is not latest:
            lost = f"{printable(latest.name)} is lost until the next ship"
            name = printable(version.name)
            if version.version < (self._place.current() or 0):
                raise UnavailableError(
                    f"{lost}, and {name} is older than what is here", file=self._store.name
                )
            self._say(f"{self._store.name}: {lost}; {name} is the newest there is")
        return version

    def _say(self, text: str) -> None:
        """Note something once, however often it is come upon."""
        if text not in self._said:
            self._said.add(text)
            self._note(text)

    def _build(self, start: int | None, patches: list[StoredPatch], wanted: Version) -> None:
        began = time.monotonic()
        found, store, room = self.plan(patches), self._store, self._place.fetched
        self._place.leave_patches({p.sha256 for p in patches})
        n_more = self.written(start, found)
        if found is not None:
            from sparsediff.shipping.shares import fetch_share

            self._result.fetched_bytes += found.n_read
            self._result.share_bytes = found.target_bytes
            files, n_bytes = fetch_share(
                store,
                found.shares,
                room,
                streams=self._streams,
                n_more=n_more,
                progress=self._progress,
            )
        else:
            files, n_bytes = fetch(
                store, patches, room, streams=self._streams, n_more=n_more, progress=self._progress
            )
        self._result.fetched_bytes += n_bytes
        fetched = time.monotonic()
        self._result.fetch_seconds += fetched - began
        self._place.build(start, files, wanted, self._progress)
        self._result.apply_seconds += time.monotonic() - fetched
