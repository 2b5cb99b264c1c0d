"""What a figure is, and what all of them look like: colours, fonts, names on an axis.

Enters: a set of colours. Leaves: a configuration of Vega-Lite that who renders figures adds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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

PERCENT = ".3~%"


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
NAMES: Spec = {"labelExpr": f"length({_PLAIN}) > 26 ? {_END} : {_PLAIN}"}


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
