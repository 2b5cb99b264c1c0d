"""The main figures as a file, for papers.

Enters: a `SeriesStats`. Leaves: a PNG, SVG or PDF that appears whole.
"""

from __future__ import annotations

from pathlib import Path

from sparsediff.disk.outputs import staged_file
from sparsediff.disk.replace import check_output
from sparsediff.errors import UsageError, os_errors
from sparsediff.report.figures import figures
from sparsediff.report.libraries import library
from sparsediff.report.style import LIGHT, Spec, config
from sparsediff.stats import SeriesStats

SUFFIXES = (".png", ".svg", ".pdf")

_MAIN = (
    *("density", "bytes", "locality"),
    *("exponents", "exponent-steps", "sizes"),
    *("spread", "destinations", "layers"),
)
_WIDTH = 300
_SCALE = 2.0  # of a PNG


def check_outputs(
    *, html: Path | str | None = None, plot: Path | str | None = None, force: bool = False
) -> None:
    """Check beforehand that a report can be written, before much is read for it.

    Args:
        html: of the page.
        plot: of the figures.
        force: replace what is there.

    Raises:
        UsageError: it cannot: something is there, a suffix is none we write, a library of
            the extra ``report`` is missing.
    """
    if plot is not None and Path(plot).suffix.lower() not in SUFFIXES:
        raise UsageError("figures are written as .png, .svg or .pdf", file=plot)
    for output in (html, plot):
        if output is not None:
            check_output(Path(output), force=force)
            library("vl_convert")
    if html is not None:
        library("jinja2")


def write_plot(stats: SeriesStats, output: Path | str, *, force: bool = False) -> None:
    """Write the main figures.

    Args:
        stats: of the series.
        output: a name that ends in ``.png``, ``.svg`` or ``.pdf``.
        force: replace what is there.

    Raises:
        UsageError: as `check_outputs` does.
        UnavailableError: the disk is full or not there.
    """
    check_outputs(plot=output, force=force)
    vl_convert = library("vl_convert")
    found = {f.key: f for f in figures(stats, LIGHT)}
    specs: list[Spec] = [
        {"title": found[key].title, "width": _WIDTH, **found[key].spec}
        for key in _MAIN
        if key in found
    ]
    spec = {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "config": config(LIGHT) | {"background": "white"},
        "padding": 12,
        "columns": 3,
        "spacing": 40,
        "concat": specs,
        "resolve": {"scale": {"color": "independent"}},
    }
    path = Path(output)
    if path.suffix.lower() == ".png":
        data = vl_convert.vegalite_to_png(spec, scale=_SCALE)
    elif path.suffix.lower() == ".svg":
        data = vl_convert.vegalite_to_svg(spec).encode()
    else:
        data = vl_convert.vegalite_to_pdf(spec)
    with staged_file(path, force=force) as stream, os_errors(path):
        stream.write(data)
