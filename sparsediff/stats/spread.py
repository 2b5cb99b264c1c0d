"""How one figure is spread over many tensors: quantiles, histogram, cumulative shares.

Enters: an array with one value for each tensor, NaN where the figure has no meaning.
Leaves: a `Spread`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
_CURVE = 101  # points of a cumulative curve
_BINS = 20


@dataclass(frozen=True, slots=True)
class Spread:
    """The values of one figure over tensors; tensors without a value are left out.

    Attributes:
        n: tensors that have a value.
        mean: of the values, each tensor counting once; None without values.
        quantiles: value at each of `QUANTILES`, interpolated linearly; empty without values.
        edges: of the histogram, 21 of them from the least to the largest value, which share
            the range evenly; empty without values.
        counts: tensors in each of its 20 bins; the last includes its upper edge.
        curve: the value below or at which 0, 1, … 100 % of the tensors lie, so the
            cumulative distribution; empty without values.
    """

    n: int
    mean: float | None
    quantiles: list[float]
    edges: list[float]
    counts: list[int]
    curve: list[float]


def spread(values: Floats) -> Spread:
    """The spread of ``values``, shape (n_tensors,), NaN where there is none."""
    known = values[~np.isnan(values)]
    if not known.size:
        return Spread(0, None, [], [], [], [])
    counts, edges = np.histogram(known, _BINS)
    return Spread(
        int(known.size),
        float(known.mean()),
        np.quantile(known, QUANTILES).tolist(),
        edges.tolist(),
        counts.tolist(),
        np.quantile(known, np.linspace(0, 1, _CURVE), method="inverted_cdf").tolist(),
    )
