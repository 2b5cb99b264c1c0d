"""What a series of checkpoints showed: figures by step, tensor, group and exponent.

Enters: counts that `series.py` took. Leaves: a `SeriesStats` and what is computed
from it. Per tensor and step there are arrays and no objects, so a hundred thousand
tensors are no trouble. Reads no file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sparsediff.kernels.numbers import CLASS_START, CLASS_WIDTH
from sparsediff.patch import measures
from sparsediff.stats import names
from sparsediff.stats.spread import Spread, spread

Int64s = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

FIGURES = ("density", "locality", "jaccard")
"""What `SeriesStats.per_tensor` and `SeriesStats.spread` know."""

GROUPINGS = ("layer", "kind", "depth", "part", "dtype", "file")
"""What `SeriesStats.grouped` knows."""


@dataclass(frozen=True, slots=True)
class SeriesTensor:
    """A tensor of the series, as the last checkpoint that has it describes it.

    Attributes:
        name: tensor name.
        file: file it lies in; empty if a checkpoint is a single file.
        dtype: safetensors name of its element type.
        shape: sizes.
        n_elements: stored words.
        raw_bytes: size.
    """

    name: str
    file: str
    dtype: str
    shape: tuple[int, ...]
    n_elements: int
    raw_bytes: int

    @property
    def label(self) -> str:
        """Name to show."""
        return self.name or '""'


@dataclass(frozen=True, slots=True)
class SeriesStep:
    """The difference of two consecutive checkpoints: of all tensors, or of a group of them.

    With I_t the positions that changed in step t and U_{<t} all that changed in any step
    before, locality is |I_t ∩ U_{<t}| / |I_t|, and Jaccard's index is that of I_t and I_{t-1}.

    Attributes:
        base: the earlier checkpoint, its path or its name in a store.
        target: the later.
        n_tensors: tensors of the later one.
        n_untouched: those without a change.
        n_elements: their stored words.
        n_changed: words that changed, or that had no counterpart.
        n_new: words that had none.
        n_ones: changed by one ULP step.
        median: median |step| in ULP, exact up to 4, above at most a quarter off; 0 without
            steps. Of a group the median of its tensors' medians weighted by their changes.
        largest: largest |step| in ULP.
        n_seen: changed words that had changed in any step before; None for the first step.
        n_repeated: changed words that had changed in the step before; None for the first step.
        n_changed_before: words that changed in the step before; None for the first step.
        target_bytes: bytes of the later checkpoint's files; of a group, of its tensors.
        patch_bytes: bytes of the patch; of a group, its part of the payloads; None if no
            patch was looked at.
    """

    base: str
    target: str
    n_tensors: int
    n_untouched: int
    n_elements: int
    n_changed: int
    n_new: int
    n_ones: int
    median: int
    largest: int
    n_seen: int | None
    n_repeated: int | None
    n_changed_before: int | None
    target_bytes: int
    patch_bytes: float | None

    @property
    def density(self) -> float | None:
        """Changed elements per element."""
        return measures.share(self.n_changed, self.n_elements)

    @property
    def ones_share(self) -> float | None:
        """Share of one-ULP steps among the changed elements that have a base."""
        return measures.share(self.n_ones, self.n_changed - self.n_new)

    @property
    def locality(self) -> float | None:
        """Share of the changed positions that had changed in any step before."""
        return None if self.n_seen is None else measures.share(self.n_seen, self.n_changed)

    @property
    def repeated_share(self) -> float | None:
        """Share of the changed positions that had changed in the step before."""
        return None if self.n_repeated is None else measures.share(self.n_repeated, self.n_changed)

    @property
    def jaccard(self) -> float | None:
        """Positions that changed in this step and the one before, per position in either."""
        if self.n_repeated is None or self.n_changed_before is None:
            return None
        either = self.n_changed + self.n_changed_before - self.n_repeated
        return measures.share(self.n_repeated, either)

    @property
    def ratio(self) -> float | None:
        """Target bytes per patch byte."""
        return (
            None
            if self.patch_bytes is None
            else measures.share(self.target_bytes, self.patch_bytes)
        )


@dataclass(frozen=True, slots=True)
class SeriesGroup:
    """Tensors that have something in common.

    Attributes:
        key: what that is.
        n_tensors: how many there are.
        n_never: those that no step touched.
        steps: one for each step of the series.
    """

    key: str
    n_tensors: int
    n_never: int
    steps: list[SeriesStep]

    @property
    def density(self) -> float | None:
        """Mean over the steps: changed elements per element compared."""
        changed = sum(s.n_changed for s in self.steps)
        return measures.share(changed, sum(s.n_elements for s in self.steps))


@dataclass(frozen=True, slots=True)
class ExponentStats:
    """The words whose base has one exponent, over all steps.

    Attributes:
        dtype: safetensors name of the element type, a float.
        exponent: the stored one; 0 holds zero and what is below the smallest normal number.
        magnitude: smallest absolute value that has it; 0 for exponent 0, infinite for the last
            where the type has infinities.
        n_elements: words compared.
        n_changed: those that changed.
        n_ones: those that changed by one ULP.
        median: median |step| in ULP; see `SeriesStep`.
    """

    dtype: str
    exponent: int
    magnitude: float
    n_elements: int
    n_changed: int
    n_ones: int
    median: int

    @property
    def density(self) -> float | None:
        """Changed elements per element."""
        return measures.share(self.n_changed, self.n_elements)


@dataclass(frozen=True, slots=True)
class StepSize:
    """How many changes of one step were so large.

    Attributes:
        first: smallest |step| counted here, in ULP.
        last: largest.
        n_changed: how many.
    """

    first: int
    last: int
    n_changed: int


@dataclass(frozen=True, slots=True, eq=False)
class SeriesStats:
    """What `series_stats` found. Arrays are int64, shape (n_steps, n_tensors).

    Attributes:
        checkpoints: paths or names, in order; one more than there are steps.
        tensors: all that occur, in the order of the first checkpoint that has them.
        n_elements: words of the tensor in the later checkpoint; 0 where it is not in it.
        n_changed: words that changed or have no counterpart.
        n_new: words that have none.
        n_ones: changed by one ULP step.
        median: median |step| in ULP.
        largest: largest |step| in ULP.
        n_seen: changed words that had changed in any step before; 0 in the first step. A
            tensor that had no counterpart counts as changed as a whole.
        n_repeated: changed words that had changed in the step before; 0 in the first step.
        sizes: shape (n_steps, 128): changes by the class of |step| - 1 (format.md, "Numbers").
        exponents: per dtype and exponent, over all steps; floats only.
        target_bytes: bytes of each step's later checkpoint, (n_steps,).
        step_patch_bytes: bytes of each step's patch, NaN where no patch was looked at, (n_steps,).
        patch_bytes: float64: each tensor's part of the payloads; NaN like `step_patch_bytes`.
    """

    checkpoints: list[str]
    tensors: list[SeriesTensor]
    n_elements: Int64s
    n_changed: Int64s
    n_new: Int64s
    n_ones: Int64s
    median: Int64s
    largest: Int64s
    n_seen: Int64s
    n_repeated: Int64s
    sizes: Int64s
    exponents: list[ExponentStats]
    target_bytes: Int64s
    step_patch_bytes: Floats
    patch_bytes: Floats

    @property
    def steps(self) -> list[SeriesStep]:
        """All tensors together, step by step."""
        return [
            self._step(i, slice(None), int(self.target_bytes[i]), self.step_patch_bytes[i])
            for i in range(len(self.checkpoints) - 1)
        ]

    def step_sizes(self, step: int) -> list[StepSize]:
        """Changes of one step (0 the first) by |step|, small ones first, empty classes left out."""
        counts = self.sizes[step]
        return [
            StepSize(int(CLASS_START[c]) + 1, int(CLASS_START[c]) + (1 << int(CLASS_WIDTH[c])), n)
            for c, n in enumerate(counts.tolist())
            if n
        ]

    def per_tensor(self, figure: str) -> Floats:
        """One of `FIGURES` for each tensor and step, float64 (n_steps, n_tensors).

        NaN where it has no meaning: a share of nothing, an overlap in the first step.
        """
        if figure == "density":
            return _share(self.n_changed, self.n_elements)
        if figure == "locality":
            found = _share(self.n_seen, self.n_changed)
        else:
            before = np.zeros_like(self.n_changed)
            before[1:] = self.n_changed[:-1]
            found = _share(self.n_repeated, self.n_changed + before - self.n_repeated)
        found[:1] = np.nan
        return found

    def spread(self, figure: str, step: int) -> Spread:
        """How one of `FIGURES` is spread over the tensors in one step (0 the first)."""
        return spread(self.per_tensor(figure)[step])

    def grouped(self, by: str) -> list[SeriesGroup]:
        """Tensors by one of `GROUPINGS`, in the order of their first tensors.

        ``layer`` is the name up to its first number, ``kind`` what follows the last,
        ``depth`` the front, middle or back third of the layers, ``part`` is router, experts
        or dense.
        """
        members: dict[str, list[int]] = {}
        for i, key in enumerate(self.keys(by)):
            members.setdefault(key, []).append(i)
        raw = np.array([t.raw_bytes for t in self.tensors], np.int64)
        groups = []
        for key, rows in members.items():
            at = np.array(rows)
            steps = [
                self._step(i, at, int(raw[at][self.n_elements[i, at] > 0].sum()), part)
                for i, part in enumerate(self.patch_bytes[:, at].sum(axis=1))
            ]
            never = int((self.n_changed[:, at].sum(axis=0) == 0).sum())
            groups.append(SeriesGroup(key, len(rows), never, steps))
        return groups

    def keys(self, by: str) -> Sequence[str]:
        """The group of each tensor; see `grouped`."""
        if by == "depth":
            return names.depths([t.name for t in self.tensors])
        key: Callable[[SeriesTensor], str] = {
            "layer": lambda t: names.layer(t.name),
            "kind": lambda t: names.kind(t.name) or t.label,
            "part": lambda t: names.part(t.name),
            "dtype": lambda t: t.dtype,
            "file": lambda t: t.file or "(single file)",
        }[by]
        return [key(t) for t in self.tensors]

    def _step(
        self, i: int, at: slice | Int64s, target_bytes: int, patch_bytes: float
    ) -> SeriesStep:
        there = self.n_elements[i, at] > 0
        changed = self.n_changed[i, at]
        return SeriesStep(
            base=self.checkpoints[i],
            target=self.checkpoints[i + 1],
            n_tensors=int(there.sum()),
            n_untouched=int((there & (changed == 0)).sum()),
            n_elements=int(self.n_elements[i, at].sum()),
            n_changed=int(changed.sum()),
            n_new=int(self.n_new[i, at].sum()),
            n_ones=int(self.n_ones[i, at].sum()),
            median=measures.weighted_median(
                self.median[i, at].tolist(), (changed - self.n_new[i, at]).tolist()
            ),
            largest=int(self.largest[i, at].max(initial=0)),
            n_seen=int(self.n_seen[i, at].sum()) if i else None,
            n_repeated=int(self.n_repeated[i, at].sum()) if i else None,
            n_changed_before=int(self.n_changed[i - 1, at].sum()) if i else None,
            target_bytes=target_bytes,
            patch_bytes=None if np.isnan(patch_bytes) else float(patch_bytes),
        )


def _share(part: Int64s, whole: Int64s) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(whole > 0, part / whole, np.nan))
