"""What a run of ship would do now, found out without doing it.

Enters: what `ship` is given. Leaves: what is due and how it would be stored, as far as that
can be known before a patch is made, and what waits. Takes no lock and writes nothing, neither
in the store nor in the state directory.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from sparsediff.errors import CorruptError, UsageError
from sparsediff.shipping import snapshot, state
from sparsediff.shipping.acks import held_back
from sparsediff.shipping.binding import run_of
from sparsediff.shipping.catalog import Catalog, StoredPatch, Version
from sparsediff.shipping.kept import Kept
from sparsediff.shipping.look import Look, holding, look
from sparsediff.shipping.pointer import Pointer
from sparsediff.shipping.policy import Policy
from sparsediff.shipping.ship import check_apart, check_source
from sparsediff.shipping.source import Candidate
from sparsediff.stores import Store


@dataclass(frozen=True, slots=True)
class Planned:
    """A version that would be shipped.

    Attributes:
        name: of the checkpoint.
        n_bytes: of its files that would be carried.
        kind: ``patch`` or ``anchor``; what a patch weighs may still make it an anchor.
        like_bytes: what the last one of this kind weighed; None if there was none.
        is_again: whether it was shipped before, and is shipped only if its bytes differ.
    """

    name: str
    n_bytes: int
    kind: str
    like_bytes: int | None
    is_again: bool


@dataclass(frozen=True, slots=True)
class Preview:
    """What `ship` would do.

    Attributes:
        catalog: of the store; None if it holds nothing.
        planned: versions, in order.
        found: what the source holds.
    """

    catalog: Catalog | None
    planned: list[Planned]
    found: Look


def preview(
    path: Path | str,
    store: Store | None,
    policy: Policy | None = None,
    *,
    state_directory: Path | str | None = None,
    adopt: bool = False,
) -> Preview:
    """Say what `ship` would do.

    Args:
        path: as for `ship`, and so are the others.
        store: where to; None if its directory is still to be made.
        policy: what is shipped and how.
        state_directory: need not exist.
        adopt: whether another run's store would be continued.

    Raises:
        SparsediffError: what `ship` would end with.
    """
    check_source(path)
    path, policy = Path(path), policy or Policy()
    home = Path(state_directory) if state_directory is not None else state.default_state(path)
    check_apart(path, home)
    catalog, has_base = None, False
    if store is not None:
        kept = Kept(home, Path(os.path.abspath(path)).name, store)
        pointer = Pointer(
            store, run_of(path), kept, adopt=False, rewind=policy.rewind, note=lambda _: None
        )
        try:
            pointer.read()
        except UsageError:
            if not adopt:
                raise
        catalog = pointer.catalog
        identities, _ = kept.known(catalog, rewind=policy.rewind)
        if catalog is not None and catalog.latest.version in identities:
            with suppress(CorruptError):
                version = catalog.latest.version
                snapshot.check_kept(kept.place(version), identities[version])
                has_base = True
    found = look(path, catalog, policy, state.load_seen(home))
    planned, then = [], catalog
    for i, candidate in enumerate(found.due):
        held = None if store is None else held_back(store, catalog, policy, ahead=i + 1)
        if held is not None:
            names = {c.name for c in found.due[i:]}
            found = replace(found, waiting=holding(found.waiting, names, held))
            break
        again = catalog is not None and candidate.number == catalog.latest.number
        plan, then = _plan(candidate, policy, catalog, then, has_base)
        planned.append(replace(plan, is_again=again))
        has_base = True
    return Preview(catalog, planned, found)


def _plan(
    candidate: Candidate,
    policy: Policy,
    stored: Catalog | None,
    catalog: Catalog | None,
    has_base: bool,
) -> tuple[Planned, Catalog]:
    """How one checkpoint would be stored, and the catalog afterwards.

    Args:
        candidate: to be stored.
        policy: how.
        stored: catalog as it is, which says what versions weigh.
        catalog: as it would be by then.
        has_base: whether what the latest version was made from is here.
    """
    known = () if stored is None else stored.versions
    steps = (v.step.n_bytes for v in reversed(known) if v.step is not None)
    anchors = (v.anchor.n_bytes for v in reversed(known) if v.anchor is not None)
    n_bytes = sum(n for _, n, *_ in snapshot.states(candidate.path, policy.selection))
    step = next(steps, None)
    is_anchor = policy.wants_anchor(catalog, (step or 0) if has_base else None)
    like = next(anchors, None) if is_anchor else step
    number = 1 if catalog is None else catalog.latest.version + 1
    weight = (n_bytes if is_anchor else 0) if like is None else like
    patch = StoredPatch(None if is_anchor else number - 1, "", weight, "")
    version = Version(number, candidate.name, candidate.number, "", 0.0, n_bytes, 0, None, (patch,))
    then = Catalog("", (version,)) if catalog is None else catalog.published(version)
    kind = "anchor" if is_anchor else "patch"
    return Planned(candidate.name, n_bytes, kind, like, is_again=False), then
