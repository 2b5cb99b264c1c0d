"""Choosing the tiers of a bucket: which magnitude classes share their statistics.

Enters: a `Survey`. Leaves: the first class of each tier. A choice only the
encoder makes, so nothing here is part of the format. Of all ways to cut the
classes into ranges it takes the cheapest, a tier's own overhead included.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sparsediff.kernels.numbers import CLASS_WIDTH, Int64s, log2_table
from sparsediff.kernels.symbols import Survey

MAX_TIERS = 32
_MAX_GROUPS = 64  # ranges of classes that are never cut
_TIER_BITS = 48  # a tier's counts and table kinds
_SYMBOL_BITS = 8  # one more symbol in a tier's step table
_STEP_WIDTH = np.repeat(CLASS_WIDTH, 2)
_FINE = 1 << 28  # parts of a bit in which costs are added up, so that their order is all the same
_TOP_BITS = 12
_C = [(-1) ** k * 1.4426950408889634 / (k + 1) for k in range(5)]  # log2(1 + r) = C0 r + C1 r² + …
LOG2 = log2_table(1 << _TOP_BITS)

Floats = npt.NDArray[np.float64]


def choose_tiers(survey: Survey, scale: float = 1.0) -> tuple[list[int], list[bool], float]:
    """How to cut a bucket into tiers.

    Args:
        survey: of some or all of its words, at least one, at most 2^26.
        scale: the number of words there are for each that the survey counted.

    Returns:
        bounds: first class of each tier, the first 0.
        marks_unchanged: per tier, whether more than half of its members changed.
        estimate: size of the payload in bytes.
    """
    used = np.flatnonzero(survey.members)
    first = used[_groups(survey, used)]
    members = np.add.reduceat(survey.members, first)
    steps = np.add.reduceat(survey.steps, first, axis=0)
    cost = _cost_of_ranges(members, steps, scale)
    cuts, bits = _cheapest_cuts(cost)
    changed = np.add.reduceat(steps.sum(axis=1), cuts)
    marks = (2 * changed > np.add.reduceat(members, cuts)).tolist()
    return [0, *first[cuts[1:]].tolist()], marks, bits / 8


def _groups(survey: Survey, used: Int64s) -> Int64s:
    """Indices into ``used`` where a group of classes begins; each class its own if they are few."""
    if used.size <= _MAX_GROUPS:
        return np.arange(used.size)
    weight = survey.members[used] / survey.members.sum()
    changed = survey.steps[used].sum(axis=1)
    weight = weight + changed / max(int(changed.sum()), 1)
    group = np.floor(np.cumsum(weight) / 2 * (_MAX_GROUPS - 2))
    return np.flatnonzero(np.diff(group, prepend=-1))


def _x_log2_x(x: Int64s) -> Int64s:
    """``x`` log2 ``x``, in parts of a bit, as sums of products and so the same for whoever does it.

    log2 of the first bits from a table, and that of what is left to the power of 5.
    """
    shift = np.maximum(np.frexp(x.astype(np.float64))[1].astype(np.int64) - _TOP_BITS, 0)
    top = x >> shift
    r = (x - (top << shift)) / np.maximum(top << shift, 1)
    rest = _C[4] * r + _C[3]
    for c in (_C[2], _C[1], _C[0]):
        rest = rest * r + c
    return np.asarray((x * (shift + LOG2[top] + rest * r) * _FINE + 0.5).astype(np.int64))


def _cost_of_ranges(members: Int64s, steps: Int64s, scale: float) -> Int64s:
    """Bits that the groups i … j - 1 take as one tier, at [i, j]; 0 for none, much for i > j.

    Which k of n members changed takes n log n - k log k - (n - k) log (n - k), and their steps,
    of which s are alike, k log k - sum of s log s, and extra bits. All of it grows with the scale.

    Whole bits, so that the last digit of a logarithm, which is not the same on
    every processor, decides nothing.
    """
    symbols = np.flatnonzero(steps.any(axis=0))

    def sums(counts: Int64s) -> Int64s:
        ends = np.concatenate([np.zeros_like(counts[:1]), np.cumsum(counts, axis=0)])
        i, j = np.triu_indices(len(ends), 1)
        return np.asarray(ends[j] - ends[i])

    n, s = sums(members), sums(steps[:, symbols])
    fine = _x_log2_x(n) - _x_log2_x(n - s.sum(axis=1)) - _x_log2_x(s).sum(axis=1)
    fine += s @ _STEP_WIDTH[symbols] * _FINE
    cost = np.full((members.size + 1,) * 2, 1 << 60)
    table = _SYMBOL_BITS * np.count_nonzero(s, axis=1)
    bits = np.rint(fine * scale / _FINE).astype(np.int64)
    np.fill_diagonal(cost, 0)
    cost[np.triu_indices(len(cost), 1)] = bits + table + _TIER_BITS
    return cost


def _cheapest_cuts(cost: Int64s) -> tuple[list[int], int]:
    """Where the tiers of the cheapest partition begin, at most `MAX_TIERS`, and what it costs."""
    best, starts = cost[0], [np.zeros(len(cost), np.int64)]  # of the last of 1, of at most 2, …
    while len(starts) < MAX_TIERS:
        before, total = best, best[:, None] + cost
        starts.append(total.argmin(axis=0))
        best = total.min(axis=0)
        if np.array_equal(best, before):
            break
    cuts, j = [], len(cost) - 1
    while j:
        start = int(starts.pop()[j])
        if start < j:
            cuts.append(start)
        j = start
    return cuts[::-1], int(best[-1])
