"""What a source holds that its store does not: what is due, what waits, since when and why.

Enters: a source, the catalog of its store, a policy, and when each checkpoint was first
seen. Leaves: a `Look`. `ship` acts on it, ``--dry-run`` and ``status`` show it: nothing
here writes, and nothing waits without being in it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from sparsediff.disk.names import CANNOT_BE_CARRIED
from sparsediff.errors import SparsediffError
from sparsediff.shipping import snapshot
from sparsediff.shipping.catalog import Catalog
from sparsediff.shipping.complete import holds_weights
from sparsediff.shipping.policy import Policy
from sparsediff.shipping.source import Candidate, survey
from sparsediff.shipping.state import Seen, Waiting

REASONS = ("ready", "incomplete", "name", "taken-back", "held")
"""Why a checkpoint can wait: it is complete and due; it is not complete; a name in it cannot
be carried; its weights changed although later checkpoints were shipped; it is complete, and
machines are too far behind."""


@dataclass(frozen=True, slots=True)
class Look:
    """What was found.

    Attributes:
        due: complete checkpoints to be shipped, in order.
        waiting: all that is not in the store, those due included, the longest waiting first.
        others: names that carry a number and are of another sequence.
        seen: what the next look should know.
    """

    due: list[Candidate]
    waiting: list[Waiting]
    others: list[str]
    seen: Seen


def look(path: Path, catalog: Catalog | None, policy: Policy, seen: Seen) -> Look:
    """Look at a source.

    Args:
        path: directory of numbered checkpoints, or one checkpoint.
        catalog: of the store; None if it holds nothing yet.
        policy: what is shipped.
        seen: by earlier looks.

    Raises:
        UsageError: the source is unusable.
        UnavailableError: it holds no checkpoint yet.
    """
    after, since = None, 0.0
    known: Iterable[str] = ()
    same: str | None = None
    last: list[str | None] = []
    if catalog is not None:
        latest = catalog.latest
        same = seen.same if seen.latest == latest.name else None
        known = (v.name for v in reversed(catalog.versions))
        if not policy.rewind:
            after, since, last = latest.number, latest.shipped, [latest.source, same]
            if after is not None and catalog.is_lost(latest):
                after -= 1
    found = survey(path, policy.rule, after=after, since=since, last=last, known=known)
    due, left = policy.due(catalog, found.complete, same)
    waiting = [(c.name, c.number, "ready", "is complete and about to be shipped") for c in due]
    again = "changed after later ones were shipped (`rewind=True` ships it)"
    waiting += [(c.name, c.number, "taken-back", again) for c in left if _weights_changed(c, since)]
    for name, why in found.incomplete:
        reason = "name" if CANNOT_BE_CARRIED in why else "incomplete"
        waiting.append((name, found.numbers[name], reason, why))
    now = time.time()
    first: dict[str, float] = {}
    newest = [seen.newest, *(c.modified for c in found.complete)]
    rows = []
    for name, number, reason, why in waiting:
        modified, n_bytes = _state(path if number is None else path / name)
        first[name] = min(seen.first.get(name, now), now)
        at = first[name] if modified is None else max(0.0, min(first[name], modified))
        rows.append(Waiting(name, number, reason, why, at, n_bytes))
        newest.append(modified or 0.0)
    rows.sort(key=lambda w: w.since)
    # A clock that was ahead when a time was taken is not believed.
    written = max((t for t in newest if 0 <= t <= now), default=0.0)
    return Look(due, rows, found.others, Seen(first, written, now, same=same))


def holding(waiting: list[Waiting], held: Collection[str], why: str) -> list[Waiting]:
    """The same, where those due whose names are in ``held`` wait for machines; ``why`` says so."""
    return [
        replace(w, reason="held", why=why) if w.reason == "ready" and w.name in held else w
        for w in waiting
    ]


def _weights_changed(candidate: Candidate, since: float) -> bool:
    """Whether files of weights changed: results of an evaluation come later than a checkpoint."""
    try:
        times = {name: mtime / 1e9 for name, _, mtime, _ in snapshot.states(candidate.path)}
    except SparsediffError:
        return False  # gone meanwhile
    weights = [t for name, t in times.items() if not name or holds_weights([name])]
    return max(weights or times.values(), default=0.0) > since


def _state(place: Path) -> tuple[float | None, int]:
    """Newest mtime and bytes of a checkpoint; the mtime of its directory if that is all."""
    try:
        files = snapshot.states(place)
    except SparsediffError:
        files = []
    if files:
        return max(mtime for _, _, mtime, _ in files) / 1e9, sum(n for _, n, *_ in files)
    try:
        return os.stat(place).st_mtime, 0
    except OSError:
        return None, 0
