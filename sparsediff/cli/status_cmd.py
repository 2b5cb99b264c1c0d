"""``sparsediff status``."""

from __future__ import annotations

import os
import time
from dataclasses import asdict
from operator import itemgetter
from typing import TYPE_CHECKING

import click

from sparsediff.cli.common import (
    duration,
    examples,
    exit_codes,
    in_options,
    json_option,
    message,
    plural,
    print_json,
    say,
)
from sparsediff.cli.keys import trust_option
from sparsediff.cli.stores import opened_store
from sparsediff.cli.tables import print_table
from sparsediff.errors import SparsediffError

if TYPE_CHECKING:
    from sparsediff.shipping.catalog import Catalog
    from sparsediff.shipping.status import Status

_COLUMNS = ("where", "what", "version", "age", "behind", "waiting")
_FLEET = ("machine", "store", "version", "age", "behind", "heard of")


@click.command(
    "status",
    epilog=examples(
        "sparsediff status /runs/grpo7/", "sparsediff status s3://weights/grpo7 /models/* --json"
    )
    + exit_codes(0, 2, 11, 12, 13, 130),
)
@click.argument("places", metavar="PATH...", nargs=-1, required=True)
@trust_option
@click.option("--state", metavar="DIR", help="Where ship keeps the state of the run among them.")
@json_option
def command(places: tuple[str, ...], state: str | None, as_json: bool) -> int:
    """Say where runs, stores and destinations are.

    A run tells what the last ship saw of it: what waits, since when and why.
    A destination tells how far behind it is where its store is known: given
    as well, or a directory. A store knows of those who pulled from it what
    they told it (pull --ack). Changes nothing, and asks only the stores that
    are named.
    """
    from sparsediff.shipping.status import (
        compare,
        fleet,
        is_store,
        status_of_path,
        status_of_store,
    )

    of_place: dict[str, list[Status]] = {}
    catalogs: dict[str, Catalog] = {}
    code = 0
    # Stores last: so none is older than what a destination that pulls meanwhile has had of it.
    kinds = {place: "://" in place or is_store(place) for place in places}
    for place, is_one in sorted(kinds.items(), key=itemgetter(1)):
        try:
            if is_one:
                with opened_store(place, None, 5, create=False) as store:
                    status, catalog = status_of_store(store)
                    of_place[place] = [status, *fleet(store, catalog)]
                    catalogs[store.name] = catalog
            else:
                of_place[place] = status_of_path(place, state)
        except SparsediffError as e:
            say(f"sparsediff: {message(e)}", err=True)
            code = code or e.exit_code
    found = [status for place in places for status in of_place.get(place, [])]
    catalogs |= _others(found, catalogs)
    found = compare(found, catalogs)
    if as_json:
        print_json(
            [
                asdict(s) | {"waiting": [asdict(w) | {"why": in_options(w.why)} for w in s.waiting]}
                for s in found
            ]
        )
    elif found:
        _print(found, catalogs, time.time())
    return code


def _others(found: list[Status], known: dict[str, Catalog]) -> dict[str, Catalog]:
    """Catalogs of stores that were not given, and are directories that can be looked into.

    A name that is relative was so to a directory that nobody remembers: what is there by that name
    now counts only if it is of the same history.
    """
    from sparsediff.shipping.status import place_of, status_of_store

    catalogs: dict[str, Catalog] = {}
    given = {place_of(name) for name in known}
    for s in found:
        name = s.store
        if name is None or name in catalogs or "://" in name or place_of(name) in given:
            continue
        if not os.path.isdir(name):
            continue
        try:
            with opened_store(name, None, 0, create=False) as store:
                catalog = status_of_store(store)[1]
        except SparsediffError:
            continue  # nobody asked for it
        if os.path.isabs(name) or catalog.id == s.id:
            catalogs[name] = catalog
    return catalogs


def _print(found: list[Status], catalogs: dict[str, Catalog], now: float) -> None:
    """Print a table, and below it what does not fit into one."""
    from sparsediff.shipping.status import place_of

    def ago(at: float | None) -> str:
        return "-" if at is None else duration(max(0.0, now - at))

    rows, machines = [], []
    for s in found:
        behind = "-" if s.behind is None else plural(s.behind, "version")
        if s.behind_since is not None:
            behind += f", {ago(s.behind_since)}"
        version = s.name or ("-" if s.version is None else f"version {s.version}")
        if s.kind == "machine":
            store = s.store or ""
            machines.append([s.place, store, version, ago(s.shipped), behind, ago(s.looked)])
        else:
            waiting = str(len(s.waiting)) if s.kind == "run" else "-"
            rows.append([s.place, s.kind, version, ago(s.shipped), behind, waiting])
    print_table(_COLUMNS, rows, expendable=("what", "age"))
    if machines:
        say("")
        print_table(_FLEET, machines, expendable=("store", "age"))
    read = {place_of(name) for name in catalogs}
    for s in found:
        if s.kind == "run":
            where = "" if s.store is None else f", for {s.store}"  # unknown until it ships
            say(
                f"{s.place}: ship looked {ago(s.looked)} ago{where}; the newest checkpoint "
                f"was written {ago(s.newest)} ago"
            )
        for w in s.waiting:
            say(f"{s.place}: {w.name} has waited for {ago(w.since)}: {in_options(w.why)}")
        unknown = s.kind == "destination" and s.version is not None and s.behind is None
        if unknown and (s.store is None or place_of(s.store) not in read):
            say(f"{s.place}: for how far behind it is, give {s.store or 'its store'} as well")
        for problem in s.problems:
            say(f"{s.place}: {problem}")
