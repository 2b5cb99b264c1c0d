"""Choosing the tiers of a bucket: which magnitude classes share their statistics.

Enters: a `Survey`. Leaves: the first class of each tier. A choice only the
encoder makes, so nothing here is part of the format. Neighbouring classes are
merged, cheapest first, while that costs less than the tier's own overhead.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sparsediff.kernels import Survey
from sparsediff.kernels.numbers import CLASS_WIDTH
from sparsediff.measures import n_entropy

MAX_TIERS = 32
_TIER_BITS = 48.0  # a tier's counts and table kinds
_SYMBOL_BITS = 8.0  # one more symbol in a tier's step table
_STEP_WIDTH = np.repeat(CLASS_WIDTH, 2).astype(np.float64)

Floats = npt.NDArray[np.float64]


def estimated_bits(members: Floats, changed: Floats, steps: Floats) -> Floats:
    """Coded size of tiers with these counts, in bits; the first axis is the tier."""
    where = n_entropy(np.stack([changed, members - changed], axis=-1))
    how = n_entropy(steps) + steps @ _STEP_WIDTH
    return np.asarray(where + how + _SYMBOL_BITS * np.count_nonzero(steps, axis=-1) + _TIER_BITS)


def choose_tiers(survey: Survey) -> tuple[list[int], float]:
    """First class of each tier, the first 0; and the estimated size of the payload in bytes."""
    used = np.flatnonzero(survey.members)
    start = used.copy()  # first class of each candidate tier
    members = survey.members[used].astype(np.float64)
    changed = survey.changed[used].astype(np.float64)
    steps = survey.steps[used].astype(np.float64)
    cost = estimated_bits(members, changed, steps)

    def merged(i: npt.NDArray[np.int64]) -> Floats:
        j = i + 1
        both = estimated_bits(members[i] + members[j], changed[i] + changed[j], steps[i] + steps[j])
        return both - cost[i] - cost[j]

    penalty = merged(np.arange(len(start) - 1))
    while len(start) > 1:
        i = int(penalty.argmin())
        if penalty[i] > 0 and len(start) <= MAX_TIERS:
            break
        for counts in (members, changed, steps):
            counts[i] += counts[i + 1]
        members, changed, cost = (np.delete(a, i + 1) for a in (members, changed, cost))
        start = np.delete(start, i + 1)
        steps = np.delete(steps, i + 1, axis=0)
        cost[i] = estimated_bits(members[i : i + 1], changed[i : i + 1], steps[i : i + 1])[0]
        penalty = np.delete(penalty, i)
        near = np.array([k for k in (i - 1, i) if 0 <= k < len(start) - 1], np.int64)
        penalty[near] = merged(near)
    start[0] = 0
    return [int(s) for s in start], float(cost.sum()) / 8
