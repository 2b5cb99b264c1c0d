"""Acknowledgements: what each machine of a fleet holds, said in the store by itself.

Enters: the name of a machine, the version it holds; a store. Leaves: one small object for each
machine, ``acks/NAME.json``, replaced whole (store.md, "Acknowledgements"); who is how far
behind; why a version must wait for the slowest. Touches neither pointer nor patches, and takes
no lock. What lies under ``acks/`` may be anybody's and is checked like any input.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, NamedTuple

from sparsediff.errors import UsageError, printable
from sparsediff.parallel import ordered_map
from sparsediff.shipping import fields
from sparsediff.shipping.catalog import Catalog, Version
from sparsediff.shipping.fields import FieldError
from sparsediff.shipping.small import put_small
from sparsediff.stores import Store, Stored

if TYPE_CHECKING:
    from sparsediff.shipping.policy import Policy

PREFIX = "acks/"
_FORMAT = "sparsediff-ack"
_SUFFIX = ".json"
_MAX_BYTES = 4096
_STREAMS = 16  # objects read at once: fleets are large, and each object is small
_REFRESH = 30.0  # seconds after which a machine says again what it said before

# Safe as a file name and as a key everywhere, and on a command line.
_name = fields.matching(
    "[A-Za-z0-9][A-Za-z0-9._-]{0,99}", "up to 100 letters, digits, dots, dashes and underscores"
)
_format = fields.matching(_FORMAT, _FORMAT)


class Ack(NamedTuple):
    """What one machine said last.

    Attributes:
        machine: its name.
        heard: when it said so, by the store's clock, in seconds since the epoch.
        id: of the history that ``version`` belongs to.
        version: number of the version that it holds; 0 if that cannot be read.
        name: of that version.
        problem: why it cannot be read; None if it can.
    """

    machine: str
    heard: float
    id: str | None = None
    version: int = 0
    name: str | None = None
    problem: str | None = None

    def behind(self, catalog: Catalog) -> int:
        """How many versions ago the one that it holds was the latest; of all, if it holds none."""
        held = self.version if self.id == catalog.id else 0
        return max(0, catalog.latest.version - held)


class Acknowledger:
    """Says what one machine holds: at once when that changes, otherwise twice a minute.

    Args:
        machine: its name, which no other machine of the fleet has.
    """

    def __init__(self, machine: str) -> None:
        """See the class.

        Raises:
            UsageError: it is no such name.
        """
        try:
            self._machine = _name(machine)
        except FieldError as e:
            raise UsageError(
                "not a name for a machine in `ack`", expected=e.expected, found=e.found
            ) from None
        self._said: tuple[str, str, int] | None = None
        self._at = 0.0

    def tell(self, store: Store, history: str, version: Version) -> None:
        """Say that ``version`` of a history is here.

        Raises:
            UsageError: it may not be written.
            UnavailableError: the store is full or out of reach.
        """
        said, now = (store.name, history, version.version), time.monotonic()
        if said == self._said and now - self._at < _REFRESH:
            return
        document = {
            "format": _FORMAT,
            "id": history,
            "version": version.version,
            "name": version.name,
        }
        data = (json.dumps(document) + "\n").encode()
        put_small(store, f"{PREFIX}{self._machine}{_SUFFIX}", data)
        self._said, self._at = said, now


def read_acks(store: Store) -> list[Ack]:
    """What all machines said last, by name; objects that cannot be of one are ignored.

    Raises:
        UnavailableError: the store is out of reach.
    """
    found = ordered_map(lambda stored: _read(store, stored), list(store.list(PREFIX)), _STREAMS)
    return [ack for ack in found if ack is not None]


def _read(store: Store, stored: Stored) -> Ack | None:
    """What one object says; None if it is no machine's, or gone."""
    machine = stored.key.removeprefix(PREFIX).removesuffix(_SUFFIX)
    try:
        if stored.key != f"{PREFIX}{_name(machine)}{_SUFFIX}":
            return None
    except FieldError:
        return None
    try:
        if stored.n_bytes > _MAX_BYTES:
            raise FieldError(f"at most {_MAX_BYTES} bytes", stored.n_bytes)
        found = store.get(stored.key)
        if found is None:
            return None
        row = fields.Row(fields.parsed(found[0]))
        row.get("format", _format)
        return Ack(
            machine,
            stored.modified,
            row.get("id", fields.history),
            row.get("version", fields.version),
            row.get("name", fields.file_name),
        )
    except FieldError as e:
        why = f"{stored.key} is damaged, expected {e.text}, found {e.found}"
        return Ack(machine, stored.modified, problem=why)


def held_back(
    store: Store, catalog: Catalog | None, policy: Policy, *, ahead: int = 1
) -> str | None:
    """Why a version must wait for the machines of the fleet; None if it need not.

    Args:
        store: where they say what they hold.
        catalog: of the store; None if it is empty.
        policy: how far behind they may be.
        ahead: how many numbers after the latest version it would be.
    """
    behind, max_age, now = policy.hold_behind, policy.ack_max_age, time.time()
    if catalog is None or behind is None:
        return None
    late = [
        (ack.behind(catalog), ack)
        for ack in read_acks(store)
        if (max_age is None or now - ack.heard <= max_age) and ack.behind(catalog) + ahead > behind
    ]
    if not late:
        return None
    n, slowest = max(late, key=lambda row: row[0])
    who = f"machine {printable(slowest.machine)}"
    others = "" if len(late) == 1 else f", and {len(late) - 1} more are too far behind"
    if slowest.problem is not None:
        return f"what {who} holds cannot be read (`hold_behind`): {slowest.problem}{others}"
    return f"{who} is {n} version{'' if n == 1 else 's'} behind (`hold_behind`){others}"
