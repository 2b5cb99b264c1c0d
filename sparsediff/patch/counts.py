"""Figures of many counts at once, as arrays.

Enters: counts per class of |step| - 1, or of anything. Leaves: medians and entropies. What
needs no array is in `measures`, which starts without NumPy.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sparsediff.kernels.numbers import CLASS_START, CLASS_WIDTH

Counts = npt.NDArray[np.int64]


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


def n_entropy(counts: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """N H(counts / n) over the last axis, n being its sum: bits to code n draws."""
    c = np.asarray(counts, np.float64)
    total = c.sum(axis=-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        bits = c * np.log2(total / c)
    return np.asarray(np.where(c > 0, bits, 0.0).sum(axis=-1))
