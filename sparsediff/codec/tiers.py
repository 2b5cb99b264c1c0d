"""Choosing the tiers of a bucket: which magnitude classes share their statistics.

Enters: a `Survey`. Leaves: the first class of each tier. A choice only the
encoder makes, so nothing here is part of the format. Of all ways to cut the
classes into ranges it takes the cheapest, a tier's own overhead included.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sparsediff.kernels import Survey
from sparsediff.kernels.numbers import CLASS_WIDTH

MAX_TIERS = 32
_MAX_GROUPS = 64  # ranges of classes that are never cut
_TIER_BITS = 48  # a tier's counts and table kinds
_SYMBOL_BITS = 8  # one more symbol in a tier's step table
_STEP_WIDTH = np.repeat(CLASS_WIDTH, 2).astype(np.float64)

Floats = npt.NDArray[np.float64]


def choose_tiers(survey: Survey, scale: float = 1.0) -> tuple[list[int], float]:
    """First class of each tier, the first 0; and the estimated size of the payload in bytes.

    ``scale`` is the number of words there are for each that the survey counted.
    """
    used = np.flatnonzero(survey.members)
    first = used[_groups(survey, used)]
    members = scale * np.add.reduceat(survey.members, first).astype(np.float64)
    changed = scale * np.add.reduceat(survey.changed, first).astype(np.float64)
    symbols = np.flatnonzero(survey.steps[used].any(axis=0))
    steps = scale * np.add.reduceat(survey.steps[:, symbols], first, axis=0).astype(np.float64)
    cost = _cost_of_ranges(members, changed, steps, _STEP_WIDTH[symbols])
    while True:
        cuts, bits = _cheapest_cuts(cost)
        if len(cuts) <= MAX_TIERS:
            break
        cost += _TIER_BITS
    return [0, *first[cuts[1:]].tolist()], bits / 8


def _groups(survey: Survey, used: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Indices into ``used`` where a group of classes begins; each class its own if they are few."""
    if used.size <= _MAX_GROUPS:
        return np.arange(used.size)
    weight = survey.members[used] / survey.members.sum()
    weight = weight + survey.changed[used] / max(int(survey.changed.sum()), 1)
    group = np.floor(np.cumsum(weight) / 2 * (_MAX_GROUPS - 2))
    return np.flatnonzero(np.diff(group, prepend=-1))


def _x_log2_x(x: Floats) -> Floats:
    return x * np.log2(np.maximum(x, 1.0))


def _cost_of_ranges(members: Floats, changed: Floats, steps: Floats, widths: Floats) -> Floats:
    """Coded size of the classes i … j - 1 as one tier, in bits, at [i, j]; infinite for i >= j.

    Whole bits, so that the last digit of a logarithm, which is not the same on
    every processor, decides nothing.
    """

    def sums(counts: Floats) -> Floats:
        ends = np.concatenate([np.zeros_like(counts[:1]), np.cumsum(counts, axis=0)])
        return np.asarray(ends[None, :] - ends[:, None])

    n, k, s = sums(members), sums(changed), sums(steps)
    i, j = np.triu_indices(n.shape[0], 1)
    n, k, s = n[i, j], k[i, j], s[i, j]
    where = _x_log2_x(n) - _x_log2_x(k) - _x_log2_x(n - k)
    how = _x_log2_x(k) - _x_log2_x(s).sum(axis=1) + s @ widths
    cost = np.full((members.size + 1,) * 2, np.inf)
    table = _SYMBOL_BITS * np.count_nonzero(s > 0.5, axis=1)
    cost[i, j] = np.rint(where + how) + table + _TIER_BITS
    return cost


def _cheapest_cuts(cost: Floats) -> tuple[list[int], float]:
    """Where the tiers of the cheapest partition begin, and what it costs."""
    n = len(cost) - 1
    best = np.zeros(n + 1)
    start = [0] * (n + 1)
    for j in range(1, n + 1):
        total = best[:j] + cost[:j, j]
        start[j] = int(total.argmin())
        best[j] = total[start[j]]
    cuts, j = [], n
    while j:
        j = start[j]
        cuts.append(j)
    return cuts[::-1], float(best[n])
