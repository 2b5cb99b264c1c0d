"""pull: a version of a store into a directory, switched to in one step.

Enters: a store and a destination. Leaves: the version under
``DEST/versions/NAME`` and ``DEST/current`` pointing to it; or, in place, DEST
itself updated file by file. Everything is verified before the switch. A
damaged object, or a version at hand that is not what it should be, is gone
around where another way exists. A run that is killed at any instant leaves a
destination that the next run completes.
"""

from __future__ import annotations

import concurrent.futures.thread  # noqa: F401 - both, before anything is begun
import os
import tempfile  # noqa: F401
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

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
from sparsediff.shipping.absent import check_no_store, no_pointer
from sparsediff.shipping.catalog import Catalog, StoredPatch, Version
from sparsediff.shipping.catalog_json import POINTER, read_catalog
from sparsediff.shipping.fetch import BadObjectError, fetch, whole
from sparsediff.shipping.in_place import InPlace
from sparsediff.shipping.kept import Note
from sparsediff.shipping.places import Place, Versions
from sparsediff.stores import Store

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


def pull(
    store: Store,
    dest: Path | str,
    *,
    version: str | None = None,
    in_place: bool = False,
    keep: int = 2,
    keep_patches: bool = False,
    files: Sequence[str] = (),
    allow_rewind: bool = False,
    max_bytes: int | None = None,
    streams: int = 4,
    jobs: int | None = None,
    after: Callable[[PullResult], None] | None = None,
    note: Note = lambda _: None,
    progress: Progress | None = None,
    result: PullResult | None = None,
) -> PullResult:
    """Bring a destination to a version of a store.

    Args:
        store: where from.
        dest: directory for ``current`` and ``versions``, or in place the checkpoint itself.
        version: its name, the number in its name, or its number; default the latest.
        in_place: update ``dest`` itself, file by file.
        keep: versions to keep, the current one included; not in place.
        keep_patches: leave the patches that were applied where `Place.patch` says, until the
            versions they lead from go; not the patches from nothing.
        files: patterns of the files to bring, default all: see `disk.selection.Selection`. Of
            each patch only what these need is fetched. A destination holds the same files of
            every version.
        allow_rewind: follow a store that has gone back, to an older pointer or to another
            history, although its writer does not say that this is meant.
        max_bytes: most bytes of a version, or with ``files`` of what is brought of it; default
            any. What is larger by what store or patch say is refused before it is written.
        streams: requests to the store at once.
        jobs: threads to rebuild with.
        after: called after a switch; if it raises, the next run calls it again.
        note: told what was gone around.
        progress: told of bytes fetched, then of bytes rebuilt.
        result: filled as the run goes on, so that it is there even after an error.

    Raises:
        UsageError: no such version, or ``dest`` is something else's, such as a store.
        CorruptError: the store has no intact way to the version, or what is remembered of
            ``dest`` is damaged, or the version is larger than ``max_bytes``.
        UntrustedError: nobody who is trusted signed what the store says, or it has gone back.
        UnavailableError: store or disk is full or out of reach, or nothing was shipped
            yet; try again.
        LockedError: another run pulls to ``dest``.
    """
    result = result if result is not None else PullResult()
    place, catalog, tag = _opened(store, dest, in_place, keep, files)
    with place.open(catalog, jobs, allow_rewind=allow_rewind, max_bytes=max_bytes):
        run = _Run(
            store, place, (catalog, tag), version, streams, keep_patches, note, progress, result
        )
        run.bring(max_bytes)
        if place.record.store != store.name:
            place.remember(replace(place.record, store=store.name))
        if place.record.told != run.told:
            if after is not None:
                after(result)
            place.remember(replace(place.record, told=run.told))
    return result


@dataclass(frozen=True, slots=True)
class PullPreview:
    """What `pull` would do.

    Attributes:
        catalog: of the store.
        version: that it would switch to.
        current: number of the version that is there; None if there is none.
        start: version to start from; None for nothing.
        patches: to be applied, in order.
        fetched_bytes: to be fetched; what a killed run left of them is not.
        runs_command: whether the command after a switch is still to be run.
    """

    catalog: Catalog
    version: Version
    current: int | None
    start: int | None
    patches: list[StoredPatch]
    fetched_bytes: int
    runs_command: bool


def preview(
    store: Store,
    dest: Path | str,
    *,
    version: str | None = None,
    in_place: bool = False,
    files: Sequence[str] = (),
    allow_rewind: bool = False,
    note: Note = lambda _: None,
) -> PullPreview:
    """Say what `pull` would do. Changes nothing, and takes no lock.

    Args:
        store: as for `pull`, and so are the others.
        dest: need not exist.
        version: to switch to.
        in_place: update ``dest`` itself.
        files: patterns of the files to bring.
        allow_rewind: follow a store that has gone back.
        note: told why another version is brought than the latest.

    Raises:
        SparsediffError: what `pull` would end with.
    """
    place, catalog, tag = _opened(store, dest, in_place, 1, files)
    place.peek(catalog, allow_rewind=allow_rewind)
    if place.record.updating is not None:
        note(f"{place.dest}: an update in place was interrupted, and would be completed first")
    run = _Run(store, place, (catalog, tag), version, 1, False, note, None, PullResult())
    held = place.held()
    start, patches = run.choose(held, set())
    wanted = run.wanted
    missing = {p.sha256: p.n_bytes for p in patches if not whole(place.fetched, p.sha256).exists()}
    if files and patches:
        from sparsediff.shipping.shares import plan

        try:
            found = plan(store, patches, Selection(place.files))
        except WrongBaseError:
            start, patches = run.choose([], set())
            found = plan(store, patches, Selection(place.files))
        missing = {s.patch.sha256: s.to_fetch for s in found.shares} | {"": found.n_read}
    is_new = place.record.told != run.told
    current = place.current()
    return PullPreview(catalog, wanted, current, start, patches, sum(missing.values()), is_new)


def _opened(
    store: Store, dest: Path | str, in_place: bool, keep: int, files: Sequence[str]
) -> tuple[Place, Catalog, str]:
    """The destination, not yet locked, the catalog, and its tag."""
    check_no_store(dest, "a destination; give the store first and the destination after")
    dest = Path(os.path.abspath(dest))
    place: Place = InPlace(dest, files) if in_place else Versions(dest, keep, files)
    found = read_catalog(store)
    if found is None:
        raise no_pointer(store)
    return place, *found


class _Run:
    """One run of `pull`, which holds the lock on its destination."""

    def __init__(
        self,
        store: Store,
        place: Place,
        found: tuple[Catalog, str],
        asked: str | None,
        streams: int,
        keep_patches: bool,
        note: Note,
        progress: Progress | None,
        result: PullResult,
    ) -> None:
        self._store, self._place, self._asked = store, place, asked
        self._catalog, self._tag = found
        self._keep_patches = keep_patches
        self._streams, self._note, self._progress = streams, note, progress
        self._result = result
        result.previous = place.current()

    @property
    def wanted(self) -> Version:
        """The version that was chosen last."""
        assert self._result.version is not None
        return self._result.version

    @property
    def told(self) -> str:
        """What identifies the version switched to."""
        return f"{self._catalog.id} {self.wanted.version}"

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

    def bring(self, max_bytes: int | None = None) -> None:
        """Find a way, fetch, rebuild, switch; if something on the way is damaged, another way."""
        place, result = self._place, self._result
        held = place.held()
        avoid: set[str] = set()
        for _ in range(_MOST_WAYS + len(held)):
            start, patches = self.choose(held, avoid)
            wanted = self.wanted
            if patches:
                self._check_declared(wanted, max_bytes)
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

    def _check_declared(self, wanted: Version, max_bytes: int | None) -> None:
        # Of a share it is known once its patches are here: `apply_patch` looks at it.
        if max_bytes is not None and not self._place.files and wanted.n_bytes > max_bytes:
            raise TooLargeError(
                f"version {wanted.name} is larger than `max_bytes`",
                file=self._store.name,
                expected=f"at most {max_bytes} bytes",
                found=f"{wanted.n_bytes} bytes",
            )

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
            if version.version < (self._result.previous or 0):
                raise UnavailableError(
                    f"{lost}, and {name} is older than what is here", file=self._store.name
                )
            self._note(f"{self._store.name}: {lost}; {name} is the newest there is")
        return version

    def _build(self, start: int | None, patches: list[StoredPatch], wanted: Version) -> None:
        began = time.monotonic()
        store, room, chosen = self._store, self._place.fetched, Selection(self._place.files)
        if chosen:  # what is imported for it brings NumPy, which most runs can do without
            from sparsediff.shipping.shares import fetch_share, plan

            found = plan(store, patches, chosen)
            self._result.fetched_bytes += found.n_read
            self._result.share_bytes = found.target_bytes
            files, n_bytes = fetch_share(
                store, found.shares, room, streams=self._streams, progress=self._progress
            )
        else:
            files, n_bytes = fetch(
                store, patches, room, streams=self._streams, progress=self._progress
            )
        self._result.fetched_bytes += n_bytes
        fetched = time.monotonic()
        self._result.fetch_seconds += fetched - began
        self._place.build(start, files, wanted, self._progress)
        self._result.apply_seconds += time.monotonic() - fetched
