"""Figures as Vega-Lite describes them: what is shown against what, and no drawing.

Enters: a `SeriesStats`. Leaves: `Figure`s, whose specifications hold their numbers.
Colours and fonts come from a configuration that who renders them adds (`style.config`).
"""

from __future__ import annotations

from sparsediff.report import over_steps, over_tensors, over_weights, values
from sparsediff.report.style import PERCENT, Figure
from sparsediff.stats import SeriesStats


def figures(stats: SeriesStats, colours: dict[str, str]) -> list[Figure]:
    """All figures that have something to show, but the cost model."""
    steps = values.by_step(stats)
    found = [
        Figure(
            "density",
            "Density, step by step",
            "Share of the elements whose stored bits differ from the checkpoint before.",
            over_steps.line(steps, "density", "changed elements", PERCENT),
        )
    ]
    if any(s["patch"] is not None for s in steps):
        found.append(
            Figure(
                "bytes",
                "Bytes of each patch",
                "What is sent for a step, headers and other files included.",
                over_steps.line(steps, "patch", "patch bytes", ".3~s"),
            )
        )
    if len(steps) > 1:
        found.append(over_steps.locality(steps, colours))
    found.append(over_tensors.layers(stats, colours))
    found.append(over_tensors.tensors(stats, colours))
    found += over_weights.exponents(stats, colours)
    sizes = values.by_size(stats)
    if sizes:
        found.append(over_weights.sizes(sizes))
    found.append(over_tensors.spread(stats))
    where = values.by_destination(stats)
    if where:
        found.append(over_tensors.destinations(where))
    return found


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
