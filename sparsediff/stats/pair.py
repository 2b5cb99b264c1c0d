"""stats: how sparse the difference of two checkpoints is, per tensor and in total.

Enters: two checkpoints, or a patch alone. Leaves: a `CheckpointStats`, whose
numbers all come from a manifest: measuring two checkpoints makes their patch
and throws the payloads away, so both ways print the same figures.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from operator import mul
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sparsediff.make import MakeResult, make_patch
from sparsediff.parallel import Progress
from sparsediff.patch import measures
from sparsediff.patch.container import Patch, PatchSource, open_patch
from sparsediff.patch.manifest import Manifest
from sparsediff.stats import names
from sparsediff.stats.bound import Bound


class TensorStats(NamedTuple):
    """One tensor of the target, or the bytes of one large file of no known format.

    Attributes:
        name: tensor name; empty for a file's bytes.
        opaque: whether this is the bytes of a file.
        file: file it lies in; empty if the target is a single file.
        dtype: safetensors name of its element type.
        shape: sizes.
        n_elements: stored words (a complex number is two, a byte of packed
            4- or 6-bit numbers is one).
        n_changed: those that differ from the base, or have none.
        n_new: those that have none.
        n_ones: changed by one ULP step.
        median: median |step| in ULP.
        largest: largest |step| in ULP.
        raw_bytes: size in the target.
        changed_bytes: size of the changed words.
        patch_bytes: its part of the bucket payloads, which tensors that share
            a bucket split by changed words.
    """

    name: str
    opaque: bool
    file: str
    dtype: str
    shape: tuple[int, ...]
    n_elements: int
    n_changed: int
    n_new: int
    n_ones: int
    median: int
    largest: int
    raw_bytes: int
    changed_bytes: int
    patch_bytes: float

    @property
    def label(self) -> str:
        """Name to show."""
        return self.name or _label(self.opaque, self.file)


def _label(opaque: bool, file: str) -> str:
    """What to show for a name that is empty."""
    return f"<{file or 'file'}>" if opaque else '""'


class Group(NamedTuple):
    """Figures of one tensor, or of several added up.

    The median of a group is the median of its tensors' medians weighted by
    their changed elements; other fields are sums, ``largest`` a maximum.
    ``patch_bytes`` of the total are those of the whole patch, ``payload_bytes`` only
    what the tensors' words take.
    """

    key: str
    n_tensors: int
    n_untouched: int
    n_elements: int
    n_changed: int
    n_new: int
    n_ones: int
    median: int
    largest: int
    raw_bytes: int
    changed_bytes: int
    patch_bytes: float
    payload_bytes: float

    @property
    def density(self) -> float | None:
        """Changed elements per element; None if there are none."""
        return measures.share(self.n_changed, self.n_elements)

    @property
    def sparsity(self) -> float | None:
        """1 - density."""
        return measures.sparsity(self.n_changed, self.n_elements)

    @property
    def bits_per_changed(self) -> float | None:
        """Bits of payload per changed element: headers and other files are no part of it."""
        return measures.bits_per_changed(self.payload_bytes, self.n_changed)

    @property
    def ones_share(self) -> float | None:
        """Share of one-ULP steps among the changed elements that have a base."""
        return measures.share(self.n_ones, self.n_changed - self.n_new)


class Groups:
    """Groups in order, of which there may be very many: each is made when it is taken."""

    def __init__(self, n: int, make: Callable[[int], Group]) -> None:
        """Take how many there are, and what makes each."""
        self._n, self._make = n, make

    def __len__(self) -> int:
        """How many there are."""
        return self._n

    def __getitem__(self, index: int) -> Group:
        """Make one, from 0 on."""
        return self._make(range(self._n)[index])

    def __iter__(self) -> Iterator[Group]:
        """Make them in order."""
        return map(self._make, range(self._n))


@dataclass(frozen=True)
class CheckpointStats:
    """What `checkpoint_stats` found.

    Attributes:
        manifest: of the patch, which has the figures of each tensor.
        payload_bytes: per tensor of the manifest, its part of the bucket payloads.
        patch_bytes: bytes of the whole patch.
        coded_bytes: payload bytes of the buckets that the bound speaks of.
        bound_bits: entropy bound of the changes, if it was asked for.
    """

    manifest: Manifest
    payload_bytes: Sequence[float]
    patch_bytes: int
    coded_bytes: int
    bound_bits: float | None = None

    @cached_property
    def tensors(self) -> list[TensorStats]:
        """Per tensor, in the target's order."""
        return [
            TensorStats(
                name=t.name,
                opaque=name is None,
                file=file,
                dtype=t.dtype.name,
                shape=t.shape,
                n_elements=t.n_words,
                n_changed=t.n_changed,
                n_new=t.n_words - t.n_based,
                n_ones=t.n_ones,
                median=t.median,
                largest=t.largest,
                raw_bytes=t.n_bytes,
                changed_bytes=t.n_changed * t.dtype.word_bytes,
                patch_bytes=n_bytes,
            )
            for t, name, file, n_bytes in zip(
                self.manifest.tensors,
                self.manifest.names,
                self._file_names(),
                self.payload_bytes,
                strict=True,
            )
        ]

    @property
    def target_bytes(self) -> int:
        """Bytes of all target files."""
        return sum(f.size for f in self.manifest.target_files)

    @property
    def ratio(self) -> float | None:
        """Target bytes per patch byte."""
        return measures.share(self.target_bytes, self.patch_bytes)

    @cached_property
    def total(self) -> Group:
        """All tensors; the bytes of files of no known format left out.

        Its ``patch_bytes`` are those of the whole patch.
        """
        known = self.manifest.known()
        return self._group("total", known)._replace(patch_bytes=self.patch_bytes)

    @property
    def raw_pairs_bytes(self) -> int:
        """Size of the changes as int32 indices and values, by the cost model of the paper."""
        total = self.total
        return measures.raw_pairs_bytes(total.changed_bytes, total.n_changed)

    def grouped(self, by: str) -> Groups:
        """Figures per ``tensor``, ``layer``, ``kind``, ``depth``, ``part``, ``dtype`` or ``file``.

        What they are: see `SeriesStats.grouped`.
        """
        n = len(self.manifest.tensors)
        if by == "tensor":  # two files may hold tensors of one name, which stay apart
            return Groups(n, lambda i: self._alone(self._label(i), i))
        numbers: dict[str, int] = {}
        group_of = np.fromiter((numbers.setdefault(k, len(numbers)) for k in self._keys(by)), int)
        rows, keys = np.argsort(group_of, kind="stable"), [*numbers]
        ends = np.cumsum(np.bincount(group_of, minlength=0))

        def make(i: int) -> Group:
            members = rows[ends[i - 1] if i else 0 : ends[i]].tolist()
            return self._group(keys[i], members) if members[1:] else self._alone(keys[i], *members)

        return Groups(len(keys), make)

    def _keys(self, by: str) -> Iterable[str]:
        """The group of each tensor."""
        tensors = self.manifest.tensors
        match by:
            case "layer":
                return map(names.layer, tensors.names)
            case "kind":
                return (names.kind(name) or self._label(i) for i, name in enumerate(tensors.names))
            case "depth":
                return names.depths(tensors.names)
            case "part":
                return map(names.part, tensors.names)
            case "dtype":
                return (dtype.name for dtype in tensors.dtypes)
            case _:
                return (file or "(single file)" for file in self._file_names())

    def _file_names(self) -> Iterator[str]:
        """Of each tensor, the name of its file."""
        return (f.name for f in self.manifest.target_files for _ in range(f.n_tensors))

    @cached_property
    def _ends(self) -> list[int]:
        """Of each file, the index after its last tensor."""
        return [*accumulate(f.n_tensors for f in self.manifest.target_files)]

    def _label(self, row: int) -> str:
        """What to show as the name of a tensor."""
        if name := self.manifest.names[row]:
            return name
        file = self.manifest.target_files[bisect_right(self._ends, row)].name
        return _label(name is None, file)

    def _alone(self, key: str, row: int) -> Group:
        """A group of one tensor; what `_group` gives for it, in a fraction of the time."""
        t, n_bytes = self.manifest.tensors, self.payload_bytes[row]
        n_words, stepped = t.n_words[row], t.n_stepped[row]
        n_new = n_words - t.n_based[row]
        return Group(
            key,
            1,
            int(stepped + n_new == 0),
            n_words,
            stepped + n_new,
            n_new,
            t.n_ones[row],
            t.medians[row] if stepped else 0,
            t.largest[row],
            t.n_bytes[row],
            (stepped + n_new) * t.dtypes[row].word_bytes,
            n_bytes,
            n_bytes,
        )

    def _group(self, key: str, rows: Sequence[int]) -> Group:
        t = self.manifest.tensors
        changed = [t.n_changed(i) for i in rows]
        stepped = [t.n_stepped[i] for i in rows]
        widths = (t.dtypes[i].word_bytes for i in rows)
        n_bytes = sum(self.payload_bytes[i] for i in rows)
        return Group(
            key=key,
            n_tensors=len(rows),
            n_untouched=changed.count(0),
            n_elements=sum(t.n_words[i] for i in rows),
            n_changed=sum(changed),
            n_new=sum(changed) - sum(stepped),
            n_ones=sum(t.n_ones[i] for i in rows),
            median=measures.weighted_median([t.medians[i] for i in rows], stepped),
            largest=max((t.largest[i] for i in rows), default=0),
            raw_bytes=sum(t.n_bytes[i] for i in rows),
            changed_bytes=sum(map(mul, changed, widths)),
            patch_bytes=n_bytes,
            payload_bytes=n_bytes,
        )


def checkpoint_stats(
    base: Path | str,
    target: Path | str,
    *,
    jobs: int | None = None,
    bound: bool = False,
    progress: Progress | None = None,
) -> CheckpointStats:
    """Measure the difference of two checkpoints.

    Args:
        base: checkpoint compared with.
        target: checkpoint described.
        jobs: threads; default all processors.
        bound: compute the entropy bound too.
        progress: told of bytes read.

    Raises:
        SparsediffError: as `make_patch` does.
    """
    counter = Bound() if bound else None
    result = make_patch(
        base,
        target,
        None,
        jobs=jobs,
        progress=progress,
        observer=None if counter is None else counter.add,
    )
    return stats_of_result(result, None if counter is None else counter.bits())


def stats_of_result(result: MakeResult, bound_bits: float | None = None) -> CheckpointStats:
    """The figures of a patch just made."""
    return _stats(result.manifest, result.sizes, result.patch_bytes, bound_bits)


def patch_stats(patch: PatchSource | Patch) -> CheckpointStats:
    """The same figures from a patch alone, without the bound.

    Raises:
        CorruptError: the patch is damaged.
    """
    if isinstance(patch, Patch):
        return _stats(patch.manifest, patch.sizes, patch.n_bytes, None)
    with open_patch(patch) as opened:
        return patch_stats(opened)


def _stats(
    manifest: Manifest, sizes: dict[str, int], patch_bytes: int, bound_bits: float | None
) -> CheckpointStats:
    coded = sum(
        sizes.get(f"bucket.{i}", 0) for i, b in enumerate(manifest.buckets) if b.base is not None
    )
    return CheckpointStats(manifest, _attribute(manifest, sizes), patch_bytes, coded, bound_bits)


def _attribute(manifest: Manifest, sizes: dict[str, int]) -> Sequence[float]:
    """Payload bytes per tensor; a bucket's are split by changed words, else by words."""
    bytes_of = np.zeros(len(manifest.tensors))
    for i, (bucket, parts) in enumerate(zip(manifest.buckets, manifest.parts, strict=True)):
        if not (n_bytes := sizes.get(f"bucket.{i}", 0)):
            continue
        rows = np.array(parts.tensors)
        weights = np.array(parts.sizes, np.float64)
        if bucket.base is not None:
            stepped = np.array(manifest.tensors.n_stepped)[rows]
            if stepped.any():
                weights *= stepped / np.array(manifest.tensors.n_based)[rows]
        bytes_of[rows] += n_bytes * weights / weights.sum()
    return array("d", bytes_of.tobytes())  # which, unlike those of NumPy, gives plain numbers
