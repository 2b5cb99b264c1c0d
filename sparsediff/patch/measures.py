"""The figures people ask for; each formula is written here and nowhere else.

Enters: counts. Leaves: numbers, or None where a figure has no meaning (a share
of nothing).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sparsediff.kernels.numbers import CLASS_START, CLASS_WIDTH

Counts = npt.NDArray[np.int64]


def share(part: float, whole: float) -> float | None:
    """``part / whole``; density is the share of changed among all elements."""
    return part / whole if whole else None


def sparsity(n_changed: int, n_elements: int) -> float | None:
    """1 - density."""
    return 1 - n_changed / n_elements if n_elements else None


def bits_per_changed(patch_bytes: float, n_changed: int) -> float | None:
    """Bits of patch per changed element."""
    return 8 * patch_bytes / n_changed if n_changed else None


def median_steps(counts: Counts) -> Counts:
    """Median |step| in ULP, from counts per class of |step| - 1 along the last axis.

    Exact up to 4; above, the middle of the class it falls in, at most a quarter off; 0 where
    there are no steps.
    """
    ends = np.cumsum(counts, axis=-1)
    total = ends[..., -1:]
    c = np.argmax(ends >= (total + 1) // 2, axis=-1)
    middle = CLASS_START[c].astype(np.int64) + ((1 << CLASS_WIDTH[c]) - 1) // 2 + 1
    return np.where(total[..., 0] > 0, middle, 0)


def median_step(counts: Counts) -> int:
    """`median_steps` of one row."""
    if 2 * counts[0] >= (total := counts.sum()):  # as it mostly is
        return int(total > 0)
    return int(median_steps(counts))


def weighted_median(values: list[int], weights: list[int]) -> int:
    """The value below and above which half of the weight lies; 0 without weight."""
    if not sum(weights):
        return 0
    if len(values) == 1:
        return values[0]
    order = np.argsort(values, kind="stable")
    ends = np.cumsum(np.array(weights)[order])
    return values[int(order[int(np.searchsorted(ends, (int(ends[-1]) + 1) // 2))])]


def raw_pairs_bytes(changed_bytes: int, n_changed: int) -> int:
    """Size of the changes as plain index and value pairs, int32 indices.

    S_sparse = rho N (b_v + b_i) with b_i = 4, the cost model of SparseRL-Sync
    (arXiv 2605.07330), metadata left out.
    """
    return changed_bytes + 4 * n_changed


def seconds(n_bytes: float, bits_per_second: float) -> float:
    """Time to move ``n_bytes`` at a bandwidth, latency left out."""
    return 8 * n_bytes / bits_per_second


def n_entropy(counts: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """N H(counts / n) over the last axis, n being its sum: bits to code n draws."""
    c = np.asarray(counts, np.float64)
    total = c.sum(axis=-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        bits = c * np.log2(total / c)
    return np.asarray(np.where(c > 0, bits, 0.0).sum(axis=-1))
