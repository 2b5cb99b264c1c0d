"""A series of checkpoints: density of each step, and how much consecutive changes overlap.

Enters: paths in order of time. Leaves: a `SeriesStep` per consecutive pair.
Tensors are compared by name where dtype and size agree; whatever has no
counterpart counts as changed. Reads piece by piece, never a whole file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sparsediff.checkpoint import Checkpoint, CheckpointFile, open_checkpoint
from sparsediff.checkpoint.formats import Span
from sparsediff.kernels import Words
from sparsediff.parallel import Progress, default_jobs, ordered_map
from sparsediff.patch import measures

_PIECE = 1 << 22  # words read at a time

Located = tuple[CheckpointFile, Span]


@dataclass(frozen=True, slots=True)
class SeriesStep:
    """The difference of two consecutive checkpoints.

    Attributes:
        base: the earlier.
        target: the later.
        n_elements: stored words of the later one's tensors.
        n_changed: those that changed.
        n_repeated: those that had changed in the step before too; None for
            the first step.
    """

    base: Path
    target: Path
    n_elements: int
    n_changed: int
    n_repeated: int | None

    @property
    def density(self) -> float | None:
        """Changed elements per element."""
        return measures.share(self.n_changed, self.n_elements)

    @property
    def repeated_share(self) -> float | None:
        """Share of the changed positions that had changed in the step before."""
        return None if self.n_repeated is None else measures.share(self.n_repeated, self.n_changed)


def series_stats(
    checkpoints: Sequence[Path | str],
    *,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> list[SeriesStep]:
    """Compare each checkpoint with the one before.

    Args:
        checkpoints: two or more, in order.
        jobs: threads; default all processors.
        progress: told of bytes compared.

    Raises:
        SparsediffError: as `open_checkpoint` does, or a file changed meanwhile.
    """
    opened = [open_checkpoint(c) for c in checkpoints]
    tables = [_by_name(c) for c in opened]
    total = sum(c.n_bytes for c in opened[1:])
    done = 0
    steps = []
    for i in range(1, len(opened)):
        tasks = []
        n_elements = n_changed = n_repeated = 0
        for name, (file, span) in tables[i].items():
            n_elements += span.n_words
            before = _same(tables[i - 1].get(name), span)
            if before is None:
                n_changed += span.n_words
                done += span.nbytes
                continue
            earlier = _same(tables[i - 2].get(name), span) if i > 1 else None
            for start in range(0, span.n_words, _PIECE):
                tasks.append(((file, span), before, earlier, start))
        for n_bytes, changed, repeated in ordered_map(_compare, tasks, jobs or default_jobs()):
            n_changed += changed
            n_repeated += repeated
            done += n_bytes
            if progress is not None:
                progress(min(done, total), total)
        steps.append(
            SeriesStep(
                opened[i - 1].path,
                opened[i].path,
                n_elements,
                n_changed,
                n_repeated if i > 1 else None,
            )
        )
    for checkpoint in opened:
        checkpoint.check_unchanged()
    return steps


def _by_name(checkpoint: Checkpoint) -> dict[tuple[str, str], Located]:
    """Tensors by name; those of a name used before by file too."""
    table: dict[tuple[str, str], Located] = {}
    for file in checkpoint.files:
        for span in file.spans:
            if span.is_all_of(file.source.size):
                continue
            key = ("", span.name)
            table[key if key not in table else (file.name, span.name)] = (file, span)
    return table


def _same(located: Located | None, span: Span) -> Located | None:
    if located is None or (located[1].dtype, located[1].n_words) != (span.dtype, span.n_words):
        return None
    return located


def _compare(task: tuple[Located, Located, Located | None, int]) -> tuple[int, int, int]:
    """Bytes, changed words and words changed twice of one piece of a tensor."""
    now, before, earlier, start = task
    a, b = _read(before, start), _read(now, start)
    changed = a != b
    n_changed = int(np.count_nonzero(changed))
    if earlier is None:  # it had no counterpart then, so all of it counted as changed
        return b.nbytes, n_changed, n_changed
    return b.nbytes, n_changed, int(np.count_nonzero(changed & (_read(earlier, start) != a)))


def _read(located: Located, start: int) -> Words:
    file, span = located
    words = np.empty(min(_PIECE, span.n_words - start), span.dtype.numpy)
    file.source.read_into(span.offset + start * words.itemsize, words)
    return words
