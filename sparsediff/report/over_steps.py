"""Figures along the steps of a series.

Enters: the rows of `values.by_step`. Leaves: `Figure`s and their specifications.
"""

from __future__ import annotations

from sparsediff.report import values
from sparsediff.report.style import Figure, Spec

_NAMED_STEPS = 12  # at most, each with its tick


def _axis_of_steps(rows: list[values.Row]) -> Spec:
    axis: Spec = {"tickMinStep": 1, "format": "d", "grid": False}
    if len(rows) <= _NAMED_STEPS:
        axis["values"] = [r["step"] for r in rows]
    return {
        "field": "step",
        "type": "quantitative",
        "title": "step",
        "axis": axis,
        "scale": {"nice": False, "zero": False, "padding": 8},
    }


def line(rows: list[values.Row], field: str, title: str, form: str) -> Spec:
    """One number of every step, as a line with points."""
    return {
        "data": {"values": [{k: r[k] for k in ("step", "target", field)} for r in rows]},
        "mark": {"type": "line", "point": True},
        "height": 180,
        "encoding": {
            "x": _axis_of_steps(rows),
            "y": {
                "field": field,
                "type": "quantitative",
                "title": title,
                "axis": {"format": form, "tickCount": 5},
            },
            "tooltip": [
                {"field": "target", "title": "checkpoint"},
                {"field": field, "type": "quantitative", "title": title, "format": form},
            ],
        },
    }


def locality(rows: list[values.Row], colours: dict[str, str]) -> Figure:
    """The share of positions that had changed before, and its spread over the tensors."""
    y = {"type": "quantitative", "axis": {"format": ".0%", "tickCount": 5}}
    top: Spec = {"scale": {"domain": [0, 1]}, "title": "seen before"}
    tooltip = [
        {"field": "target", "title": "checkpoint"},
        {"field": "locality", "type": "quantitative", "title": "all tensors", "format": ".1%"},
        {"field": "first", "type": "quantitative", "title": "first quartile", "format": ".1%"},
        {"field": "third", "type": "quantitative", "title": "third quartile", "format": ".1%"},
        {"field": "jaccard", "type": "quantitative", "title": "Jaccard", "format": ".1%"},
    ]

    def band(low: str, high: str) -> Spec:
        return {
            "mark": {"type": "area", "opacity": 0.16},
            "encoding": {"y": {"field": low, **y, **top}, "y2": {"field": high}},
        }

    spec = {
        "data": {"values": rows[1:]},
        "height": 180,
        "encoding": {"x": _axis_of_steps(rows[1:])},
        "layer": [
            band("low", "high"),
            band("first", "third"),
            {
                "mark": {"type": "line", "point": True},
                "encoding": {"y": {"field": "locality", **y, **top}, "tooltip": tooltip},
            },
            {
                "mark": {"type": "line", "strokeDash": [5, 4], "color": colours["c2"]},
                "encoding": {"y": {"field": "jaccard", **y, **top}},
            },
        ],
    }
    return Figure(
        "locality",
        "Positions that had changed before",
        "Of the positions that changed in a step, the share that had changed in any step before "
        "(line), and how that is spread over the tensors: half of them lie in the darker band, "
        "nine in ten in the lighter. Dashed: Jaccard's index of a step and the one before.",
        spec,
    )
