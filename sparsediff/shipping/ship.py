"""ship: the checkpoints of a trainer into a store, each as a patch against the one before.

Enters: a source, a store, a directory for what must be kept between runs.
Leaves: new versions in the store. Objects go first and the pointer last, by
compare-and-swap, so the store is never torn; what a killed run left is taken up
or removed by the next. A checkpoint is only ever read from a copy of its own
(`snapshot`), so the trainer may delete or overwrite it at any time. Extra disk:
one checkpoint, two while shipping, one more for shortcuts; less where the file
system shares blocks.
"""

from __future__ import annotations

import concurrent.futures.thread  # noqa: F401 - both, before anything is begun
import os
import tempfile  # noqa: F401
import time
import uuid
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from sparsediff.checkpoint.formats import load_all
from sparsediff.disk.locks import locked
from sparsediff.errors import (
    SparsediffError,
    UnavailableError,
    UsageError,
    os_errors,
    printable,
)
from sparsediff.make import make_patch
from sparsediff.parallel import Progress, ordered_map
from sparsediff.shipping import snapshot, state
from sparsediff.shipping.absent import check_no_store
from sparsediff.shipping.acks import held_back
from sparsediff.shipping.binding import run_of
from sparsediff.shipping.catalog import Catalog, LeftOut, StoredPatch, Version
from sparsediff.shipping.kept import Kept, Note, is_published
from sparsediff.shipping.look import Look, holding, look
from sparsediff.shipping.making import Make, Maker
from sparsediff.shipping.pointer import Pointer
from sparsediff.shipping.policy import Policy, unique_name
from sparsediff.shipping.source import Candidate
from sparsediff.shipping.state import Pending, Waiting
from sparsediff.stores import Store


@dataclass(frozen=True, slots=True)
class Shipped:
    """One version that a run published.

    Attributes:
        version: as the store has it.
        sent_bytes: of objects sent; what was there from a killed run is not.
        make_seconds: time to keep the checkpoint and make patches.
        send_seconds: time to send and publish them.
    """

    version: Version
    sent_bytes: int
    make_seconds: float
    send_seconds: float


@dataclass(slots=True)
class ShipResult:
    """What a run of `ship` did.

    Attributes:
        shipped: new versions, in order.
        catalog: of the store afterwards; None if it holds nothing yet.
        look: what the source held when it was looked at; None if it could not be.
        due: complete checkpoints that are still to be shipped.
        held: why they wait for machines that are behind; None if they do not.
    """

    shipped: list[Shipped] = field(default_factory=list)
    catalog: Catalog | None = None
    look: Look | None = None
    due: list[Candidate] = field(default_factory=list)
    held: str | None = None

    @property
    def waiting(self) -> list[Waiting]:
        """All that was seen and is not in the store, the longest waiting first."""
        still = {c.name for c in self.due}
        seen = [] if self.look is None else self.look.waiting
        waiting = [w for w in seen if w.reason != "ready" or w.name in still]
        return waiting if self.held is None else holding(waiting, still, self.held)


def ship(
    path: Path | str,
    store: Store,
    policy: Policy | None = None,
    *,
    state_directory: Path | str | None = None,
    adopt: bool = False,
    streams: int = 4,
    jobs: int | None = None,
    make: Make | None = None,
    note: Note = lambda _: None,
    progress: Progress | None = None,
    result: ShipResult | None = None,
) -> ShipResult:
    """Publish the complete checkpoints of a source that the store does not have yet.

    Args:
        path: directory of numbered checkpoints, or one checkpoint that is overwritten.
        store: where to.
        policy: what is shipped and how.
        state_directory: kept between runs; default `default_state`. Losing it costs an
            anchor, nothing else.
        adopt: continue the store with this run, though it holds those of another.
        streams: objects sent at once.
        jobs: threads to make patches with.
        make: makes each patch; default `make_patch`, with so many jobs.
        note: told what should not go unnoticed.
        progress: told of bytes compared, then of bytes sent.
        result: filled as versions are published, so that it is there even after an error.

    Raises:
        UsageError: the source or the state directory is unusable, or the latter lies
            in the former, or the store holds the checkpoints of another run.
        CorruptError: the pointer of the store is damaged, or the record in the state directory.
        UntrustedError: nobody who is trusted signed the pointer, or it has gone back.
        UnavailableError: store or disk is full or out of reach, or the source
            changes; nothing is lost, try again.
        LockedError: another run ships from here.
    """
    load_all()
    check_source(path)
    home = Path(state_directory) if state_directory is not None else state.default_state(Path(path))
    check_apart(Path(path), home)
    with os_errors(home):
        if home.is_dir() and any(home.iterdir()) and not (home / "lock").exists():
            raise UsageError("directory holds other things than what ship keeps", file=home)
        home.mkdir(parents=True, exist_ok=True)
    with locked(home / "lock", os.O_RDWR | os.O_CREAT):
        policy = policy or Policy()
        make = make or partial(make_patch, jobs=jobs)
        run = _Run(Path(path), store, policy, home, adopt, streams, make, note, progress)
        return run.ship_all(result if result is not None else ShipResult())


def check_source(path: Path | str) -> None:
    """Raise UsageError if a source is plainly a store."""
    check_no_store(path, "a source of checkpoints; give the source first and the store after")


def check_apart(path: Path, other: Path) -> None:
    """Raise UsageError if a source is missing, or if ``other`` is or lies in it.

    What lies in a checkpoint is shipped with it.
    """
    with os_errors(path):
        os.stat(path)
        real, inside = path.resolve(), other.resolve()
    if real == inside or real in inside.parents:
        raise UsageError("lies in the source; nothing is written there", file=other, found=path)


class _Run:
    """One run of `ship`, which holds the lock on its state directory."""

    def __init__(
        self,
        path: Path,
        store: Store,
        policy: Policy,
        home: Path,
        adopt: bool,
        streams: int,
        make: Make,
        note: Note,
        progress: Progress | None,
    ) -> None:
        self._path, self._store, self._policy, self._home = path, store, policy, home
        self._streams, self._note, self._progress = streams, note, progress
        self._kept = Kept(home, Path(os.path.abspath(path)).name, store)
        self._same: str | None = None  # fingerprint that is the latest version too
        self._maker = Maker(home, self._kept, policy, make, note, progress)
        self._pointer = Pointer(
            store, run_of(path), self._kept, adopt=adopt, rewind=policy.rewind, note=note
        )

    def ship_all(self, result: ShipResult) -> ShipResult:
        self._pointer.read()
        self._pointer.take_back()
        self._kept.take_up(self._catalog, self._note, rewind=self._policy.rewind)
        self._heal()
        result.catalog = self._catalog
        before = state.load_seen(self._home)
        found = result.look = look(self._path, self._catalog, self._policy, before)
        result.due, self._same = found.due, found.seen.same
        self._remember(found, result)
        self._note_passed(found)
        while result.due:
            result.held = held_back(self._store, self._catalog, self._policy)
            if result.held is not None:
                self._remember(found, result)
                break
            shipped = self._ship(result.due[0])
            if shipped is not None:
                result.shipped.append(shipped)
            result.catalog = self._catalog
            # What another shipper published meanwhile is not shipped again.
            result.due, _ = self._policy.due(self._catalog, result.due[1:], self._same)
            self._remember(found, result)
        return result

    def _remember(self, found: Look, result: ShipResult) -> None:
        """Keep what was seen, for the next look and for who asks how things are."""
        latest = None if self._catalog is None else self._catalog.latest
        seen = replace(
            found.seen,
            waiting=tuple(result.waiting),
            latest=None if latest is None else latest.name,
            shipped=None if latest is None else latest.shipped,
            same=self._same,
        )
        state.save(self._home, seen)

    def _note_passed(self, found: Look) -> None:
        """Say which checkpoints later ones are about to pass: nobody asks for them any more."""
        last = found.due[-1].number if found.due else None
        for w in found.waiting:
            passed = last is not None and w.number is not None and w.number < last
            if passed and w.reason != "ready" and self._catalog is not None:
                self._note(f"{self._path}: {printable(w.name)} is passed over: {w.why}")

    @property
    def _catalog(self) -> Catalog | None:
        return self._pointer.catalog

    def _heal(self) -> None:
        """Store the latest version whole if damage cut it off and what it was made from is here."""
        if self._catalog is None:
            return
        latest = self._catalog.latest
        if not self._catalog.is_lost(latest) or latest.version not in self._kept:
            return
        if not self._kept.is_as_shipped(latest, None, self._note):
            return
        anchor = self._maker.anchor(self._kept.place(latest.version))
        stored = self._maker.stored(latest.version, latest.name, {None: anchor})
        self._kept.check(latest.version)
        self._send(stored)
        patches = (*latest.patches, *(patch for patch, _ in stored))
        if self._pointer.publish(self._catalog.id, replace(latest, patches=patches)):
            self._note(
                f"{self._store.name}: {printable(latest.name)} could not be had, and is stored "
                "whole now"
            )

    def _ship(self, candidate: Candidate) -> Shipped | None:
        """Publish one checkpoint; None if it is gone, or another shipper was faster."""
        started = time.monotonic()
        before = self._catalog
        version = 1 if before is None else before.latest.version + 1
        place = self._kept.place(version)
        self._kept.clean(before)
        try:
            left_out = self._keep(candidate, place)
        except SparsediffError:
            if os.path.lexists(candidate.path):
                raise
            self._note(f"{candidate.path}: gone before it could be shipped")
            return None
        identity = snapshot.identity(place)
        store_id = uuid.uuid4().hex if before is None else before.id
        again = self._again(candidate)
        if again is not None and self._is_shipped(candidate, again, version, identity):
            self._same = candidate.fingerprint
            self._kept.clean(self._catalog)
            self._kept.save(self._catalog)
            return None
        made = self._maker.make(before, version, place)
        snapshot.check_kept(place, identity)
        made_at = time.monotonic()
        name = unique_name(candidate.name, candidate.number, version, before)
        if again is not None and candidate.number is not None:
            self._note(
                f"{candidate.path}: was written again after it was shipped; it is shipped again, "
                f"as {printable(name)}"
            )
        stored = self._maker.stored(version, name, made)
        patches = tuple(patch for patch, _ in stored)
        pending = Pending(
            store_id,
            version,
            tuple(p.sha256 for p in patches),
            identity,
            self._policy.next_shortcut(version, self._kept.squash_from),
        )
        self._kept.save(before, pending)
        todo = [(p, f) for p, f in stored if self._store.size(p.key) != p.n_bytes]
        self._send(todo)
        result = next(iter(made.values()))
        record = Version(
            version,
            name,
            candidate.number,
            candidate.fingerprint,
            float(int(time.time())),
            result.target_bytes,
            result.n_elements,
            None if version - 1 not in made else result.n_changed,
            patches,
            left_out,
        )
        won = self._pointer.publish(store_id, record)
        self._same = None
        if not won:
            self._note(f"{self._store.name}: another shipper published meanwhile")
        if is_published(pending, self._catalog):
            self._kept.add(pending)
        self._kept.clean(self._catalog)
        self._kept.save(self._catalog)
        if not won:
            return None
        done = time.monotonic()
        return Shipped(record, sum(p.n_bytes for p, _ in todo), made_at - started, done - made_at)

    def _again(self, candidate: Candidate) -> Version | None:
        """The latest version, if it can be had and the checkpoint is the same step once more."""
        if self._catalog is None:
            return None
        last = self._catalog.latest
        return last if last.number == candidate.number and not self._catalog.is_lost(last) else None

    def _is_shipped(
        self, candidate: Candidate, again: Version, version: int, identity: str
    ) -> bool:
        """Whether nothing is in the snapshot of ``version`` that ``again`` has not."""
        place = self._kept.place(version)
        lost = [] if candidate.number is None else self._kept.lost_files(again, place)
        if lost:
            self._note(
                f"{candidate.path}: {printable(lost[0])} is gone since it was shipped; that is "
                "taken for cleaning up, and not shipped"
            )
            return True
        if not self._kept.holds(again, place):
            return False
        self._kept.take_for(again.version, version, identity)
        return True

    def _keep(self, candidate: Candidate, place: Path) -> LeftOut | None:
        """Take the copy of a checkpoint that patches are made from, now and next time.

        Returns what was not to be shipped.
        """
        chosen = self._policy.selection
        with os_errors(place):
            place.parent.mkdir(parents=True, exist_ok=True)
        # Trainers write a numbered checkpoint once; an overwritten one may change under a link.
        snapshot.keep(
            candidate.path, place, linkable=candidate.number is not None, selection=chosen
        )
        for left_out in snapshot.leftovers(candidate.path):
            self._note(f"{left_out}: is not shipped: killed runs leave files of such names behind")
        if snapshot.identity(candidate.path) != candidate.fingerprint:
            raise UnavailableError("changed while it was read; try again", file=candidate.path)
        others = [n for name, n, *_ in snapshot.states(candidate.path) if not chosen.takes(name)]
        return LeftOut(chosen.include, chosen.exclude, len(others), sum(others)) if others else None

    def _send(self, stored: list[tuple[StoredPatch, Path]]) -> None:
        done, total = 0, sum(p.n_bytes for p, _ in stored)

        def job(patch_and_file: tuple[StoredPatch, Path]) -> int:
            patch, file = patch_and_file
            self._store.put(patch.key, file)
            return patch.n_bytes

        if self._progress is not None and stored:
            self._progress(0, total)
        for n_bytes in ordered_map(job, stored, self._streams):
            done += n_bytes
            if self._progress is not None:
                self._progress(done, total)
