"""Figures over single weights: how large those that change are, and how far they move.

Enters: a `SeriesStats` or rows of `values`. Leaves: `Figure`s.
"""

from __future__ import annotations

import math

from sparsediff.report import values
from sparsediff.report.style import PERCENT, Figure, Spec
from sparsediff.stats import SeriesStats


def exponents(stats: SeriesStats, colours: dict[str, str]) -> list[Figure]:
    """Density and median step by the power of two of a weight; none without floats."""
    rows = values.by_exponent(stats)
    if not rows:
        return []
    several = len({r["dtype"] for r in rows}) > 1
    colour: Spec = (
        {"color": {"field": "dtype", "type": "nominal", "title": None}} if several else {}
    )
    x = {
        "field": "exponent",
        "type": "quantitative",
        "title": "size of the weight: power of two",
        "axis": {"tickMinStep": 1, "format": "d", "grid": False},
        "scale": {"zero": False, "nice": False, "padding": 8},
    }
    tooltip = [
        {"field": "dtype"},
        {"field": "magnitude", "type": "quantitative", "title": "from", "format": ".3~g"},
        {"field": "elements", "type": "quantitative", "format": ","},
        {"field": "density", "type": "quantitative", "format": PERCENT},
        {"field": "ones", "type": "quantitative", "title": "by ±1 ULP", "format": ".1%"},
        {"field": "median", "type": "quantitative", "title": "median step, ULP"},
    ]

    def spec(field: str, title: str, form: str) -> Spec:
        known = [r[field] for r in rows if r[field] is not None]
        if not known:
            return {}
        powers = range(math.floor(math.log10(min(known))), math.ceil(math.log10(max(known))) + 1)
        return {
            "data": {"values": rows},
            "transform": [{"filter": f"datum.{field} !== null"}],
            "mark": {"type": "line", "point": True},
            "height": 180,
            "encoding": {
                "x": x,
                "y": {
                    "field": field,
                    "type": "quantitative",
                    "title": title,
                    "scale": {"type": "log"},
                    "axis": {"format": form, "values": [10.0**e for e in powers]},
                },
                "tooltip": tooltip,
                **colour,
            },
        }

    found = [
        Figure(
            "exponents",
            "Density by size of the weight",
            "A step of the optimizer is about as large for every weight, while stored numbers lie "
            "farther apart the larger they are. So the density halves from one power of two to "
            "the next, until small weights change every time.",
            spec("density", "changed elements", ".1~p"),
        ),
        Figure(
            "exponent-steps",
            "Step by size of the weight",
            "Median distance of a change, in units in the last place (ULP).",
            spec("median", "median step, ULP", "~s"),
        ),
    ]
    return [f for f in found if f.spec]


def sizes(rows: list[values.Row]) -> Figure:
    """Share of the changes by their distance in units in the last place."""
    return Figure(
        "sizes",
        "How far weights move",
        "Changes of all steps by distance in units in the last place (ULP); one is the next "
        "number that can be stored.",
        {
            "data": {"values": rows},
            "mark": "bar",
            "height": 180,
            "encoding": {
                "x": {
                    "field": "size",
                    "type": "ordinal",
                    "sort": None,
                    "title": "distance, ULP",
                    "axis": {"labelOverlap": True, "labelAngle": 0},
                },
                "y": {
                    "field": "share",
                    "type": "quantitative",
                    "title": "changes",
                    "axis": {"format": ".0%", "tickCount": 5},
                },
                "tooltip": [
                    {"field": "size", "title": "ULP"},
                    {"field": "share", "type": "quantitative", "format": PERCENT},
                    {"field": "changes", "type": "quantitative", "format": ","},
                ],
            },
        },
    )
