"""The figures people ask for; each formula is written here, or for arrays in `counts`.

Enters: counts. Leaves: numbers, or None where a figure has no meaning (a share
of nothing).
"""

from __future__ import annotations

from collections.abc import Sequence

from sparsediff.kernels.symbols import class_start, class_width


def share(part: float, whole: float) -> float | None:
    """``part / whole``; density is the share of changed among all elements."""
    return part / whole if whole else None


def sparsity(n_changed: int, n_elements: int) -> float | None:
    """1 - density."""
    return 1 - n_changed / n_elements if n_elements else None


def bits_per_changed(patch_bytes: float, n_changed: int) -> float | None:
    """Bits of patch per changed element."""
    return 8 * patch_bytes / n_changed if n_changed else None


def weighted_median(values: list[int], weights: list[int]) -> int:
    """The value below and above which half of the weight lies; 0 without weight."""
    weight_of: dict[int, int] = {}  # there may be very many values, but few that differ
    for value, weight in zip(values, weights, strict=True):
        weight_of[value] = weight_of.get(value, 0) + weight
    total, below = sum(weights), 0
    if not total:
        return 0
    for value in sorted(weight_of):
        below += weight_of[value]
        if 2 * below >= total:
            return value
    raise AssertionError("no weight is below the middle")


def median_step(by_class: Sequence[int]) -> int:
    """Median |step| in ULP, from counts per class of |step| - 1; 0 where there are no steps.

    Exact up to 4; above, the middle of the class it falls in, at most a quarter off.
    """
    left = (sum(by_class) + 1) // 2
    for c, n in enumerate(by_class):
        left -= n
        if left <= 0:
            return class_start(c) + ((1 << class_width(c)) - 1) // 2 + 1 if n else 0
    return 0


def raw_pairs_bytes(changed_bytes: int, n_changed: int) -> int:
    """Size of the changes as plain index and value pairs, int32 indices.

    S_sparse = rho N (b_v + b_i) with b_i = 4, the cost model of SparseRL-Sync
    (arXiv 2605.07330), metadata left out.
    """
    return changed_bytes + 4 * n_changed


def seconds(n_bytes: float, bits_per_second: float) -> float:
    """Time to move ``n_bytes`` at a bandwidth, latency left out."""
    return 8 * n_bytes / bits_per_second
