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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sparsediff.errors import WrongBaseError
from sparsediff.parallel import Progress
from sparsediff.shipping import state
from sparsediff.shipping.absent import check_no_store, existing_catalog
from sparsediff.shipping.bring import PullResult, Run
from sparsediff.shipping.catalog import Catalog, StoredPatch, Version
from sparsediff.shipping.fetch import whole
from sparsediff.shipping.in_place import InPlace
from sparsediff.shipping.kept import Note
from sparsediff.shipping.limits import check_room_ahead
from sparsediff.shipping.places import Place, Versions
from sparsediff.stores import Store


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
            any. What is larger by what store or patch say is refused before it is written;
            so are, before any is fetched, patches that together are larger than twice that.
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
    run = Run(
        store,
        place,
        (catalog, tag),
        version,
        max_bytes,
        streams,
        keep_patches,
        note,
        progress,
        result,
    )
    if not os.path.lexists(place.home / state.NAME):  # what is refused leaves nothing, binds nobody
        place.peek(catalog, again=run.look_again, allow_rewind=allow_rewind)
        _foreseen(run, place)
    with place.open(
        catalog, jobs, again=run.look_again, allow_rewind=allow_rewind, max_bytes=max_bytes
    ):
        run.bring()
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
    max_bytes: int | None = None,
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
        max_bytes: most bytes of a version.
        note: told why another version is brought than the latest.

    Raises:
        SparsediffError: what `pull` would end with.
    """
    place, catalog, tag = _opened(store, dest, in_place, 1, files)
    run = Run(store, place, (catalog, tag), version, max_bytes, 1, False, note, None, PullResult())
    place.peek(catalog, again=run.look_again, allow_rewind=allow_rewind)
    if place.record.updating is not None:
        note(f"{place.dest}: an update in place was interrupted, and would be completed first")
    return _foreseen(run, place)


def _foreseen(run: Run, place: Place) -> PullPreview:
    """What a run would do at a destination that was peeked at; raises what `preview` does."""
    held = place.held()
    start, patches = run.choose(held, set())
    wanted = run.wanted
    missing = {p.sha256: p.n_bytes for p in patches if not whole(place.fetched, p.sha256).exists()}
    found = None
    try:
        found = run.plan(patches) if patches else None
    except WrongBaseError:
        start, patches = run.choose([], set())
        found = run.plan(patches)
    if found is not None:
        missing = {s.patch.sha256: s.to_fetch for s in found.shares} | {"": found.n_read}
    if patches:
        kept, n_bytes = {whole(place.fetched, p.sha256) for p in patches}, sum(missing.values())
        if found is not None:
            kept, n_bytes = set(), sum(len(s.head) + s.n_bytes for s in found.shares)
        check_room_ahead(place.fetched, n_bytes + run.written(start, found), kept)
    is_new = place.record.told != run.told
    current = place.current()
    n_missing = sum(missing.values())
    return PullPreview(run.catalog, wanted, current, start, patches, n_missing, is_new)


def _opened(
    store: Store, dest: Path | str, in_place: bool, keep: int, files: Sequence[str]
) -> tuple[Place, Catalog, str]:
    """The destination, not yet locked, the catalog, and its tag."""
    check_no_store(dest, "a destination; give the store first and the destination after")
    dest = Path(os.path.abspath(dest))
    place: Place = InPlace(dest, files) if in_place else Versions(dest, keep, files)
    return place, *existing_catalog(store)
