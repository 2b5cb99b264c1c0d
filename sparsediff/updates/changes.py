"""What a patch changes, as positions and words: for whoever holds the weights already.

Enters: a patch, or several in a row that are cut alike, and the base on disk or in
memory. Leaves: per tensor the flat positions that change, their new words and on demand
their old ones, a bucket's worth at a time. Of a bucket
nothing leaves before its base words, its payload and its result were verified; that
all the others are right is known at the end only. Never writes, and never holds
more than a few buckets, however many threads there are, and what changes in tensors that grow.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from sparsediff.apply.base import Base
from sparsediff.apply.rebuild import PAID_BYTES, Task, rebuilt, tasks
from sparsediff.disk.inputs import OpenFiles
from sparsediff.errors import WrongBaseError
from sparsediff.kernels import differences
from sparsediff.kernels.steps import Words
from sparsediff.parallel import ordered_map
from sparsediff.patch import words
from sparsediff.patch.container import Patch
from sparsediff.patch.manifest import Manifest
from sparsediff.patch.parts import Part
from sparsediff.patch.words import Run
from sparsediff.updates.named import BaseTensors

Indices = npt.NDArray[np.signedinteger[Any]]

_WAITING = 1 << 26  # bytes that what waits for its turn may take besides what payloads pay for


_Changes = Iterable["Change"]


class _TooManyError(Exception):
    """Changes take more than they may while they wait; nobody sees it."""


@dataclass(frozen=True, slots=True)
class Change:
    """New words of the manifest's tensor ``tensor``, from word ``start`` on.

    ``positions`` count from ``start`` (int32, strictly increasing); None means that
    ``values`` are the next words, all of them. ``old`` holds the base's words at the same
    places; None if the base has none there, or nobody asked for them.
    """

    tensor: int
    start: int
    positions: npt.NDArray[np.int32] | None
    values: Words
    old: Words | None = None

    @property
    def n_bytes(self) -> int:
        """Memory that it takes."""
        return sum(a.nbytes for a in (self.positions, self.values, self.old) if a is not None)

    def indices(self, dtype: type[np.int32] | type[np.int64]) -> Indices:
        """Flat positions in the tensor."""
        flat = np.empty(self.values.size, dtype)
        flat[:] = np.arange(self.values.size) if self.positions is None else self.positions
        flat += dtype(self.start)
        return flat


def changes(
    group: Sequence[Patch],
    base: Base,
    jobs: int,
    *,
    whole: Collection[int] = (),
    whole_runs: bool = False,
    skip_unchanged: bool = False,
    with_old: bool = False,
) -> Iterator[Change]:
    """Everything that changes in tensors, bucket by bucket, each verified.

    The changes of a tensor follow each other in increasing order. One that grows has its new
    words in buckets of their own, before the others or after them, and waits for the last.

    Args:
        group: a patch, or several as `apply.chain.groups` puts them together; opened, nothing
            of them read yet.
        base: where the base words of the first come from.
        jobs: threads.
        whole: rows of tensors of which to give every word, changed or not.
        whole_runs: where most words change, give all of them instead of positions.
        skip_unchanged: do not even read the base words of buckets that the patch leaves alone.
        with_old: give the base's words as well.

    Raises:
        WrongBaseError: base words are not those the patch was made from.
        CorruptError: the patch is damaged.
    """
    manifest = group[-1].manifest

    growing = _growing(manifest)
    waiting: dict[int, list[Change]] = {row: [] for rows in growing.values() for row in rows}

    def job(task: Task) -> tuple[Task, list[_Changes] | None]:
        try:
            return task, changes_of(task, None if jobs <= 1 else _WAITING // (jobs + 1))
        except _TooManyError:
            return task, None  # to be decoded when its turn has come, alone

    def changes_of(task: Task, most: int | None) -> list[_Changes]:
        stored = [payload for payload in task.payloads if payload is not None]
        named = task.bucket is not None and _is_named(manifest, task.bucket)
        try:
            if task.bucket is None or not named:
                for payload in stored:
                    payload.verified()
            elif stored or not _avoids(manifest, task.bucket, whole):
                return _decode(group, base, task, whole, whole_runs, with_old, most)
            elif not skip_unchanged:
                base.check(task.bucket)
        except WrongBaseError as e:
            if isinstance(base, BaseTensors):
                e.offset = None  # that of a file
            raise
        return []

    for task, found in ordered_map(job, tasks(group), jobs):
        own = chain.from_iterable(changes_of(task, None) if found is None else found)
        del found
        if not waiting:
            yield from own  # in order, and made as they are taken: there may be very many
            continue
        ready: list[Change] = []
        for change in own:
            waiting.get(change.tensor, ready).append(change)
        for row in growing.get(task.bucket, ()):
            ready += waiting.pop(row)
        yield from sorted(ready, key=_place)


def _growing(manifest: Manifest) -> dict[int | None, list[int]]:
    """Tensors with words in buckets with a base and in buckets without, by their last bucket."""
    if len({bucket.base is None for bucket in manifest.buckets}) < 2:
        return {}  # at no cost, of however many tensors
    last: tuple[dict[int, int], dict[int, int]] = {}, {}
    for i, bucket in enumerate(manifest.buckets):
        last[bucket.base is None].update(dict.fromkeys(bucket.tensors, i))
    found: defaultdict[int | None, list[int]] = defaultdict(list)
    for row in sorted(last[0].keys() & last[1].keys()):
        found[max(last[0][row], last[1][row])].append(row)
    return found


def _place(change: Change) -> tuple[int, int]:
    """The tensor, and where in it a change begins."""
    skip = 0 if change.positions is None else int(change.positions[0])
    return change.tensor, change.start + skip


def _is_named(manifest: Manifest, bucket: int) -> bool:
    """Whether a bucket holds words of tensors, not bytes of a file without any."""
    return manifest.names[manifest.buckets[bucket].tensors[0]] is not None


def _avoids(manifest: Manifest, bucket: int, rows: Collection[int]) -> bool:
    """Whether a bucket holds no words of these tensors."""
    return not rows or not any(row in rows for row in manifest.buckets[bucket].tensors)


class _Overheard:
    """A base that keeps the words that were read: those before a change, in the same order."""

    def __init__(self, base: Base) -> None:
        self._base = base
        self.path, self.check, self.skeleton = base.path, base.check, base.skeleton
        self._words: deque[Words] = deque()

    def source(self, files: OpenFiles) -> words.Source:
        inner = self._base.source(files)

        def read(index: int, offset: int, buffer: Any) -> None:
            inner.read(index, offset, buffer)
            self._words.append(np.array(buffer))

        return words.Source(inner.place, read)

    def take(self, n_words: int) -> Words | None:
        """The next words of a run, all of which were read; None where there is no base."""
        read: list[Words] = []
        while self._words and n_words:
            read.append(self._words.popleft())
            n_words -= read[-1].size
        return np.concatenate(read) if len(read) > 1 else read[0] if read else None


def _decode(
    group: Sequence[Patch],
    base: Base,
    task: Task,
    whole: Collection[int],
    whole_runs: bool,
    with_old: bool,
    most: int | None,
) -> list[_Changes]:
    """Changes of one bucket, all of it verified.

    Raises:
        _TooManyError: they take more than ``most`` bytes, and those that payloads pay for.
    """
    assert task.bucket is not None
    left = math.inf if most is None else most + PAID_BYTES * task.stored_bytes()
    manifest = group[-1].manifest
    if manifest.buckets[task.bucket].base is None and words.n_bytes(manifest, task.bucket) > left:
        raise _TooManyError  # all of it is new
    overheard = _Overheard(base)
    parts = manifest.parts[task.bucket]
    found: list[_Changes] = []
    pieces: list[Change] = []  # of a part that is cut
    with closing(rebuilt(group, overheard, task.bucket, task)) as runs:
        for run in runs:
            before = overheard.take(run.ends[-1])
            if run.is_whole:
                found.append(packed := _packed(run, before, whole, whole_runs, with_old))
                left -= packed.n_bytes
            else:
                (part,), new = run.parts, np.asarray(run.words[0])
                old = None if part.tensor in whole else before
                change = _change(parts[run.part], part.start, old, new, whole_runs, with_old)
                left -= change.n_bytes
                if change.values.size:
                    pieces.append(change)
                if run.is_last_of_part:
                    found.append(_joined(pieces))
                    pieces = []
            if left < 0:
                raise _TooManyError
    return found


@dataclass(frozen=True, slots=True)
class _Packed:
    """What changes in a run of whole parts, of which there may be very many: as few arrays.

    Attributes:
        parts: those of the bucket, from the first of the run on.
        ends: words of the run before each part, and of all.
        at: changes before each part, and all.
        are_all: of each part, whether all of its words are given.
        are_new: of each part, whether what it was is for nobody.
        positions: of changes in the run; None if all words are given.
        values: the words there.
        old: what they were, if somebody asked.
    """

    parts: Sequence[Part]
    ends: npt.NDArray[np.int32]
    at: npt.NDArray[np.int32]
    are_all: npt.NDArray[np.bool_]
    are_new: npt.NDArray[np.bool_]
    positions: npt.NDArray[np.int32] | None
    values: Words
    old: Words | None

    @property
    def n_bytes(self) -> int:
        """Memory that it takes."""
        return sum(a.nbytes for a in (self.positions, self.values, self.old) if a is not None)

    def __iter__(self) -> Iterator[Change]:
        """The changes of one part after the other."""
        changes = pairwise(self.at.tolist())
        for i, (part, (a, b)) in enumerate(zip(self.parts, changes, strict=True)):
            if a == b:
                continue
            positions = None
            if self.positions is not None and not self.are_all[i]:
                positions = self.positions[a:b] - self.ends[i]
            old = None if self.old is None or self.are_new[i] else self.old[a:b]
            yield Change(part.tensor, part.start, positions, self.values[a:b], old)


def _packed(
    run: Run, old: Words | None, whole: Collection[int], whole_runs: bool, with_old: bool
) -> _Packed:
    """What changes in a run of whole parts."""
    new, ends = np.asarray(run.words[0]), np.array([0, *run.ends], np.int32)
    are_new = np.array([old is None or part.tensor in whole for part in run.parts])
    are_all = are_new
    if old is not None and not are_new.all():
        n_words = np.diff(ends)
        positions, before, after = map(np.asarray, differences(old, new))
        at = np.searchsorted(positions, ends).astype(np.int32)
        if whole_runs:
            are_all = are_new | (np.diff(at) * (4 + new.itemsize) > n_words * new.itemsize)
        if are_all.any() and not are_all.all():
            differ = np.repeat(are_all, n_words)
            differ[positions] = True
            positions = np.flatnonzero(differ).astype(np.int32)
            at = np.searchsorted(positions, ends).astype(np.int32)
            before, after = old[positions], new[positions]
        if not are_all.all():
            kept = before if with_old else None
            return _Packed(run.parts, ends, at, are_all, are_new, positions, after, kept)
    kept = old.copy() if with_old and old is not None else None
    return _Packed(run.parts, ends, ends, are_all, are_new, None, new.copy(), kept)


def _change(
    part: Part, start: int, old: Words | None, new: Words, whole_runs: bool, with_old: bool
) -> Change:
    """What changes in words of a part, from ``start`` on in their tensor; perhaps nothing."""
    if old is not None:
        positions, before, after = map(np.asarray, differences(old, new))
        if not whole_runs or positions.size * (4 + new.itemsize) <= new.nbytes:
            positions += np.int32(start - part.start)
            return Change(part.tensor, part.start, positions, after, before if with_old else None)
    return Change(part.tensor, start, None, new.copy(), old if with_old else None)


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
            None
            if group[0].old is None
            else np.concatenate([c.old for c in group if c.old is not None]),
        )
        for group in groups
    ]
