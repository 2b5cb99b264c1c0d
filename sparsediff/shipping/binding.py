"""Whose checkpoints a store holds, so that those of another run are not shipped into it.

Enters: a source, the run that a store is bound to, what the state directory remembers of it.
Leaves: that it is the same run, perhaps with a note, or a refusal. Whoever pulls from a
store that another run took over would switch to that one.
"""

from __future__ import annotations

import os
import platform
import uuid
from pathlib import Path

from sparsediff.checksum import checksum
from sparsediff.errors import UsageError, printable
from sparsediff.shipping.catalog import Run


def run_of(source: Path) -> Run:
    """The run at ``source``, with a new id."""
    path = Path(os.path.abspath(source))
    place = os.fsencode(path.parent.resolve() / path.name)
    host = platform.node().encode("utf-8", "surrogateescape")
    name = os.fsencode(path.name).decode("utf-8", "replace") or "/"
    return Run(uuid.uuid4().hex, name, checksum(host)[:16], checksum(place)[:16])


def check_same(bound: Run, ours: Run, known: str | None, store: str) -> str | None:
    """Check that a run may ship into a store.

    It may if its name is the same, and besides either its state directory knows the store's
    run, or its place is the same, or there is nothing to tell: state lost, on another machine.

    Args:
        bound: run of the store.
        ours: the run that is to be shipped.
        known: id of the run that the state directory shipped before; None if it has none.
        store: name, for messages.

    Returns:
        What should not go unnoticed; None if it is certainly the same run.

    Raises:
        UsageError: this is another run.
    """
    if bound.name == ours.name:
        if known == bound.id or (bound.host, bound.path) == (ours.host, ours.path):
            return None
        if known is None and bound.host != ours.host:
            return (
                f"{store}: holds the run {printable(bound.name)} of another machine, and what its "
                "state directory knew is not here; taken for the same run"
            )
    where = " at another place" if bound.name == ours.name else ""
    raise UsageError(
        f"holds the checkpoints of another run, {printable(bound.name)}{where}; give this one a "
        "store of its own, or continue that one with it by `adopt=True`",
        file=store,
        found=ours.name,
    )
