"""ship, on a cluster: each patch of a version is made in parts there, and published here.

Enters: a source and a store, and a directory for what must be kept between runs, which every
node sees. Leaves: the versions that one machine would ship. Only this process writes into the
store: one version after the other, each with one update of the pointer.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from sparsediff.parallel import Progress
from sparsediff.ray.cluster import Note
from sparsediff.ray.making import make
from sparsediff.shipping.policy import Policy
from sparsediff.shipping.ship import ShipResult
from sparsediff.shipping.ship import ship as ship_on_one
from sparsediff.stores import Store


def ship(
    path: Path | str,
    store: Store,
    policy: Policy | None = None,
    *,
    address: str | None = None,
    parts: int | None = None,
    state_directory: Path | str | None = None,
    adopt: bool = False,
    streams: int = 4,
    note: Note = lambda _: None,
    progress: Progress | None = None,
    result: ShipResult | None = None,
) -> ShipResult:
    """Publish the complete checkpoints of a source, their patches made on a cluster of Ray.

    A run that finds nothing to ship does not connect to the cluster.

    Args:
        path: as of `shipping.ship`.
        store: likewise; nodes need not reach it.
        policy: likewise.
        address: of the cluster, as of `make`.
        parts: of each patch, as of `make`.
        state_directory: as of `shipping.ship`; nodes read there the copy of the checkpoint
            that patches are made from, so every node must see it.
        adopt: as of `shipping.ship`.
        streams: likewise.
        note: told what should not go unnoticed, parts that are made again among it.
        progress: as of `shipping.ship`.
        result: likewise.

    Raises:
        SparsediffError: as `shipping.ship` and `make` raise it.
    """
    return ship_on_one(
        path,
        store,
        policy,
        state_directory=state_directory,
        adopt=adopt,
        streams=streams,
        make=partial(make, address=address, parts=parts, note=note),
        note=note,
        progress=progress,
        result=result,
    )
