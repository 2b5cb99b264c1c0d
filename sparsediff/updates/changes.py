"""What a patch changes, as positions and words: for whoever holds the weights already.

Enters: a patch, and its base on disk or in memory. Leaves: per tensor the flat
positions that change and their new words, a bucket's worth at a time. Of a bucket
nothing leaves before its base words, its payload and its result were verified; that
all the others are right is known at the end only. Never writes, and never holds
more than a few buckets.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sparsediff.apply.rebuild import Base, Task, run, tasks
from sparsediff.disk.inputs import OpenFiles
from sparsediff.errors import WrongBaseError
from sparsediff.kernels import Words
from sparsediff.parallel import ordered_map
from sparsediff.patch import words
from sparsediff.patch.container import Patch
from sparsediff.patch.manifest import Manifest
from sparsediff.updates.named import BaseTensors

Indices = npt.NDArray[np.signedinteger[Any]]


@dataclass(frozen=True, slots=True)
class Change:
    """New words of the manifest's tensor ``tensor``, from word ``start`` on.

    ``positions`` count from ``start`` (int32, strictly increasing); None means that
    ``values`` are the next words, all of them.
    """

    tensor: int
    start: int
    positions: npt.NDArray[np.int32] | None
    values: Words

    def indices(self, dtype: type[np.int32] | type[np.int64]) -> Indices:
        """Flat positions in the tensor."""
        flat = np.empty(self.values.size, dtype)
        flat[:] = np.arange(self.values.size) if self.positions is None else self.positions
        flat += dtype(self.start)
        return flat


def changes(
    patch: Patch,
    base: Base,
    jobs: int,
    *,
    whole: Collection[int] = (),
    whole_runs: bool = False,
    skip_unchanged: bool = False,
) -> Iterator[Change]:
    """Everything that changes in tensors, bucket by bucket, each verified.

    Args:
        patch: opened, nothing of it read yet.
        base: where base words come from.
        jobs: threads.
        whole: rows of tensors of which to give every word, changed or not.
        whole_runs: where most words change, give all of them instead of positions.
        skip_unchanged: do not even read the base words of buckets that the patch leaves alone.

    Raises:
        WrongBaseError: base words are not those the patch was made from.
        CorruptError: the patch is damaged.
    """

    def job(task: Task) -> list[Change]:
        (payload,) = task.payloads
        named = task.bucket is not None and _is_named(patch.manifest, task.bucket)
        try:
            if task.bucket is None or not named:
                if payload is not None:
                    payload.verified()
            elif payload is not None or not _avoids(patch.manifest, task.bucket, whole):
                return _decode(patch, base, task, whole, whole_runs)
            elif not skip_unchanged:
                base.check(task.bucket)
        except WrongBaseError as e:
            if isinstance(base, BaseTensors):
                e.offset = None  # that of a file
            raise
        return []

    for found in ordered_map(job, tasks([patch]), jobs):
        yield from found


def _is_named(manifest: Manifest, bucket: int) -> bool:
    """Whether a bucket holds words of tensors, not bytes of a file without any."""
    return manifest.names[manifest.buckets[bucket].tensors[0]] is not None


def _avoids(manifest: Manifest, bucket: int, rows: Collection[int]) -> bool:
    """Whether a bucket holds no words of these tensors."""
    return not rows or not any(row in rows for row in manifest.buckets[bucket].tensors)


class _Overheard:
    """A base of which the words last read can be asked for: those before a change."""

    def __init__(self, base: Base) -> None:
        self._base = base
        self.path, self.check, self.skeleton = base.path, base.check, base.skeleton
        self.last: Words | None = None

    def source(self, files: OpenFiles) -> words.Source:
        inner = self._base.source(files)

        def read(index: int, offset: int, buffer: Any) -> None:
            inner.read(index, offset, buffer)
            self.last = buffer.copy()

        return words.Source(inner.place, read)


def _decode(
    patch: Patch, base: Base, task: Task, whole: Collection[int], whole_runs: bool
) -> list[Change]:
    """Changes of one bucket, all of it verified."""
    assert task.bucket is not None
    overheard = _Overheard(base)
    parts = iter(patch.manifest.parts[task.bucket])
    part, done = next(parts), 0
    found: list[Change] = []

    def write(_: int, __: int, new: Words) -> None:
        nonlocal part, done
        if done == part.n_words:  # pieces never cross parts
            part, done = next(parts), 0
        positions: npt.NDArray[np.int32] | None = None
        values = new
        if overheard.last is not None and part.tensor not in whole:
            positions = np.flatnonzero(overheard.last != new).astype(np.int32)
            if whole_runs and positions.size * (4 + new.itemsize) > new.nbytes:
                positions = None
            else:
                values = new[positions]
                positions += np.int32(done)
        start = part.start + (done if positions is None else 0)
        done += new.size
        if values.size:
            found.append(Change(part.tensor, start, positions, values.copy()))

    run([patch], overheard, task, write)
    return _joined(found)


def _joined(found: list[Change]) -> list[Change]:
    """Changes of consecutive pieces of one part as one."""
    groups: list[list[Change]] = []
    for change in found:
        last = groups[-1][-1] if groups else None
        if (
            last is not None
            and last.positions is not None
            and change.positions is not None
            and (last.tensor, last.start) == (change.tensor, change.start)
        ):
            groups[-1].append(change)
        else:
            groups.append([change])
    return [
        group[0]
        if len(group) == 1
        else Change(
            group[0].tensor,
            group[0].start,
            np.concatenate([c.positions for c in group if c.positions is not None]),
            np.concatenate([c.values for c in group]),
        )
        for group in groups
    ]
