"""Small buckets of which patches store nothing, many at a time, as there may be very many.

Enters: what there is to rebuild, in order. Leaves: the same in batches, and of each what
`rebuild.run` makes of one task after the other, at about the cost of one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from sparsediff.apply.base import Base
from sparsediff.apply.rebuild import Target, Task, run
from sparsediff.disk.inputs import OpenFiles
from sparsediff.disk.outputs import write_all
from sparsediff.patch import words
from sparsediff.patch.container import Patch


def batches(group: Sequence[Patch], tasks: Iterable[Task]) -> Iterator[list[Task]]:
    """Tasks in a row that `run_batch` takes together; most are alone.

    Args:
        group: as `rebuild.tasks` takes it.
        tasks: of that group, all of a file or of several, in order.
    """
    first, *later = (patch.manifest for patch in group)

    def is_alone(bucket: int) -> bool:
        record = first.buckets[bucket]
        is_stored = record.digest is not None or any(m.buckets[bucket].digest for m in later)
        return is_stored or record.base is None

    left = iter(tasks)
    for skeleton in left:
        yield [skeleton]
        for batch in words.batches(first, first.file_buckets[skeleton.file], is_alone):
            yield [*islice(left, len(batch))]


def run_batch(group: Sequence[Patch], base: Base, batch: Sequence[Task], target: Target) -> int:
    """`rebuild.run` of each task; returns their size in bytes.

    Raises:
        SparsediffError: as it does.
    """
    n_bytes = _at_once(group, base, batch, target) if len(batch) > 1 else None
    if n_bytes is None:
        return sum(run(group, base, task, target) for task in batch)
    return n_bytes


def _at_once(
    group: Sequence[Patch], base: Base, batch: Sequence[Task], target: Target
) -> int | None:
    """Read the words of several buckets, check them, and write them as they are.

    Returns:
        Their size in bytes; None if some are not those of the base, and then nothing is written.
    """
    manifest, (first, last) = group[0].manifest, (batch[0].bucket, batch[-1].bucket)
    assert first is not None
    assert last is not None
    buckets = range(first, last + 1)
    with OpenFiles() as files:
        found, sums = words.joined(manifest, buckets, base.source(files))
    if any(manifest.buckets[i].base != own for i, own in zip(buckets, sums, strict=True)):
        return None
    with target(batch[0].file) as fd:
        if fd >= 0:
            for offset, new in words.target_places(group[-1].manifest, found):
                write_all(fd, offset, new)
    return memoryview(found.words[0]).nbytes
