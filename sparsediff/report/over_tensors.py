"""Figures over the tensors: where in a model its changes are.

Enters: a `SeriesStats` or rows of `values`. Leaves: `Figure`s.
"""

from __future__ import annotations

from sparsediff.report import values
from sparsediff.report.style import NAMES, PERCENT, Figure, Spec
from sparsediff.stats import SeriesStats


def _heat(density_title: str) -> Spec:
    return {
        "field": "density",
        "type": "quantitative",
        "scale": {"type": "log", "scheme": "viridis", "reverse": False},
        "legend": {"title": density_title, "format": ".2~%", "tickCount": 3},
    }


def _map(rows: list[values.Row], x: Spec, y: Spec, tooltip: list[Spec], none: str) -> Spec:
    """Cells by density; those without a change in a colour of their own."""
    both = {"x": x, "y": y, "tooltip": tooltip}
    return {
        "data": {"values": rows},
        "encoding": both,
        "layer": [
            {
                "transform": [{"filter": "datum.density === 0"}],
                "mark": {"type": "rect", "color": none},
            },
            {
                "transform": [{"filter": "datum.density > 0"}],
                "mark": "rect",
                "encoding": {"color": _heat("changed elements")},
            },
        ],
    }


def layers(stats: SeriesStats, colours: dict[str, str]) -> Figure:
    """Density by layer and kind of module."""
    rows, layers, kinds = values.by_layer_and_kind(stats)
    axis = {"labelOverlap": True, "labelAngle": 0} if max(map(len, layers)) < 7 else {}
    spec = _map(
        rows,
        {"field": "layer", "type": "nominal", "sort": layers, "title": "layer", "axis": axis},
        {"field": "kind", "type": "nominal", "sort": kinds, "title": None, "axis": NAMES},
        [
            {"field": "name", "title": "layer"},
            {"field": "kind"},
            {"field": "tensors", "type": "quantitative"},
            {"field": "density", "type": "quantitative", "format": PERCENT},
        ],
        colours["none"],
    )
    return Figure(
        "layers",
        "Density by layer and kind of module",
        "Mean over the steps. Cells in grey did not change at all.",
        spec | {"height": min(18 * len(kinds), 700)},
    )


def tensors(stats: SeriesStats, colours: dict[str, str]) -> Figure:
    """Density by tensor and step; names side by side share a row where there are many."""
    rows, labels = values.by_tensor_and_step(stats)
    named = len(labels) <= 48
    spec = _map(
        rows,
        {
            "field": "step",
            "type": "ordinal",
            "title": "step",
            "axis": {"labelOverlap": True, "labelAngle": 0},
        },
        {
            "field": "row",
            "type": "nominal",
            "sort": labels,
            "title": None if named else "tensors, in the order of their names",
            "axis": {"labels": named, "ticks": named, **NAMES},
        },
        [
            {"field": "row", "title": "tensor"},
            {"field": "step"},
            {"field": "density", "type": "quantitative", "format": PERCENT},
        ],
        colours["none"],
    )
    together = "" if len(labels) == len(stats.tensors) else " Tensors side by side share a row."
    return Figure(
        "tensors",
        "Density by tensor and step",
        f"A row that is all grey was never touched.{together}",
        spec | {"height": (14 if named else 4) * len(labels)},
    )


def spread(stats: SeriesStats) -> Figure:
    """How many tensors have at most a density, a line for each step."""
    return Figure(
        "spread",
        "Density over the tensors",
        "How many of the tensors have at most that density.",
        {
            "data": {"values": values.over_tensors(stats)},
            "mark": {"type": "line", "interpolate": "step-after"},
            "height": 180,
            "encoding": {
                "x": {
                    "field": "density",
                    "type": "quantitative",
                    "title": "changed elements",
                    "axis": {"format": ".2~%", "tickCount": 5, "grid": False},
                },
                "y": {
                    "field": "share",
                    "type": "quantitative",
                    "title": "tensors",
                    "axis": {"format": ".0%", "tickCount": 5},
                },
                "color": {"field": "step", "type": "nominal", "title": None, "sort": None},
                "order": {"field": "share"},
            },
        },
    )


def destinations(rows: list[values.Row]) -> Figure:
    """Bytes of all patches by kind of module."""
    return Figure(
        "destinations",
        "Where the bytes of the patches go",
        "All patches together, by kind of module.",
        {
            "data": {"values": rows},
            "mark": "bar",
            "height": 20 * len(rows),
            "encoding": {
                "y": {
                    "field": "what",
                    "type": "nominal",
                    "sort": None,
                    "title": None,
                    "axis": NAMES,
                },
                "x": {
                    "field": "bytes",
                    "type": "quantitative",
                    "title": "bytes",
                    "axis": {"format": ".2~s", "tickCount": 5},
                },
                "tooltip": [
                    {"field": "what"},
                    {"field": "bytes", "type": "quantitative", "format": ",.0f"},
                    {"field": "share", "type": "quantitative", "format": ".1%"},
                ],
            },
        },
    )
