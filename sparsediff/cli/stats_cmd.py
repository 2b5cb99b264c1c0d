"""``sparsediff stats``."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

import click

from sparsediff.cli.common import (
    Bandwidth,
    count,
    duration,
    examples,
    exit_codes,
    jobs_option,
    json_option,
    number,
    options,
    percent,
    print_json,
    print_table,
    progress_bar,
    quiet_option,
    say,
    size,
)

if TYPE_CHECKING:
    from sparsediff.stats import CheckpointStats, Group, SeriesStep

_FIELDS = [
    "n_tensors",
    "n_untouched",
    "n_elements",
    "n_changed",
    "n_new",
    "density",
    "sparsity",
    "n_ones",
    "ones_share",
    "median",
    "largest",
    "raw_bytes",
    "patch_bytes",
    "bits_per_changed",
]
_SORTS = {
    "name": "key",
    "elements": "n_elements",
    "changed": "n_changed",
    "density": "density",
    "bytes": "raw_bytes",
    "patch": "patch_bytes",
    "bits": "bits_per_changed",
    "median": "median",
    "largest": "largest",
}


@click.command(
    "stats",
    epilog=examples(
        "sparsediff stats step_100/ step_101/",
        "sparsediff stats 101.sdiff --by layer --sort density --top 10",
        "sparsediff stats A B --bound --bandwidth 1Gbps",
        "sparsediff stats step_100/ step_101/ step_102/ step_103/",
    )
    + exit_codes(0, 2, 11, 12, 13, 130),
)
@click.argument("paths", metavar="BASE TARGET | PATCH", nargs=-1, required=True, type=click.Path())
@options(
    click.option(
        "--by",
        type=click.Choice(["tensor", "layer", "kind", "dtype", "file"]),
        default="tensor",
        show_default=True,
        help="What a row stands for.",
    ),
    click.option(
        "--sort",
        type=click.Choice(list(_SORTS)),
        help="Order rows, largest first, names from A to Z. [default: as stored]",
    ),
    click.option("--top", type=click.IntRange(1), metavar="N", help="Show only the first N rows."),
    click.option(
        "--bound", is_flag=True, help="Compare with the entropy bound (needs BASE TARGET)."
    ),
    click.option(
        "--bandwidth",
        type=Bandwidth(),
        metavar="RATE",
        help="Show transfer times at this rate, like 1Gbps or 100MB/s.",
    ),
    json_option,
    click.option("--csv", "as_csv", is_flag=True, help="Print rows as CSV."),
    jobs_option,
    quiet_option,
)
def command(
    paths: tuple[str, ...],
    by: str,
    sort: str | None,
    top: int | None,
    bound: bool,
    bandwidth: float | None,
    as_json: bool,
    as_csv: bool,
    jobs: int | None,
    quiet: bool,
) -> None:
    """Report how much changed, per tensor and in total.

    Given BASE and TARGET, measures them; given a PATCH, reads the same figures
    from its manifest. Given more than two checkpoints, reports the density of
    each step and how many of its changed positions had changed the step before.

    An element is a stored word; a step is the distance of two words in units
    in the last place (ULP). "in patch" splits a bucket that several tensors
    share by their changed elements.
    """
    if as_json and as_csv:
        raise click.UsageError("give --json or --csv, not both")
    from sparsediff.errors import UsageError
    from sparsediff.patch.container import is_patch

    for path in paths[1:] and paths:
        if is_patch(path):
            raise UsageError("is a patch; stats takes one PATCH alone, or checkpoints", file=path)
    if len(paths) > 2:
        if bound or bandwidth or sort or top or by != "tensor":
            raise click.UsageError("a series takes no --by, --sort, --top, --bound or --bandwidth")
        _series(paths, jobs, quiet, as_json, as_csv)
        return
    stats = _measure(paths, jobs, quiet, bound)
    groups = stats.grouped(by)
    if sort:
        groups.sort(key=lambda g: _sort_value(g, sort), reverse=sort != "name")
    hidden = len(groups) - len(groups[:top])
    groups = groups[:top]
    if as_json:
        print_json(_document(stats, groups, by, bandwidth))
    elif as_csv:
        rows = [[g.key, *(getattr(g, f) for f in _FIELDS)] for g in [*groups, stats.total]]
        _print_csv([by, *_FIELDS], rows)
    else:
        _print(stats, groups, by, hidden)
        if stats.bound_bits is not None:
            _print_bound(stats)
        if bandwidth:
            _print_times(stats, bandwidth)


def _measure(paths: tuple[str, ...], jobs: int | None, quiet: bool, bound: bool) -> CheckpointStats:
    from sparsediff.stats import checkpoint_stats, patch_stats

    if len(paths) == 2:
        with progress_bar("stats", quiet=quiet) as progress:
            return checkpoint_stats(*paths, jobs=jobs, bound=bound, progress=progress)
    if bound:
        raise click.UsageError("--bound needs the words themselves: give BASE and TARGET")
    return patch_stats(paths[0])


def _sort_value(group: Group, sort: str) -> Any:
    value = getattr(group, _SORTS[sort])
    return -1 if value is None else value


def _print(stats: CheckpointStats, groups: list[Group], by: str, hidden: int) -> None:
    total = stats.total
    head = [by, "elements", "changed", "density", "sparsity", "±1", "median", "largest"]
    head += ["bytes", "in patch", "bits/chg"]
    rows = [
        [
            g.key,
            count(g.n_elements),
            count(g.n_changed),
            percent(g.density),
            percent(g.sparsity),
            percent(g.ones_share),
            str(g.median or "-"),
            str(g.largest or "-"),
            size(g.raw_bytes),
            size(g.patch_bytes),
            number(g.bits_per_changed),
        ]
        for g in [*groups, total]
    ]
    print_table(head, rows, last_is_total=True, expendable=("sparsity", "median", "largest", "±1"))
    if hidden:
        say(f"({hidden:,} rows not shown)")
    say(
        f"\n{total.n_tensors:,} tensors, {total.n_untouched:,} untouched; patch "
        f"{size(stats.patch_bytes)} for {size(stats.target_bytes)}: ratio {number(stats.ratio, 1)}"
    )


def _print_bound(stats: CheckpointStats) -> None:
    assert stats.bound_bits is not None
    bits = stats.bound_bits
    if not bits:
        say("bound   0 B: what changed, if anything, follows from the base")
        return
    stepped = sum(t.n_changed - t.n_new for t in stats.tensors)
    say(
        f"bound   {size(bits / 8)}, {bits / stepped:.2f} bits per change: payloads are "
        f"{_above(8 * stats.coded_bytes / bits)}, the whole patch "
        f"{_above(8 * stats.patch_bytes / bits)}"
    )


def _above(ratio: float) -> str:
    return f"{100 * abs(ratio - 1):.1f} % {'above' if ratio >= 1 else 'below'} it"


def _times(stats: CheckpointStats, bandwidth: float) -> list[tuple[str, int, float]]:
    from sparsediff.patch.measures import seconds

    parts = [
        ("whole checkpoint", stats.target_bytes),
        ("raw index+value pairs", stats.raw_pairs_bytes),
        ("this patch", stats.patch_bytes),
    ]
    return [(name, n, seconds(n, bandwidth)) for name, n in parts]


def _print_times(stats: CheckpointStats, bandwidth: float) -> None:
    click.echo()
    say(f"transfer at {bandwidth / 1e9:g} Gbit/s:")
    rows = [[name, size(n), duration(t)] for name, n, t in _times(stats, bandwidth)]
    print_table(["what", "bytes", "time"], rows)


def _print_csv(head: list[str], rows: list[list[Any]]) -> None:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([head, *rows])
    click.echo(out.getvalue(), nl=False)


def _row(group: Group) -> dict[str, Any]:
    return {"name": group.key} | {f: getattr(group, f) for f in _FIELDS}


def _document(
    stats: CheckpointStats, groups: list[Group], by: str, bandwidth: float | None
) -> dict[str, Any]:
    document: dict[str, Any] = {
        "by": by,
        "rows": [_row(g) for g in groups],
        "total": _row(stats.total),
        "target_bytes": stats.target_bytes,
        "patch_bytes": stats.patch_bytes,
        "ratio": stats.ratio,
    }
    if stats.bound_bits is not None:
        document["bound"] = {
            "bits": stats.bound_bits,
            "coded_bytes": stats.coded_bytes,
            "patch_over_bound": 8 * stats.patch_bytes / stats.bound_bits
            if stats.bound_bits
            else None,
        }
    if bandwidth:
        document["transfer"] = [
            {"what": name, "bytes": n, "seconds": t} for name, n, t in _times(stats, bandwidth)
        ]
    return document


def _series(
    paths: tuple[str, ...], jobs: int | None, quiet: bool, as_json: bool, as_csv: bool
) -> None:
    from sparsediff.stats import series_stats

    with progress_bar("stats", quiet=quiet) as progress:
        steps = series_stats(paths, jobs=jobs, progress=progress)
    fields = ("n_elements", "n_changed", "density", "n_repeated", "repeated_share")

    def plain(step: SeriesStep) -> dict[str, Any]:
        ends = {"base": str(step.base), "target": str(step.target)}
        return ends | {f: getattr(step, f) for f in fields}

    if as_json:
        print_json({"steps": [plain(s) for s in steps]})
    elif as_csv:
        _print_csv(["base", "target", *fields], [list(plain(s).values()) for s in steps])
    else:
        rows = [
            [
                str(s.target),
                count(s.n_elements),
                count(s.n_changed),
                percent(s.density),
                percent(s.repeated_share),
            ]
            for s in steps
        ]
        print_table(["target", "elements", "changed", "density", "changed before"], rows)
