"""A series of checkpoints as ``sparsediff stats`` prints it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from sparsediff.cli.common import count, number, percent, plural, say, size
from sparsediff.cli.tables import print_table

if TYPE_CHECKING:
    from sparsediff.stats import SeriesGroup, SeriesStats, SeriesStep

_STEP = ("density", "ones_share", "locality", "repeated_share", "jaccard", "ratio")
_DOCUMENT_GROUPS = ("layer", "kind", "depth", "part")
_ROWS = 4096  # of CSV, printed at a time


def document(stats: SeriesStats) -> dict[str, Any]:
    """All that is no figure of a single tensor, for ``--json``."""
    from sparsediff.stats.history import FIGURES

    return {
        "checkpoints": stats.checkpoints,
        "steps": [
            _step(step)
            | {
                "sizes": [asdict(s) for s in stats.step_sizes(i)],
                "spread": {f: asdict(stats.spread(f, i)) for f in FIGURES},
            }
            for i, step in enumerate(stats.steps)
        ],
        "groups": {by: [_group(g) for g in stats.grouped(by)] for by in _DOCUMENT_GROUPS},
        "exponents": [asdict(e) | {"density": e.density} for e in stats.exponents],
    }


def _step(step: SeriesStep) -> dict[str, Any]:
    return asdict(step) | {f: getattr(step, f) for f in _STEP}


def _group(group: SeriesGroup) -> dict[str, Any]:
    return asdict(group) | {"density": group.density, "steps": [_step(s) for s in group.steps]}


def print_csv(stats: SeriesStats) -> None:
    """One row for each tensor and step in which the tensor is there."""
    import csv  # takes long

    for rows in _csv_rows(stats):
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerows(rows)
        click.echo(out.getvalue(), nl=False)


def _csv_rows(stats: SeriesStats) -> Iterator[list[list[Any]]]:
    counts = ("n_elements", "n_changed", "n_new", "n_ones", "median", "largest")
    overlaps = ("n_seen", "n_repeated")
    shares = ("density", "locality", "jaccard")
    groups = ("layer", "kind", "depth", "part")
    head = ["step", "base", "target", "tensor", "file", *groups, "dtype"]
    yield [[*head, *counts, *overlaps, *shares, "patch_bytes"]]
    keys = [stats.keys(by) for by in groups]
    figures = [stats.per_tensor(f) for f in shares]
    for i, (base, target) in enumerate(zip(stats.checkpoints, stats.checkpoints[1:], strict=False)):
        columns = [getattr(stats, c)[i].tolist() for c in counts]
        columns += [getattr(stats, c)[i].tolist() if i else [None] * len(keys[0]) for c in overlaps]
        columns += [[_known(v) for v in f[i].tolist()] for f in figures]
        columns.append([_known(v) for v in stats.patch_bytes[i].tolist()])
        for first in range(0, len(stats.tensors), _ROWS):
            yield [
                [
                    *(i + 1, base, target, tensor.name, tensor.file),
                    *(key[row] for key in keys),
                    tensor.dtype,
                    *(column[row] for column in columns),
                ]
                for row, tensor in enumerate(stats.tensors[first : first + _ROWS], first)
                if columns[0][row]
            ]


def _known(value: float) -> float | None:
    return None if value != value else value


def print_steps(stats: SeriesStats) -> None:
    """A row for each step."""
    steps = stats.steps
    known = any(s.patch_bytes is not None for s in steps)
    head = ["target", "elements", "changed", "density", "untouched", "±1", "median", "largest"]
    head += ["seen before", "step before", "Jaccard", *(["patch", "ratio"] if known else [])]
    rows = [
        [
            s.target,
            count(s.n_elements),
            count(s.n_changed),
            percent(s.density),
            count(s.n_untouched),
            percent(s.ones_share),
            str(s.median or "-"),
            str(s.largest or "-"),
            percent(s.locality),
            percent(s.repeated_share),
            percent(s.jaccard),
            *([_size(s.patch_bytes), number(s.ratio, 1)] if known else []),
        ]
        for s in steps
    ]
    print_table(head, rows, expendable=("median", "largest", "elements", "Jaccard", "±1"))
    click.echo()
    last = len(steps) - 1
    _say_spread(stats, "density", last, "density of tensors in the last step")
    if last:
        _say_spread(stats, "locality", last, "seen before, by tensor, in the last step")


def _say_spread(stats: SeriesStats, figure: str, step: int, what: str) -> None:
    found = stats.spread(figure, step)
    if found.n:
        low, _, first, middle, third, _, high = map(percent, found.quantiles)
        say(
            f"{what}: {low} to {high}, median {middle}, "
            f"half of {plural(found.n, 'tensor')} between {first} and {third}"
        )


def print_groups(stats: SeriesStats, by: str) -> None:
    """A row for each group."""
    groups = stats.grouped(by)
    known = any(s.patch_bytes is not None for s in stats.steps)
    head = [by, "tensors", "never touched", "elements", "density", "seen before", "Jaccard"]
    rows = []
    for g in groups:
        last = g.steps[-1]
        sent = sum(s.patch_bytes or 0 for s in g.steps)
        rows.append(
            [
                g.key,
                count(g.n_tensors),
                count(g.n_never),
                count(last.n_elements),
                percent(g.density),
                percent(last.locality),
                percent(last.jaccard),
                *([size(sent)] if known else []),
            ]
        )
    print_table([*head, *(["in patches"] if known else [])], rows)
    click.echo()
    say("density is the mean over the steps; seen before and Jaccard are those of the last step")


def _size(n_bytes: float | None) -> str:
    return "-" if n_bytes is None else size(n_bytes)
