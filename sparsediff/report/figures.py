"""Figures as Vega-Lite describes them: what is shown against what, and no drawing.

Enters: a `SeriesStats`. Leaves: `Figure`s, whose specifications hold their numbers.
Colours and fonts come from a configuration that who renders them adds (`config`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from sparsediff.report import values
from sparsediff.stats import SeriesStats

Spec = dict[str, Any]

LIGHT = {
    "ink": "#1c2230",
    "soft": "#5a6478",
    "line": "#d9dee8",
    "none": "#e9ecf2",
    "c1": "#2457c5",
    "c2": "#b4460f",
    "c3": "#1d7a55",
    "c4": "#7b3fb5",
}
"""The colours of figures on white, by the names that the page's style sheet uses."""

_PERCENT = ".3~%"
_NAMED_STEPS = 12  # at most, each with its tick


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure and what to say of it.

    Attributes:
        key: short name.
        title: what it shows.
        caption: how to read it.
        spec: in Vega-Lite, without width.
    """

    key: str
    title: str
    caption: str
    spec: Spec


# Names differ at their ends: where one is too long for an axis, its front is what goes.
_PLAIN = "replace(datum.label, regexp('[.]weight$'), '')"
_END = f"'…' + replace(slice({_PLAIN}, -26), regexp('^[.]'), '')"
_NAMES: Spec = {"labelExpr": f"length({_PLAIN}) > 26 ? {_END} : {_PLAIN}"}


def config(colours: dict[str, str]) -> Spec:
    """What all figures look like, in these colours."""
    text = {"labelColor": colours["soft"], "titleColor": colours["ink"], "titleFontWeight": 500}
    return {
        "background": "transparent",
        "font": "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif",
        "view": {"stroke": None},
        "axis": {
            **text,
            "gridColor": colours["line"],
            "domainColor": colours["line"],
            "tickColor": colours["line"],
            "labelLimit": 165,
            "labelFontSize": 11,
            "titleFontSize": 11.5,
        },
        "legend": {**text, "orient": "top", "gradientLength": 160, "labelFontSize": 11},
        "title": {"color": colours["ink"], "anchor": "start", "fontSize": 14, "offset": 10},
        "range": {"category": [colours[c] for c in ("c1", "c2", "c3", "c4")]},
        "line": {"strokeWidth": 2, "color": colours["c1"]},
        "point": {"filled": True, "size": 36, "color": colours["c1"]},
        "bar": {"color": colours["c1"], "cornerRadiusEnd": 2},
        "area": {"color": colours["c1"]},
        "rule": {"color": colours["ink"]},
    }


def figures(stats: SeriesStats, colours: dict[str, str]) -> list[Figure]:
    """All figures that have something to show, but the cost model."""
    steps = values.by_step(stats)
    found = [
        Figure(
            "density",
            "Density, step by step",
            "Share of the elements whose stored bits differ from the checkpoint before.",
            _over_steps(steps, "density", "changed elements", _PERCENT),
        )
    ]
    if any(s["patch"] is not None for s in steps):
        found.append(
            Figure(
                "bytes",
                "Bytes of each patch",
                "What is sent for a step, headers and other files included.",
                _over_steps(steps, "patch", "patch bytes", ".3~s"),
            )
        )
    if len(steps) > 1:
        found.append(_locality(steps, colours))
    found.append(_layers(stats, colours))
    found.append(_tensors(stats, colours))
    found += _exponents(stats, colours)
    sizes = values.by_size(stats)
    if sizes:
        found.append(_sizes(sizes))
    found.append(_over_tensors(stats))
    where = values.by_destination(stats)
    if where:
        found.append(_destinations(where))
    return found


def _step(rows: list[values.Row]) -> Spec:
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


def _over_steps(rows: list[values.Row], field: str, title: str, form: str) -> Spec:
    return {
        "data": {"values": [{k: r[k] for k in ("step", "target", field)} for r in rows]},
        "mark": {"type": "line", "point": True},
        "height": 180,
        "encoding": {
            "x": _step(rows),
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


def _locality(rows: list[values.Row], colours: dict[str, str]) -> Figure:
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
        "encoding": {"x": _step(rows[1:])},
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


def _layers(stats: SeriesStats, colours: dict[str, str]) -> Figure:
    rows, layers, kinds = values.by_layer_and_kind(stats)
    axis = {"labelOverlap": True, "labelAngle": 0} if max(map(len, layers)) < 7 else {}
    spec = _map(
        rows,
        {"field": "layer", "type": "nominal", "sort": layers, "title": "layer", "axis": axis},
        {"field": "kind", "type": "nominal", "sort": kinds, "title": None, "axis": _NAMES},
        [
            {"field": "name", "title": "layer"},
            {"field": "kind"},
            {"field": "tensors", "type": "quantitative"},
            {"field": "density", "type": "quantitative", "format": _PERCENT},
        ],
        colours["none"],
    )
    return Figure(
        "layers",
        "Density by layer and kind of module",
        "Mean over the steps. Cells in grey did not change at all.",
        spec | {"height": min(18 * len(kinds), 700)},
    )


def _tensors(stats: SeriesStats, colours: dict[str, str]) -> Figure:
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
            "axis": {"labels": named, "ticks": named, **_NAMES},
        },
        [
            {"field": "row", "title": "tensor"},
            {"field": "step"},
            {"field": "density", "type": "quantitative", "format": _PERCENT},
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


def _exponents(stats: SeriesStats, colours: dict[str, str]) -> list[Figure]:
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
        {"field": "density", "type": "quantitative", "format": _PERCENT},
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


def _sizes(rows: list[values.Row]) -> Figure:
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
                    {"field": "share", "type": "quantitative", "format": _PERCENT},
                    {"field": "changes", "type": "quantitative", "format": ","},
                ],
            },
        },
    )


def _over_tensors(stats: SeriesStats) -> Figure:
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


def _destinations(rows: list[values.Row]) -> Figure:
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
                    "axis": _NAMES,
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


def cost_model(stats: SeriesStats, bandwidth: float) -> Figure:
    """Time to send a step against the bandwidth, with parameters ``size`` and ``bandwidth``.

    Args:
        stats: of the series.
        bandwidth: bits per second that the rule shows first.
    """
    shares = values.costs(stats)
    spec = {
        "params": [
            {"name": "size", "value": int(stats.target_bytes[-1])},
            {"name": "bandwidth", "value": bandwidth},
        ],
        "height": 240,
        "layer": [
            {
                "data": {"values": [r | {"rate": 10.0**e} for r in shares for e in range(7, 13)]},
                "transform": [
                    {"calculate": "8 * datum.share * size / datum.rate", "as": "seconds"}
                ],
                "mark": {"type": "line", "point": True},
                "encoding": {
                    "x": {
                        "field": "rate",
                        "type": "quantitative",
                        "title": "bandwidth, bit/s",
                        "scale": {"type": "log", "nice": False},
                        "axis": {"format": "~s", "grid": False, "tickCount": 6},
                    },
                    "y": {
                        "field": "seconds",
                        "type": "quantitative",
                        "title": "seconds for each step",
                        "scale": {"type": "log"},
                        "axis": {"format": "~s", "tickCount": 6},
                    },
                    "color": {
                        "field": "what",
                        "type": "nominal",
                        "title": None,
                        "sort": None,
                        "legend": {"columns": 2},  # three do not fit a phone
                    },
                    "tooltip": [
                        {"field": "what"},
                        {"field": "rate", "type": "quantitative", "title": "bit/s", "format": "~s"},
                        {"field": "seconds", "type": "quantitative", "format": ".3~s"},
                    ],
                },
            },
            {
                "data": {"values": [{}]},
                "transform": [{"calculate": "bandwidth", "as": "rate"}],
                "mark": {"type": "rule", "strokeDash": [4, 3], "strokeWidth": 1.5},
                "encoding": {"x": {"field": "rate", "type": "quantitative"}},
            },
        ],
    }
    return Figure(
        "costs",
        "How long a step takes to send",
        "Latency is left out. The dashed line is the bandwidth chosen above.",
        spec,
    )
