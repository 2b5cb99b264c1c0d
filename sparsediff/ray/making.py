"""make, on a cluster: each task makes one part, and they are merged here.

Enters: base and target, which every node sees. Leaves: the patch that one machine would make,
byte for byte. Parts come through Ray's object store: nodes keep no file, and need not see
where the patch is written.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sparsediff.checkpoint import open_checkpoint
from sparsediff.disk.names import temp_sibling
from sparsediff.disk.selection import Selection
from sparsediff.disk.temps import discard, scratch_directory, temp_directory
from sparsediff.errors import os_errors
from sparsediff.make import MakeResult, Share, make_part, merge_parts
from sparsediff.make.spool import Output, place_of
from sparsediff.parallel import Progress
from sparsediff.ray.cluster import Note, connected

if TYPE_CHECKING:
    from sparsediff.signing import Signer


def make(
    base: Path | str,
    target: Path | str,
    output: Output,
    *,
    address: str | None = None,
    parts: int | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    force: bool = False,
    progress: Progress | None = None,
    note: Note | None = None,
    signer: Signer | None = None,
) -> MakeResult:
    """Write the patch that turns ``base`` into ``target``, made on a cluster of Ray.

    Args:
        base: as of `make_patch`; this process and every node must see the same files.
        target: likewise.
        output: as of `make_patch`; only this process writes there.
        address: of the cluster, as ``ray.init`` takes it: ``auto`` for that of this machine,
            None for what Ray is configured to use, or one of this machine alone. A process
            that is connected already stays connected, and uses that cluster.
        parts: how many tasks; default two for each processor of the cluster, of at least 64 MiB
            and at most 2 GiB of the target. Does not change the patch.
        include: as of `make_patch`.
        exclude: as of `make_patch`.
        force: replace an existing output.
        progress: told of bytes of the target in parts that are done.
        note: told of parts that were lost with their node and are made again.
        signer: as of `make_patch`; nodes have no key.

    Raises:
        SparsediffError: as `make_patch` raises it, here or on a node.
        UsageError: Ray is not installed, or a node does not see the checkpoints.
        UnavailableError: there is no such cluster, or a part was lost again and again.
        UnsupportedError: a node has no sparsediff, or another version.
    """
    place = place_of(output, force=force, inputs=[base, target], signer=signer)
    chosen = Selection(tuple(include), tuple(exclude))
    open_checkpoint(base, allow_empty=True, selection=chosen)
    opened = open_checkpoint(target, whole=True, selection=chosen)
    if parts is not None:
        Share(1, parts)  # which says how many there may be
    base, target = os.path.abspath(base), os.path.abspath(target)
    with _room(place) as room:
        paths, done = [], 0
        with connected(address, note) as cluster:
            n_parts = parts or cluster.n_tasks(opened.n_bytes)
            shares = [Share(i, n_parts) for i in range(1, n_parts + 1)]
            calls = {
                f"part {share}": (base, target, share, tuple(include), tuple(exclude))
                for share in shares
            }
            for name, (data, n_bytes) in cluster.results(_part, calls):
                path = room / name.replace("/", " of ")
                with os_errors(path):
                    path.write_bytes(data)
                paths.append(path)
                done += n_bytes
                if progress is not None:
                    progress(done, opened.n_bytes)
        made = merge_parts(paths, output, force=force, signer=signer)
        return replace(made, left_out=list(opened.left_out))


def _part(
    base: str, target: str, share: Share, include: Sequence[str], exclude: Sequence[str]
) -> tuple[bytes, int]:
    """On a node: a part, and how much of the target it holds."""
    made = io.BytesIO()
    result = make_part(base, target, share, made, jobs=1, include=include, exclude=exclude)
    return made.getvalue(), result.target_bytes


@contextmanager
def _room(place: Path | None) -> Iterator[Path]:
    """A directory for parts, beside the output where that is a file; removed in the end."""
    if place is None:
        with scratch_directory() as room:
            yield room
        return
    path = temp_sibling(place.parent / f"{place.name}.parts")
    with temp_directory(path):
        try:
            yield path
        finally:
            discard(path)
