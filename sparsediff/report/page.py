"""A report to look at: one page that holds everything it shows and fetches nothing.

Enters: a `SeriesStats`. Leaves: HTML. The figures are those of `figures.py`, drawn by
Vega in the page; a template puts them together. Names in it are data: they reach the
page as JSON in which nothing can end a script, and are shown as text.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from sparsediff.disk.outputs import staged_file
from sparsediff.errors import os_errors
from sparsediff.patch import measures
from sparsediff.report import values
from sparsediff.report.figures import cost_model, figures
from sparsediff.report.libraries import library
from sparsediff.report.plot import check_outputs
from sparsediff.report.style import Figure, config
from sparsediff.stats import SeriesGroup, SeriesStats
from sparsediff.version import __version__

_COLOURS = {
    name: f"var(--{name})" for name in ("ink", "soft", "line", "none", "c1", "c2", "c3", "c4")
}
_SECTIONS = (
    ("Over the steps", ("density", "bytes", "locality")),
    ("Where it changes", ("layers", "tensors")),
    ("What changes, and how far", ("exponents", "exponent-steps", "sizes")),
    ("Which tensors, and which bytes", ("spread", "destinations")),
)
_BANDWIDTH = 1e9  # bit/s at first


def write_page(
    stats: SeriesStats,
    output: Path | str,
    *,
    bandwidth: float | None = None,
    force: bool = False,
) -> None:
    """Write `page` to a file that appears whole.

    Args:
        stats: of the series.
        output: where to.
        bandwidth: see `page`.
        force: replace what is there.

    Raises:
        UsageError: as `check_outputs` does.
        UnavailableError: the disk is full or not there.
    """
    check_outputs(html=output, force=force)
    text = page(stats, bandwidth=bandwidth)
    with staged_file(Path(output), force=force) as stream, os_errors(Path(output)):
        stream.write(text.encode())


def page(stats: SeriesStats, *, bandwidth: float | None = None) -> str:
    """The report as HTML.

    Args:
        stats: of the series.
        bandwidth: bits per second that the cost model shows first; default 1 Gbit/s.

    Raises:
        UsageError: a library of the extra ``report`` is missing.
    """
    jinja2 = library("jinja2")
    bandwidth = bandwidth or _BANDWIDTH
    found = {f.key: f for f in figures(stats, _COLOURS)}
    costs = cost_model(stats, bandwidth)
    templates = files("sparsediff.report") / "templates"
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: (templates / name).read_text("utf-8")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    sections = [(title, [found[key] for key in keys if key in found]) for title, keys in _SECTIONS]
    return str(
        environment.get_template("page.html").render(
            version=__version__,
            summary=_summary(stats),
            sections=[(title, shown) for title, shown in sections if shown],
            costs=costs,
            depth=_groups(stats, "depth"),
            part=_groups(stats, "part"),
            data={
                "config": config(_COLOURS),
                "figures": {f.key: _embedded(f) for f in [*found.values(), costs]},
                "costs": values.costs(stats),
                "size": int(stats.target_bytes[-1]),
                "bandwidth": bandwidth,
                "columns": values.tensor_columns(stats),
            },
            vega=_vega(),
        )
    )


@cache
def _vega() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script; putting it together takes seconds."""
    return str(library("vl_convert").javascript_bundle())


def _embedded(figure: Figure) -> dict[str, Any]:
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "description": f"{figure.title}. {figure.caption}",
        "width": "container",
        "autosize": {"type": "fit-x", "contains": "padding"},
        **figure.spec,
    }


def _summary(stats: SeriesStats) -> dict[str, Any]:
    """What the top of the page says; shares and sizes are means over the steps."""
    steps, checkpoints = stats.steps, values.checkpoint_names(stats)
    changed = sum(s.n_changed for s in steps)
    known = ~np.isnan(stats.step_patch_bytes)
    sent = float(stats.step_patch_bytes[known].sum())
    never = int((stats.n_changed.sum(0) == 0).sum())
    last = steps[-1]
    return {
        "first": checkpoints[0],
        "last": checkpoints[-1],
        "n_steps": len(steps),
        "n_tensors": len(stats.tensors),
        "n_elements": last.n_elements,
        "target_bytes": last.target_bytes,
        "density": measures.share(changed, sum(s.n_elements for s in steps)),
        "ratio": measures.share(float(stats.target_bytes[known].sum()), sent) if sent else None,
        "patch_bytes": sent / int(known.sum()) if sent else None,
        "bits": measures.bits_per_changed(
            float(np.nansum(stats.patch_bytes)), int(stats.n_changed[known].sum())
        )
        if sent
        else None,
        "pair_bits": 8 * values.costs(stats)[1]["share"] * float(stats.target_bytes.sum()) / changed
        if changed
        else None,
        "ones": measures.share(sum(s.n_ones for s in steps), changed - sum(s.n_new for s in steps)),
        "locality": last.locality,
        "never": never,
        "never_share": measures.share(never, len(stats.tensors)),
    }


def _groups(stats: SeriesStats, by: str) -> list[dict[str, Any]]:
    """Rows of a small table; none where there is but one group."""

    def row(group: SeriesGroup) -> dict[str, Any]:
        sent = [s.patch_bytes for s in group.steps if s.patch_bytes is not None]
        return {
            "key": group.key,
            "n_tensors": group.n_tensors,
            "n_never": group.n_never,
            "n_elements": group.steps[-1].n_elements,
            "density": group.density,
            "locality": group.steps[-1].locality,
            "patch_bytes": sum(sent) if sent else None,
        }

    groups = stats.grouped(by)
    return [row(g) for g in groups] if len(groups) > 1 else []
