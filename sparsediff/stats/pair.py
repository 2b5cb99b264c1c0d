"""stats: how sparse the difference of two checkpoints is, per tensor and in total.

Enters: two checkpoints, or a patch alone. Leaves: a `CheckpointStats`, whose
numbers all come from a manifest: measuring two checkpoints makes their patch
and throws the payloads away, so both ways print the same figures.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sparsediff.make import MakeResult, make_patch
from sparsediff.parallel import Progress
from sparsediff.patch import measures
from sparsediff.patch.container import Patch, PatchSource, open_patch
from sparsediff.patch.manifest import Manifest, Tensor
from sparsediff.stats import names
from sparsediff.stats.bound import Bound


@dataclass(frozen=True, slots=True)
class TensorStats:
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
        return f"<{self.file or 'file'}>" if self.opaque else self.name or '""'


@dataclass(frozen=True, slots=True)
class Group:
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


@dataclass(frozen=True, slots=True)
class CheckpointStats:
    """What `checkpoint_stats` found.

    Attributes:
        tensors: per tensor, in the target's order.
        target_bytes: bytes of all target files.
        patch_bytes: bytes of the whole patch.
        bound_bits: entropy bound of the changes, if it was asked for.
        coded_bytes: payload bytes of the buckets that the bound speaks of.
    """

    tensors: list[TensorStats]
    target_bytes: int
    patch_bytes: int
    coded_bytes: int
    bound_bits: float | None = None

    @property
    def ratio(self) -> float | None:
        """Target bytes per patch byte."""
        return measures.share(self.target_bytes, self.patch_bytes)

    @property
    def total(self) -> Group:
        """All tensors; the bytes of files of no known format left out.

        Its ``patch_bytes`` are those of the whole patch.
        """
        known = [t for t in self.tensors if not t.opaque]
        return _group("total", known or self.tensors, self.patch_bytes)

    @property
    def raw_pairs_bytes(self) -> int:
        """Size of the changes as int32 indices and values, by the cost model of the paper."""
        total = self.total
        return measures.raw_pairs_bytes(total.changed_bytes, total.n_changed)

    def grouped(self, by: str) -> list[Group]:
        """Figures per ``tensor``, ``layer``, ``kind``, ``depth``, ``part``, ``dtype`` or ``file``.

        What they are: see `SeriesStats.grouped`.
        """
        if by == "tensor":  # two files may hold tensors of one name, which stay apart
            return [_alone(t) for t in self.tensors]
        depth = names.depths([t.name for t in self.tensors]) if by == "depth" else []
        key: Callable[[int, TensorStats], str] = {
            "layer": lambda _, t: names.layer(t.name),
            "kind": lambda _, t: names.kind(t.name) or t.label,
            "depth": lambda i, _: depth[i],
            "part": lambda _, t: names.part(t.name),
            "dtype": lambda _, t: t.dtype,
            "file": lambda _, t: t.file or "(single file)",
        }[by]
        members: dict[str, list[TensorStats]] = {}
        for i, tensor in enumerate(self.tensors):
            members.setdefault(key(i, tensor), []).append(tensor)
        return [
            _group(name, group, sum(t.patch_bytes for t in group))
            for name, group in members.items()
        ]


def _alone(t: TensorStats) -> Group:
    """The figures of one tensor, of which there may be very many."""
    return Group(
        key=t.label,
        n_tensors=1,
        n_untouched=int(t.n_changed == 0),
        n_elements=t.n_elements,
        n_changed=t.n_changed,
        n_new=t.n_new,
        n_ones=t.n_ones,
        median=t.median if t.n_changed > t.n_new else 0,
        largest=t.largest,
        raw_bytes=t.raw_bytes,
        changed_bytes=t.changed_bytes,
        patch_bytes=t.patch_bytes,
        payload_bytes=t.patch_bytes,
    )


def _group(key: str, tensors: list[TensorStats], patch_bytes: float) -> Group:
    stepped = [t.n_changed - t.n_new for t in tensors]
    return Group(
        key=key,
        n_tensors=len(tensors),
        n_untouched=sum(t.n_changed == 0 for t in tensors),
        n_elements=sum(t.n_elements for t in tensors),
        n_changed=sum(t.n_changed for t in tensors),
        n_new=sum(t.n_new for t in tensors),
        n_ones=sum(t.n_ones for t in tensors),
        median=measures.weighted_median([t.median for t in tensors], stepped),
        largest=max((t.largest for t in tensors), default=0),
        raw_bytes=sum(t.raw_bytes for t in tensors),
        changed_bytes=sum(t.changed_bytes for t in tensors),
        patch_bytes=patch_bytes,
        payload_bytes=sum(t.patch_bytes for t in tensors),
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
    attributed = _attribute(manifest, sizes)
    tensors = []
    for file, indices in zip(manifest.target_files, manifest.file_tensors, strict=True):
        for i in indices:
            t = manifest.tensors[i]
            tensors.append(
                TensorStats(
                    name=t.name,
                    opaque=manifest.names[i] is None,
                    file=file.name,
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
                    patch_bytes=attributed[i],
                )
            )
    coded = sum(
        sizes.get(f"bucket.{i}", 0) for i, b in enumerate(manifest.buckets) if b.base is not None
    )
    target_bytes = sum(f.size for f in manifest.target_files)
    return CheckpointStats(tensors, target_bytes, patch_bytes, coded, bound_bits)


def _attribute(manifest: Manifest, sizes: dict[str, int]) -> list[float]:
    """Payload bytes per tensor; a bucket's are split by changed words, else by words."""

    def density(tensor: Tensor) -> float:
        return tensor.n_stepped / tensor.n_based if tensor.n_based else 0.0

    bytes_of = [0.0] * len(manifest.tensors)
    for i, (bucket, parts) in enumerate(zip(manifest.buckets, manifest.parts, strict=True)):
        size = sizes.get(f"bucket.{i}", 0)
        weights = [float(p.n_words) for p in parts]
        if bucket.base is not None:
            changed = [
                w * density(manifest.tensors[p.tensor]) for w, p in zip(weights, parts, strict=True)
            ]
            weights = changed if sum(changed) else weights
        total = sum(weights)
        for part, weight in zip(parts, weights, strict=True):
            bytes_of[part.tensor] += size * weight / total
    return bytes_of
