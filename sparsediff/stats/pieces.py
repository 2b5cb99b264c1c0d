"""Pieces of tensors through all checkpoints that have them: the counting of `series.py`.

Enters: runs, which are tensors that consecutive checkpoints have in one dtype and size.
Leaves: a `Counted` for each task. A task is a piece of a large tensor, or many small
tensors together. Memory depends on the size of a piece; nothing is shared between tasks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from sparsediff.checkpoint import CheckpointFile
from sparsediff.checkpoint.formats import Span
from sparsediff.disk.inputs import OpenFiles
from sparsediff.dtypes import DType
from sparsediff.kernels import survey
from sparsediff.kernels.steps import Words, step_symbols
from sparsediff.parallel import check_wanted

_PIECE = 1 << 20  # words read at a time; divisible by 8
_CELLS = 1 << 14  # parts of a task times its steps

Located = tuple[CheckpointFile, Span]
Int64s = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Bitmap = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Part:
    """Words of one tensor, ``start`` and on, in each checkpoint of a run."""

    row: int
    places: Sequence[Located]
    start: int
    n_words: int


@dataclass(frozen=True, slots=True)
class Run:
    """A tensor in the consecutive checkpoints that have it in one dtype and size.

    The first of them is the window's ``first``. What changed before, and in the last step,
    is in the two bitmaps, if they are kept.
    """

    row: int
    first: int
    places: Sequence[Located]
    kept: tuple[Bitmap, Bitmap] | None

    def part(self, start: int) -> Part:
        """The piece from ``start`` on."""
        n_words = min(_PIECE, self.places[0][1].n_words - start)
        return Part(self.row, self.places, start, n_words)

    def bitmaps(self, start: int) -> list[tuple[Bitmap, Bitmap]]:
        """Those of the piece from ``start`` on."""
        at = slice(start // 8, (start + _PIECE) // 8)
        return [] if self.kept is None else [(self.kept[0][at], self.kept[1][at])]


@dataclass(frozen=True, slots=True)
class Task:
    """Parts of one dtype that the same checkpoints have, from ``first`` on.

    With ``is_new``, what was there before had no counterpart, so all positions count as
    changed once. The bitmaps, one for each part, are read and written if there are any.
    """

    first: int
    n_steps: int
    dtype: DType
    is_new: bool
    parts: list[Part]
    bitmaps: list[tuple[Bitmap, Bitmap]]


@dataclass(frozen=True, slots=True)
class Counted:
    """Of one task: int64 (n_steps, n_parts), sizes (n_steps, n_parts, n_classes)."""

    task: Task
    changed: Int64s
    largest: Int64s
    seen: Int64s
    repeated: Int64s
    sizes: Int64s
    members: Int64s
    steps: Int64s
    n_bytes: int


def tasks(runs: list[Run]) -> Iterator[Task]:
    """Pieces of large tensors, and small tensors of one dtype together."""
    waiting: dict[tuple[int, int, str], Task] = {}
    n_words: dict[tuple[int, int, str], int] = {}  # of those
    for run in runs:
        span, n_steps = run.places[0][1], len(run.places) - 1
        fresh = Task(run.first, n_steps, span.dtype, run.first > 0, [], [])
        if span.n_words > _PIECE:
            for start in range(0, span.n_words, _PIECE):
                yield replace(fresh, parts=[run.part(start)], bitmaps=run.bitmaps(start))
            continue
        key = (run.first, n_steps, span.dtype.name)
        task = waiting.get(key)
        if task is not None and (
            n_words[key] + span.n_words > _PIECE or (len(task.parts) + 1) * n_steps > _CELLS
        ):
            yield task
            task = None
        if task is None:
            task = waiting[key] = fresh
            n_words[key] = 0
        task.parts.append(run.part(0))
        task.bitmaps.extend(run.bitmaps(0))
        n_words[key] += span.n_words
    yield from waiting.values()


def _n_words(task: Task) -> int:
    return sum(p.n_words for p in task.parts)


def count(task: Task) -> Counted:
    """Take the parts through all checkpoints that have them."""
    dtype, n_parts = task.dtype, len(task.parts)
    lengths = np.array([p.n_words for p in task.parts])
    starts = np.cumsum(lengths) - lengths
    shape = (task.n_steps, n_parts)
    changed, largest, seen, repeated = (np.zeros(shape, np.int64) for _ in range(4))
    n_classes = 2 * dtype.word_bits
    sizes = np.zeros((*shape, n_classes), np.int64)
    members = np.zeros(dtype.n_classes, np.int64)
    steps = np.zeros((dtype.n_classes, 256), np.int64)
    union, before = (_unpacked(task, which) for which in (0, 1))
    with OpenFiles() as files:
        base = _read(files, task, 0)
        for i in range(task.n_steps):
            check_wanted()
            target = _read(files, task, i + 1)
            found = survey(base, target, dtype)
            members += found.members
            steps += found.steps
            marks = base != target
            at = np.flatnonzero(marks)
            first = np.searchsorted(at, starts)  # of the changes of each part
            changed[i] = np.diff(first, append=at.size)
            some = np.flatnonzero(changed[i])
            if some.size:
                symbols, values = step_symbols(base[at], target[at], dtype)
                cells = np.repeat(np.arange(n_parts) * n_classes, changed[i]) + (symbols >> 1)
                sizes[i] = np.bincount(cells, minlength=n_parts * n_classes).reshape(n_parts, -1)
                most = np.maximum.reduceat(values, first[some])
                largest[i, some] = np.minimum(most, np.uint64((1 << 63) - 2)).astype(np.int64) + 1
                seen[i, some] = np.add.reduceat(union[at], first[some], dtype=np.int64)
                repeated[i, some] = np.add.reduceat(before[at], first[some], dtype=np.int64)
            union[at] = True
            before, base = marks, target
    for (kept_union, kept_before), start, n in zip(
        task.bitmaps, starts.tolist(), lengths.tolist(), strict=bool(task.bitmaps)
    ):
        kept_union[:] = np.packbits(union[start : start + n])
        kept_before[:] = np.packbits(before[start : start + n])
    n_bytes = int(lengths.sum()) * dtype.word_bytes * (task.n_steps + 1)
    return Counted(task, changed, largest, seen, repeated, sizes, members, steps, n_bytes)


def _unpacked(task: Task, which: int) -> Bools:
    """What changed before, of all parts."""
    if not task.bitmaps:
        return np.full(_n_words(task), task.is_new)
    return np.concatenate(
        [
            np.unpackbits(kept[which], count=part.n_words).astype(np.bool_)
            for kept, part in zip(task.bitmaps, task.parts, strict=True)
        ]
    )


def _read(files: OpenFiles, task: Task, index: int) -> Words:
    """Words of all parts in one checkpoint; what lies side by side is read at once."""
    words = np.empty(_n_words(task), task.dtype.numpy)
    pending: tuple[CheckpointFile, int, int, int] | None = None  # file, offset, first word, words
    at = 0

    def flush() -> None:
        if pending is not None:
            file, offset, first, n = pending
            files.read(file.source, offset, words[first : first + n])

    for part in task.parts:
        file, span = part.places[index]
        offset = span.offset + part.start * words.itemsize
        if pending and pending[0] is file and pending[1] + pending[3] * words.itemsize == offset:
            pending = (*pending[:3], pending[3] + part.n_words)
        else:
            flush()
            pending = (file, offset, at, part.n_words)
        at += part.n_words
    flush()
    return words
