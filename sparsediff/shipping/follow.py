"""Follower: the versions of a store as they come, each verified, with the way that led there.

Enters: a store and a destination of `pull`, which others on the host may share. Leaves:
arrivals in order, each a version that is whole on disk and, where there is one, the
patches from the version before. Skips versions that were overtaken. Never gives up
because a store is out of reach or damaged, or because another run is writing.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sparsediff.disk.locks import waiting
from sparsediff.disk.selection import Selection
from sparsediff.errors import CorruptError, LockedError, UnavailableError, WrongBaseError
from sparsediff.shipping.absent import existing_catalog
from sparsediff.shipping.acks import Acknowledger
from sparsediff.shipping.catalog import Catalog, Version
from sparsediff.shipping.fetch import fetch, is_intact
from sparsediff.shipping.places import Versions
from sparsediff.shipping.pull import pull
from sparsediff.stores import Store

_PATIENCE = 600.0  # seconds for another run's lock, each time
_LOOK = 0.1  # seconds from one look at whether it shall end to the next
_STREAMS = 4  # requests at once


def versions(store: Store) -> list[Version]:
    """The versions of a store, the oldest first.

    Raises:
        UnavailableError: nothing was shipped yet, or the store is out of reach; try again.
        CorruptError: its pointer is damaged.
        UnsupportedError: its layout is of a later version.
    """
    return list(existing_catalog(store)[0].versions[:])


@dataclass(frozen=True, slots=True)
class Arrival:
    """A version that has arrived.

    Attributes:
        version: which.
        path: its directory; stays until ``keep`` later versions have come.
        previous: what this follower was at before; None if that is not known here.
        base: its directory; None if it is not there any more.
        patches: from ``base`` to ``path``, in order, as files; empty if there is no such way.
            They stay as long as ``base`` does.
        latest: the newest version of the store.
    """

    version: Version
    path: Path
    previous: Version | None
    base: Path | None
    patches: list[Path]
    latest: Version


class Follower:
    """Follows a store; an iterator of arrivals, and an asynchronous one.

    Several followers on one host may share a directory: they wait for each other, and
    what one has fetched and verified is there for all.

    Args:
        store: what to follow.
        directory: where versions go, as with `pull`: ``directory/versions/NAME``.
        holding: name of the version that the caller holds already, which is where the first
            arrival leads from; None if it holds nothing.
        every: seconds from one look at the store to the next while there is nothing new.
        keep: versions to keep in the directory.
        jobs: threads to rebuild with; default all processors.
        ack: name of this machine, under which the store is told what it holds; see below.
        files: patterns of the files to bring, as with `pull`; then the patches of arrivals are
            those from share to share.
        allow_rewind: follow a store that has gone back, whatever its writer says; see `pull`.
        max_bytes: most bytes of a version, as with `pull`; a larger one is not brought.

    An arrival is acknowledged when the next one is asked for: until then the caller may be
    putting it to use.

    Attributes:
        problem: why the last look at the store failed; None if it did not.
        latest: the newest version of the store when it was last looked at.
        lag: how many versions the store then had after the last arrival; None before both.
    """

    def __init__(
        self,
        store: Store,
        directory: Path | str,
        *,
        holding: str | None = None,
        every: float = 1.0,
        keep: int = 2,
        jobs: int | None = None,
        ack: str | None = None,
        files: Sequence[str] = (),
        allow_rewind: bool = False,
        max_bytes: int | None = None,
    ) -> None:
        """See the class.

        Raises:
            UsageError: ``ack`` is no name for a machine.
        """
        self._machine = None if ack is None else Acknowledger(ack)
        self._allow_rewind, self._max_bytes = allow_rewind, max_bytes
        self._store, self._directory = store, Path(os.path.abspath(directory))
        self._holding: Version | str | None = holding
        self._history: str | None = None  # that the version held belongs to
        self._every, self._keep, self._jobs = every, keep, jobs
        self._files = tuple(files)
        self._stopped = threading.Event()
        self.problem: str | None = None
        self.latest: Version | None = None
        self.lag: int | None = None

    def holding(self, name: str) -> None:
        """The version that the caller holds is another than the last that arrived."""
        self._holding = name

    def poll(self, version: str | None = None) -> Arrival | None:
        """Look once: the newest version, if it is another than the last; else None.

        Args:
            version: the one to go to, newer or older, by its name or number; default the newest.

        Raises:
            UsageError: there is no such version.
            UnavailableError: the store is out of reach, or nothing was shipped yet; try again.
            LockedError: another run holds the directory, after ten minutes too; try again.
            CorruptError: the store has no intact way to any new version.
            SparsediffError: as `pull` does.
        """
        return self._poll(self._stopped.is_set, version)

    def _poll(self, ended: Callable[[], bool], version: str | None = None) -> Arrival | None:
        """`poll`, which waits for no lock any more when it has ``ended``."""
        catalog = self._catalog()
        self.latest = catalog.latest
        held = self._held(catalog)
        self._count(catalog)
        if self._machine is not None and held is not None:
            self._machine.tell(self._store, catalog.id, held)
        wanted = catalog.latest if version is None else catalog.find(version)
        if held is not None and wanted is not None and held.version == wanted.version:
            return None
        with waiting(_PATIENCE, lambda _: None, ended):
            result = pull(
                self._store,
                self._directory,
                version=version,
                keep=self._keep,
                keep_patches=True,
                files=self._files,
                allow_rewind=self._allow_rewind,
                max_bytes=self._max_bytes,
                jobs=self._jobs,
            )
        assert result.version is not None
        assert result.path is not None
        assert result.catalog is not None
        if held is not None and held.version == result.version.version:
            return None
        arrival = Arrival(result.version, result.path, held, None, [], latest=result.catalog.latest)
        if held is not None:
            arrival = self._with_way(arrival, held, result.catalog, ended)
        self._holding, self._history = result.version, result.catalog.id
        self.latest = result.catalog.latest
        self._count(result.catalog)
        return arrival

    def stop(self) -> None:
        """End the iteration, from any thread.

        A version on its way is finished first, but no other run is waited for any more.
        """
        self._stopped.set()

    def __iter__(self) -> Iterator[Arrival]:
        """Arrivals, without end until `stop`.

        Raises:
            SparsediffError: as `poll` does, but for what is unavailable, locked or corrupt: that
                may pass, and ``problem`` says what it is.
        """
        while not self._stopped.is_set():
            arrival = self._patient()
            if arrival is not None:
                yield arrival
            else:
                self._stopped.wait(self._every)

    async def __aiter__(self) -> AsyncIterator[Arrival]:
        """The same for asyncio: looks and pulls on a thread.

        If it is cancelled, the thread ends as after `stop`, and what comes until then will come
        again when somebody iterates next.
        """
        cancelled = False

        def look() -> Arrival | None:
            arrival = self._patient(lambda: cancelled or self._stopped.is_set())
            if cancelled:
                self._holding, self._history = before
            return arrival

        while not self._stopped.is_set():
            before = self._holding, self._history
            try:
                arrival = await asyncio.to_thread(look)
            except asyncio.CancelledError:
                cancelled = True
                self._holding, self._history = before
                raise
            if arrival is not None:
                yield arrival
                continue
            end = time.monotonic() + self._every
            while not self._stopped.is_set() and (rest := end - time.monotonic()) > 0:
                await asyncio.sleep(min(rest, _LOOK))

    def _patient(self, ended: Callable[[], bool] | None = None) -> Arrival | None:
        """`poll`, where what may pass is nothing new: the next ship mends a damaged way, too."""
        try:
            arrival = self._poll(ended or self._stopped.is_set)
        except (UnavailableError, LockedError, CorruptError) as e:
            self.problem = str(e)
            return None
        self.problem = None
        return arrival

    def _catalog(self) -> Catalog:
        return existing_catalog(self._store)[0]

    def _count(self, catalog: Catalog) -> None:
        if isinstance(self._holding, Version):
            self.lag, _ = catalog.history.after(self._holding.version)

    def _held(self, catalog: Catalog) -> Version | None:
        if isinstance(self._holding, str):
            found = catalog.find(self._holding)
            if found is None:  # pruned, or of another store
                return None
            self._holding, self._history = found, catalog.id
        elif self._history != catalog.id:  # the store was begun anew: its numbers mean others now
            return None
        return self._holding

    def _with_way(
        self, arrival: Arrival, held: Version, catalog: Catalog, ended: Callable[[], bool]
    ) -> Arrival:
        """The arrival with the patches from what is held, if there are some and their base is."""
        place = Versions(self._directory, self._keep, self._files)
        shared = bool(self._files)
        base = self._directory / "versions" / held.name
        way = catalog.path([held.version], arrival.version.version)
        if way is None or way[0] != held.version or not base.is_dir():
            return arrival
        files = [place.patch(p.sha256) for p in way[1]]
        missing = [
            p for p in way[1] if not is_intact(place.patch(p.sha256), p.sha256, share=shared)
        ]
        if missing:  # another run of pull came here first, and did not keep them
            try:
                with (
                    waiting(_PATIENCE, lambda _: None, ended),
                    place.open(
                        catalog, self._jobs, again=self._catalog, allow_rewind=self._allow_rewind
                    ),
                ):
                    if shared:
                        from sparsediff.shipping.shares import fetch_share, plan

                        missing = way[1]  # what is needed of one, the later ones say
                        shares = plan(self._store, missing, Selection(self._files)).shares
                        fetch_share(self._store, shares, place.fetched, streams=_STREAMS)
                    else:
                        fetch(self._store, missing, place.fetched, streams=_STREAMS)
                    place.keep_patches([p.sha256 for p in missing])
            except (CorruptError, WrongBaseError):
                return arrival
        return replace(arrival, base=base, patches=files)
