"""``sparsediff stats``."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain, islice
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import click

from sparsediff.cli import series as printed
from sparsediff.cli.common import (
    Bandwidth,
    count,
    duration,
    examples,
    exit_codes,
    force_option,
    jobs_option,
    json_option,
    number,
    options,
    percent,
    print_json,
    progress_bar,
    quiet_option,
    say,
    size,
)
from sparsediff.cli.documents import Rows
from sparsediff.cli.keys import checked, trust_option
from sparsediff.cli.stores import opened_store
from sparsediff.cli.tables import print_table

if TYPE_CHECKING:
    from sparsediff.parallel import Progress
    from sparsediff.stats import CheckpointStats, Group, SeriesStats

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
        "sparsediff stats step_100/ step_101/ step_102/ step_103/ --by depth",
        "sparsediff stats --store s3://weights/grpo7 --last 20 --html report.html",
    )
    + exit_codes(0, 2, 11, 12, 13, 14, 130),
)
@click.argument("paths", metavar="[BASE TARGET... | PATCH]", nargs=-1, type=click.Path())
@options(
    click.option(
        "--by",
        type=click.Choice(["tensor", "layer", "kind", "depth", "part", "dtype", "file"]),
        help="What a row stands for. [default: tensor; of a series, a step]",
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
    click.option(
        "--store",
        metavar="STORE",
        help="Take the versions of a store as the series, instead of checkpoints.",
    ),
    click.option(
        "--last", type=click.IntRange(2), metavar="N", help="Of a store, the last N versions only."
    ),
    click.option(
        "--patches",
        is_flag=True,
        help="Of a series, report the bytes of patches too; they are made for it, which reads"
        " each checkpoint twice more.",
    ),
    click.option(
        "--html",
        type=click.Path(),
        metavar="FILE",
        help="Write a report of a series to look at: one page that fetches nothing"
        " (needs the extra report).",
    ),
    click.option(
        "--plot",
        type=click.Path(),
        metavar="FILE",
        help="Write the main figures to a file .png, .svg or .pdf (needs the extra report).",
    ),
    force_option,
    json_option,
    click.option("--csv", "as_csv", is_flag=True, help="Print rows as CSV."),
    trust_option,
    jobs_option,
    quiet_option,
)
def command(
    paths: tuple[str, ...],
    by: str | None,
    sort: str | None,
    top: int | None,
    bound: bool,
    bandwidth: float | None,
    store: str | None,
    last: int | None,
    patches: bool,
    html: str | None,
    plot: str | None,
    force: bool,
    as_json: bool,
    as_csv: bool,
    jobs: int | None,
    quiet: bool,
) -> None:
    """Report how much changed, per tensor and in total.

    Given BASE and TARGET, measures them; given a PATCH, reads the same figures
    from its manifest. Given more than two checkpoints in order, or a store, reports
    each step of the series and how much its changes overlap with those before;
    --csv then prints a row for each tensor and step.

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
    if not paths and not store:
        raise click.UsageError("give BASE and TARGET, a PATCH, checkpoints in order, or --store")
    if len(paths) > 2 or store or html or plot or patches:
        if bound or sort or top or by == "tensor":
            raise click.UsageError("a series takes no --sort, --top, --bound or --by tensor")
        if bandwidth and not html:
            raise click.UsageError("of a series, --bandwidth is for --html alone")
        if store and paths:
            raise click.UsageError("give checkpoints or --store, not both")
        if last and not store:
            raise click.UsageError("--last goes with --store")
        if len(paths) == 1:
            raise click.UsageError("a series needs two checkpoints or more")
        outputs = {"html": html, "plot": plot}
        _check_outputs(outputs, force)
        with progress_bar("stats", quiet=quiet) as progress:
            series = _series(paths, store, last, jobs, bool(patches or html or plot), progress)
        if as_json:
            print_json(printed.document(series))
        elif as_csv:
            printed.print_csv(series)
        elif by:
            printed.print_groups(series, by)
        else:
            printed.print_steps(series)
        _write(series, outputs, force, bandwidth)
        return
    by = by or "tensor"
    stats = _measure(paths, jobs, quiet, bound)
    groups = stats.grouped(by)
    order: Sequence[int] = range(len(groups))
    if sort:
        value = attrgetter(_SORTS[sort])
        order = sorted(order, key=lambda i: _or_least(value(groups[i])), reverse=sort != "name")
    shown = Rows(lambda: map(groups.__getitem__, islice(order, top)))
    if as_json:
        print_json(_document(stats, Rows(lambda: map(_row, shown)), by, bandwidth))
    elif as_csv:
        _print_csv([by, *_FIELDS], chain(shown, [stats.total]))
    else:
        _print(stats, shown, by, max(len(groups) - (top or len(groups)), 0))
        if stats.bound_bits is not None:
            _print_bound(stats)
        if bandwidth:
            _print_times(stats, bandwidth)


def _series(
    paths: tuple[str, ...],
    store: str | None,
    last: int | None,
    jobs: int | None,
    patches: bool,
    progress: Progress | None,
) -> SeriesStats:
    if store is None:
        from sparsediff.stats import series_stats

        return series_stats(paths, jobs=jobs, patches=patches, progress=progress)
    from sparsediff.shipping.history import store_series

    with opened_store(store, None, 5, create=False) as opened:
        return store_series(opened, last=last, jobs=jobs, progress=progress)


def _check_outputs(outputs: dict[str, str | None], force: bool) -> None:
    """Refuse what could not be written, before anything is read."""
    if any(outputs.values()):
        from sparsediff.report import check_outputs

        check_outputs(html=outputs["html"], plot=outputs["plot"], force=force)


def _write(
    series: SeriesStats, outputs: dict[str, str | None], force: bool, bandwidth: float | None
) -> None:
    if outputs["html"] is not None:
        from sparsediff.report import write_page

        write_page(series, outputs["html"], bandwidth=bandwidth, force=force)
    if outputs["plot"] is not None:
        from sparsediff.report import write_plot

        write_plot(series, outputs["plot"], force=force)


def _measure(paths: tuple[str, ...], jobs: int | None, quiet: bool, bound: bool) -> CheckpointStats:
    from sparsediff.stats import checkpoint_stats, patch_stats

    if len(paths) == 2:
        with progress_bar("stats", quiet=quiet) as progress:
            return checkpoint_stats(*paths, jobs=jobs, bound=bound, progress=progress)
    if bound:
        raise click.UsageError("--bound needs the words themselves: give BASE and TARGET")
    return patch_stats(checked(paths[0]))


def _or_least(value: Any) -> Any:
    """A figure to sort by; one that has no meaning comes after all others."""
    return -1 if value is None else value


def _print(stats: CheckpointStats, shown: Iterable[Group], by: str, hidden: int) -> None:
    total = stats.total
    columns: dict[str, Callable[[Group], str]] = {
        "elements": lambda g: count(g.n_elements),
        "changed": lambda g: count(g.n_changed),
        "density": lambda g: percent(g.density),
        "sparsity": lambda g: percent(g.sparsity),
        "±1": lambda g: percent(g.ones_share),
        "median": lambda g: str(g.median or "-"),
        "largest": lambda g: str(g.largest or "-"),
        "bytes": lambda g: size(g.raw_bytes),
        "in patch": lambda g: size(g.patch_bytes),
        "bits/chg": lambda g: number(g.bits_per_changed),
    }

    @lru_cache(1 << 12)  # of very many tensors most are like another, but for the name
    def cells(figures: tuple[Any, ...]) -> list[str]:
        group = type(total)("", *figures)
        return [cell(group) for cell in columns.values()]

    print_table(
        [by, *columns],
        ([g.key, *cells(g[1:])] for g in chain(shown, [total])),
        last_is_total=True,
        expendable=("sparsity", "median", "largest", "±1"),
    )
    if hidden:
        say(f"({hidden:,} rows not shown)")
    click.echo()
    say(
        f"{total.n_tensors:,} tensors, {total.n_untouched:,} untouched; patch "
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


def _print_csv(head: list[str], groups: Iterable[Group]) -> None:
    import csv  # takes long

    cells = ([g.key, *(getattr(g, f) for f in _FIELDS)] for g in groups)
    rows: Iterator[list[Any]] = chain([head], cells)
    while block := [*islice(rows, 1 << 12)]:
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerows(block)
        click.echo(out.getvalue(), nl=False)


def _row(group: Group) -> dict[str, Any]:
    return {"name": group.key} | {f: getattr(group, f) for f in _FIELDS}


def _document(
    stats: CheckpointStats, rows: Rows, by: str, bandwidth: float | None
) -> dict[str, Any]:
    document: dict[str, Any] = {
        "by": by,
        "rows": rows,
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
