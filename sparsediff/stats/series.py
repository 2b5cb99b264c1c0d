"""A series of checkpoints: how much each step changed, and how much the changes overlap.

Enters: checkpoints in order of time. Leaves: a `SeriesStats`. Tensors are compared by
name where dtype and size agree; whatever has no counterpart counts as changed. A piece
of a tensor is taken through all the checkpoints at hand before the next piece, so each
word is read once, and memory depends on the size of a piece and on the number of threads
alone. Where not all checkpoints are at hand at once (`SeriesReader.feed`), two bits for
each element are kept between them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import numpy as np

from sparsediff.checkpoint import Checkpoint, open_checkpoint
from sparsediff.dtypes import DTYPES
from sparsediff.errors import UsageError
from sparsediff.make import make_patch
from sparsediff.parallel import Progress, ordered_map, threads
from sparsediff.patch import counts as figures
from sparsediff.stats.history import ExponentStats, Floats, Int64s, SeriesStats, SeriesTensor
from sparsediff.stats.pair import CheckpointStats, stats_of_result
from sparsediff.stats.pieces import Bitmap, Counted, Located, Run, count, tasks

_COUNTS = ("n_changed", "n_new", "n_ones", "median", "largest", "n_seen", "n_repeated")

Key = tuple[str, str]
T = TypeVar("T")


def series_stats(
    checkpoints: Sequence[Path | str],
    *,
    jobs: int | None = None,
    patches: bool = False,
    progress: Progress | None = None,
) -> SeriesStats:
    """Compare each checkpoint with the one before.

    Each checkpoint is read once. Memory is some 100 MiB for each thread, and 64 bytes for
    each tensor and step.

    Args:
        checkpoints: two or more, in order.
        jobs: threads; default all processors.
        patches: make the patch of each step too, which reads both of its checkpoints once
            more, and report their sizes.
        progress: told of bytes read.

    Raises:
        UsageError: fewer than two checkpoints.
        SparsediffError: as `open_checkpoint` and `make_patch` do, or a file changed meanwhile.
    """
    if len(checkpoints) < 2:
        raise UsageError("a series needs two checkpoints or more")
    opened: list[Checkpoint] = []
    for checkpoint in checkpoints:
        opened.append(open_checkpoint(checkpoint, like=opened[-1] if opened else None))
    reader = SeriesReader(jobs)
    reader.feed(opened, progress=progress)
    if patches:
        for i, (base, target) in enumerate(pairwise(opened)):
            result = make_patch(base.path, target.path, None, jobs=jobs, progress=progress)
            reader.add_patch(i, stats_of_result(result))
    for c in opened:
        c.check_unchanged()
    return reader.stats([str(c.path) for c in opened])


class SeriesReader:
    """Counts as checkpoints come, for who has not all of them at once.

    Args:
        jobs: threads; default all processors.
    """

    def __init__(self, jobs: int | None = None) -> None:
        self._jobs = threads(jobs)
        self._rows: dict[Key, int] = {}
        self._tensors: list[SeriesTensor] = []
        self._n_elements: list[Int64s] = []
        self._counts: list[dict[str, Int64s]] = []  # one table for each call of `feed`
        self._sizes: list[Int64s] = []
        self._target_bytes: list[int] = []
        self._exponents: dict[str, tuple[Int64s, Int64s]] = {}
        self._patches: dict[int, tuple[int, dict[Key, float]]] = {}
        # What changed before and in the last step, by row; only between two calls of `feed`.
        self._bitmaps: dict[int, tuple[Bitmap, Bitmap]] = {}

    def feed(
        self,
        window: Sequence[Checkpoint],
        *,
        more: bool = False,
        progress: Progress | None = None,
    ) -> None:
        """Count the steps between consecutive checkpoints.

        Args:
            window: two or more, all there at once. From the second call on, the first is the
                one that was last in the call before.
            more: whether another call follows: two bits for each element are kept for it.
            progress: told of bytes read in this call.

        Raises:
            UnavailableError: a file changed since it was opened.
        """
        tables = [dict(_by_name(c)) for c in window]
        keys = list(dict.fromkeys(key for table in tables for key in table))
        for key in keys:
            file, span = next(t[key] for t in reversed(tables) if key in t)
            tensor = SeriesTensor(
                span.name, file.name, span.dtype.name, span.shape, span.n_words, span.nbytes
            )
            row = self._rows.setdefault(key, len(self._rows))
            self._tensors[row : row + 1] = [tensor]
        n_steps = len(window) - 1
        counts = {name: np.zeros((n_steps, len(self._rows)), np.int64) for name in _COUNTS}
        elements = np.zeros((n_steps, len(self._rows)), np.int64)
        sizes = np.zeros((n_steps, 128), np.int64)
        runs: list[Run] = []
        for key in keys:
            row = self._rows[key]
            for first, run in _runs([t.get(key) for t in tables]):
                n_words = run[0][1].n_words
                elements[max(first - 1, 0) : first - 1 + len(run), row] = n_words
                if first:
                    counts["n_changed"][first - 1, row] = n_words
                    counts["n_new"][first - 1, row] = n_words
                kept = None if first else self._bitmaps.get(row)
                if more and kept is None:
                    fill, n_bytes = 255 * (first > 0), (n_words + 7) // 8
                    kept = (np.full(n_bytes, fill, np.uint8), np.full(n_bytes, fill, np.uint8))
                    self._bitmaps[row] = kept
                if len(run) > 1 and n_words:
                    runs.append(Run(row, first, run, kept))
        self._n_elements.append(elements)
        self._counts.append(counts)
        self._sizes.append(sizes)
        self._target_bytes.extend(c.n_bytes for c in window[1:])
        total = sum(r.places[0][1].nbytes * len(r.places) for r in runs)
        done = 0
        split: dict[int, Int64s] = {}  # sizes of a tensor that several tasks share
        for counted in ordered_map(count, tasks(runs), self._jobs):
            self._add(counted, counts, sizes, split)
            done += counted.n_bytes
            if progress is not None:
                progress(done, total)
        if not more:
            self._bitmaps.clear()

    def _add(
        self,
        counted: Counted,
        counts: dict[str, Int64s],
        sizes: Int64s,
        split: dict[int, Int64s],
    ) -> None:
        task = counted.task
        steps = np.arange(task.first, task.first + task.n_steps)[:, None]
        rows = np.array([p.row for p in task.parts])
        for name, found in (
            ("n_changed", counted.changed),
            ("n_ones", counted.sizes[:, :, 0]),
            ("n_seen", counted.seen),
            ("n_repeated", counted.repeated),
        ):
            counts[name][steps, rows] += found
        counts["largest"][steps, rows] = np.maximum(counts["largest"][steps, rows], counted.largest)
        of_tensor = counted.sizes
        if len(task.parts) == 1 and task.parts[0].n_words < task.parts[0].places[0][1].n_words:
            row = task.parts[0].row
            split[row] = of_tensor = split.get(row, 0) + of_tensor
        counts["median"][steps, rows] = figures.median_steps(of_tensor)
        sizes[task.first : task.first + task.n_steps, : of_tensor.shape[2]] += counted.sizes.sum(1)
        if task.dtype.kind == "float":
            members, changes = self._exponents.get(task.dtype.name, (0, 0))
            self._exponents[task.dtype.name] = (members + counted.members, changes + counted.steps)

    def add_patch(self, step: int, found: CheckpointStats) -> None:
        """Say what the patch of a step takes.

        Args:
            step: 0 the first.
            found: its figures.
        """
        tensors = [((t.file, t.name), t.patch_bytes) for t in found.tensors if not t.opaque]
        self._patches[step] = (found.patch_bytes, dict(_by_key(tensors)))

    def stats(self, checkpoints: Sequence[str]) -> SeriesStats:
        """All that was counted.

        Args:
            checkpoints: what to call them.
        """
        n = len(self._tensors)

        def joined(tables: Iterable[Int64s]) -> Int64s:
            return np.concatenate([np.pad(t, ((0, 0), (0, n - t.shape[1]))) for t in tables])

        elements = joined(self._n_elements)
        totals: Floats = np.full(elements.shape[0], np.nan)
        patch_bytes: Floats = np.full(elements.shape, np.nan)
        for step, (total, by_key) in self._patches.items():
            totals[step] = total
            patch_bytes[step] = 0
            for key, n_bytes in by_key.items():
                patch_bytes[step, self._rows[key]] = n_bytes
        return SeriesStats(
            checkpoints=list(checkpoints),
            tensors=self._tensors,
            n_elements=elements,
            **{name: joined(c[name] for c in self._counts) for name in _COUNTS},
            sizes=np.concatenate(self._sizes),
            exponents=[e for name in self._exponents for e in self._by_exponent(name)],
            target_bytes=np.array(self._target_bytes, np.int64),
            step_patch_bytes=totals,
            patch_bytes=patch_bytes,
        )

    def _by_exponent(self, name: str) -> Iterator[ExponentStats]:
        dtype = DTYPES[name]
        members, steps = self._exponents[name]
        per = 1 << (dtype.mantissa_bits - dtype.class_shift)  # classes of one exponent
        members = members.reshape(-1, per).sum(1)
        sizes = steps.reshape(members.size, per, -1, 2).sum((1, 3))
        medians = figures.median_steps(sizes)
        bias = (1 << (dtype.word_bits - 2 - dtype.mantissa_bits)) - (not name.endswith("FNUZ"))
        for e in np.flatnonzero(members).tolist():
            yield ExponentStats(
                name,
                e,
                float(np.ldexp(1.0, e - bias)) if e else 0.0,
                int(members[e]),
                int(sizes[e].sum()),
                int(sizes[e, 0]),
                int(medians[e]),
            )


def _by_name(checkpoint: Checkpoint) -> Iterator[tuple[Key, Located]]:
    """Tensors by name, bytes of files of no known format left out."""
    return _by_key(
        ((file.name, span.name), (file, span))
        for file in checkpoint.files
        for span in file.spans
        if not span.is_all_of(file.source.size)
    )


def _by_key(tensors: Iterable[tuple[Key, T]]) -> Iterator[tuple[Key, T]]:
    """Tensors by name; those of a name used before by file too."""
    seen = set()
    for (file, name), value in tensors:
        yield (("", name) if name not in seen else (file, name)), value
        seen.add(name)


def _runs(places: list[Located | None]) -> Iterator[tuple[int, list[Located]]]:
    """Consecutive checkpoints that have a tensor of one dtype and size, and the first's index."""
    run: list[Located] = []
    for i, place in enumerate([*places, None]):
        span = None if place is None else place[1]
        if run and (
            span is None or (span.dtype, span.n_words) != (run[0][1].dtype, run[0][1].n_words)
        ):
            yield i - len(run), run
            run = []
        if place is not None:
            run.append(place)
