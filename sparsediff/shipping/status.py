"""Where runs, stores and destinations are, from what they remember of themselves.

Enters: a path, or a store. Leaves: a `Status` for each thing that is there. A run tells what
the last `ship` saw of it, without its store; a destination what it is at, and how far behind
if the catalog of its store is known. Takes no lock and changes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from sparsediff.errors import UsageError, printable
from sparsediff.shipping import state
from sparsediff.shipping.absent import HOME, existing_catalog, home_in_place
from sparsediff.shipping.acks import read_acks
from sparsediff.shipping.catalog import PREFIX, Catalog
from sparsediff.shipping.catalog_json import POINTER
from sparsediff.shipping.in_place import InPlace
from sparsediff.shipping.places import CURRENT, Place, Versions
from sparsediff.shipping.state import Waiting, default_state
from sparsediff.stores import Store

_REFUSES = {"run": "ship", "destination": "pull"}  # a store that has gone back


@dataclass(frozen=True, slots=True)
class Status:
    """Where one of them is. Times are in seconds since the epoch.

    Attributes:
        place: path or URL.
        kind: ``run``, ``store``, ``destination`` or ``machine``, which told its store.
        id: of the history that the numbers of versions belong to.
        store: name of the store, as it was given to `ship` or `pull`.
        version: number of the latest version shipped, or of the one that is here.
        name: of that version.
        shipped: when it was.
        looked: of a run, when `ship` looked last; of a destination, when it was switched; of
            a machine, when it was heard of last.
        newest: of a run, when the newest checkpoint seen was written.
        waiting: of a run, what waited then.
        behind: of a destination or a machine, versions of its store that are newer; None if
            not known.
        behind_since: when the oldest of these was shipped.
        problems: what is not as it should be, in words.
        had: of a run or a destination, number of the newest version that its store has had.
    """

    place: str
    kind: str
    id: str | None = None
    store: str | None = None
    version: int | None = None
    name: str | None = None
    shipped: float | None = None
    looked: float | None = None
    newest: float | None = None
    waiting: tuple[Waiting, ...] = ()
    behind: int | None = None
    behind_since: float | None = None
    problems: tuple[str, ...] = ()
    had: int | None = None


def is_store(path: Path | str) -> bool:
    """Whether a directory is a store, or was one before it lost its pointer."""
    has_objects = os.path.isdir(Path(path, PREFIX)) and not os.path.lexists(Path(path, HOME))
    return os.path.isfile(Path(path, POINTER)) or has_objects


def status_of_store(store: Store) -> tuple[Status, Catalog]:
    """The status of a store, and its catalog.

    Raises:
        SparsediffError: it has no pointer, or a damaged one, or is out of reach.
    """
    catalog, _ = existing_catalog(store)
    latest = catalog.latest
    lost = catalog.is_lost(latest)
    problems = (f"{printable(latest.name)} is lost until the next ship",) if lost else ()
    return Status(
        store.name,
        "store",
        catalog.id,
        store.name,
        latest.version,
        latest.name,
        latest.shipped,
        problems=problems,
    ), catalog


def fleet(store: Store, catalog: Catalog) -> list[Status]:
    """The status of each machine that acknowledges what it holds, whoever is farthest behind first.

    Args:
        store: where they do.
        catalog: of the store.

    Raises:
        UnavailableError: the store is out of reach.
    """
    machines = []
    for ack in read_acks(store):
        held = catalog.get(ack.version) if ack.id == catalog.id else None
        status = Status(
            ack.machine,
            "machine",
            ack.id,
            store.name,
            ack.version or None,
            ack.name,
            None if held is None else held.shipped,
            ack.heard,
            behind=ack.behind(catalog),
            behind_since=_since(catalog, catalog.latest.version - ack.behind(catalog)),
            problems=() if ack.problem is None else (ack.problem,),
        )
        machines.append(status)
    return sorted(machines, key=lambda s: -(s.behind or 0))


def _since(catalog: Catalog, version: int) -> float | None:
    """When the oldest version after this one was shipped."""
    _, first = catalog.history.after(version)
    return None if first is None else first.shipped


def status_of_path(path: Path | str, state_directory: Path | str | None = None) -> list[Status]:
    """The status of a run, of a destination, or of a destination that is shipped on.

    Args:
        path: of either.
        state_directory: of the run; default `default_state`.

    Raises:
        UsageError: it is neither, or neither has run yet.
        CorruptError: what is remembered is damaged.
    """
    here = Path(os.path.abspath(path))
    home = default_state(here) if state_directory is None else Path(state_directory)
    found = []
    if os.path.lexists(home / state.NAME) or os.path.lexists(home / state.SEEN):
        found.append(_run(str(path), home))
    if os.path.lexists(here / HOME):
        found.append(_destination(str(path), Versions(here, 1), here / CURRENT))
    if os.path.lexists(home_in_place(here)):
        found.append(_destination(str(path), InPlace(here), home_in_place(here) / state.NAME))
    if not found:
        raise UsageError(
            "is no store, and neither ship nor pull remembers anything of it", file=path
        )
    return found


def compare(found: list[Status], catalogs: Mapping[str, Catalog]) -> list[Status]:
    """The same, with what the catalogs of stores say of each.

    Args:
        found: whose records were read before the stores: so a store that is older has gone back.
        catalogs: by the names of the stores.
    """
    by_place = {place_of(name): catalog for name, catalog in catalogs.items()}
    in_order = sorted(catalogs.values(), key=lambda c: c.latest.version)
    by_id = {catalog.id: catalog for catalog in in_order}  # of copies of a store the newest
    compared = []
    for s in found:
        own = None if s.store is None else by_place.get(place_of(s.store))
        catalog = own if own is not None and own.id == s.id else by_id.get(s.id or "")
        compared.append(_compared(s, catalog, own is not None))
    return compared


def place_of(store: str) -> str:
    """Where a store of this name is, however the name is written."""
    return store if "://" in store else os.path.realpath(store)


def _compared(status: Status, catalog: Catalog | None, is_read: bool) -> Status:
    if status.kind not in _REFUSES:
        return status
    if catalog is not None and status.had is not None and catalog.latest.version < status.had:
        back = (
            f"its store has gone back to version {catalog.latest.version}, and was at "
            f"{status.had}; {_REFUSES[status.kind]} refuses it"
        )
        status = replace(status, problems=(*status.problems, back))
    if status.kind == "run":
        return status
    if catalog is None:
        if not is_read or status.id is None:
            return status
        other = f"holds another history than {printable(status.store or '')}"
        return replace(status, problems=(*status.problems, other))
    n_newer, newer = catalog.history.after(status.version or 0)
    here = None if status.version is None else catalog.get(status.version)
    return replace(
        status,
        name=status.name if here is None else here.name,
        shipped=None if here is None else here.shipped,
        behind=n_newer,
        behind_since=None if newer is None else newer.shipped,
    )


def _run(place: str, home: Path) -> Status:
    sent, seen = state.load_sent(home), state.load_seen(home)
    number = max(sent.kept, default=None) if seen.latest is not None else None
    return Status(
        place,
        "run",
        sent.id,
        sent.store,
        number,
        seen.latest,
        seen.shipped,
        seen.looked or None,
        seen.newest or None,
        seen.waiting,
        had=sent.newest,
    )


def _destination(path: str, place: Place, witness: Path) -> Status:
    """The status of a destination; a switch makes ``witness`` anew."""
    place.look()
    record, version = place.record, place.current()
    problems = []
    if version is not None and record.told != f"{record.id} {version}":
        problems.append("the command after the switch has not succeeded yet")
    if record.updating is not None:
        problems.append("an update in place was interrupted; the next pull completes it")
    return Status(
        path,
        "destination",
        record.id,
        record.store,
        version,
        None if version is None else record.versions.get(version),
        looked=os.lstat(witness).st_mtime if os.path.lexists(witness) else None,
        problems=tuple(problems),
        had=record.known_newest() or None,
    )
