"""The command: train, measure, print, write the page.

Enters: options. Leaves: tables on standard output, and as a page where that is asked for.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

import sparsediff
from results import costs, sync, tables
from results.page import Table, wrapped
from results.runs import (
    DENSE,
    MIXTURE,
    RATE,
    RATES,
    SAME_RATE,
    Sizes,
    fine_tune,
    precisions,
    reinforce,
    rl_name,
)
from sparsediff import SeriesStats, open_store, ship
from sparsediff.kernels import NAME
from sparsediff.report import write_page
from sparsediff.shipping.history import store_series

SHORT = Sizes(reading=2, warm=5, steps=4, groups=4, size=4, words=16)
SYNC_BYTES = 300_000_000
SYNC_RATES = {0.1: 1, 1.0: 3, 10.0: 3}  # Gbit/s, and how often


def note(text: str) -> None:
    """Say how it goes."""
    print(f"  {text}", flush=True)


def everything(place: Path, sizes: Sizes, short: bool) -> Iterator[Table]:
    """Tables as they are found out.

    Args:
        place: a directory for all that is made; runs that are there are not trained again.
        sizes: of the trainings.
        short: synchronise less.
    """
    rl = {lr: place / rl_name(lr) for lr in RATES}
    masters, mixture = place / "rl-fp32", place / "mixture"
    main = rl[RATE]
    for lr, run in rl.items():
        reinforce(DENSE, sizes, lr, run, note, masters if lr == RATE else None)
    reinforce(MIXTURE, sizes, RATE, mixture, note)
    of_rate = {lr: tables.measured(run) for lr, run in rl.items()}

    runs = {"fp32": masters, "bf16": main, **precisions(masters, place)}
    runs = {name: runs[name] for name in tables.PAPER_PRECISIONS}
    found = {n: of_rate[RATE] if n == "bf16" else tables.measured(r) for n, r in runs.items()}
    yield tables.by_precision(found, runs)
    yield tables.by_interval(main)
    yield tables.by_rate(of_rate, rl)
    yield tables.by_kind(of_rate[RATE], main)
    yield tables.untouched(of_rate[RATE], tables.measured(mixture), (main, mixture))
    yield tables.locality(of_rate[RATE], main)
    yield tables.gates(of_rate, rl)

    tuned = fine_tune(sizes, (RATE, SAME_RATE), place, note)
    shipped = {f"policy gradient, {lr:g}": rl[lr] for lr in (RATE, SAME_RATE)} | tuned
    histories = {name: _shipped(run) for name, run in shipped.items()}
    table, ratios = costs.payload(histories, shipped)
    yield table
    yield costs.transfers(ratios, main)
    rates = {10.0: 1} if short else SYNC_RATES
    n_bytes = SYNC_BYTES // 10 if short else SYNC_BYTES
    with tempfile.TemporaryDirectory(dir=place) as link:
        yield sync.end_to_end(Path(link), n_bytes, ratios["density"], rates, note)
    yield tables.trajectories(histories, shipped)


def _shipped(run: Path) -> SeriesStats:
    """Put a run into a store, as versions; and the report of them beside it."""
    store = open_store(f"{run}.store", create=True)
    ship(run, store)
    stats = store_series(store)
    write_page(stats, f"{run}.html", force=True)
    return stats


def head(sizes: Sizes, short: bool) -> str:
    """What the page starts with."""
    shortened = " --short" if short else ""
    what = (
        f"`python examples/results{shortened} --place results --write docs/results.md` printed "
        f"all of this (PyTorch {torch.__version__}, sparsediff {sparsediff.__version__}, {NAME} "
        f"kernels, {platform.machine()}, {os.cpu_count()} cores), and leaves the checkpoints in "
        "`results`, where the command below "
        "each table finds them. The figures of the paper are those of SparseRL-Sync "
        "(arXiv 2605.07330), on models of 8 to 671 billion weights; where a cell is empty it has "
        "none that we know of. Ours are of the small language model of `examples/rl`, "
        f"3.2 million weights that have read Python's library, in {sizes.steps} steps of a "
        f"group-normalised policy gradient: AdamW, learning rate {RATE:g} unless it says "
        f"otherwise, betas 0.9 and 0.95, float32 masters, stored as "
        f"bf16, {sizes.groups * sizes.size} samples a step. Steps count from the first of a fresh "
        "optimizer, which moves all weights that have a gradient."
    )
    return f"# Results: the papers' tables, from runs of our own\n\n{wrapped(what)}\n"


def main() -> None:
    """Parse options."""
    parser = argparse.ArgumentParser(
        prog="python examples/results", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the page, as Markdown")
    parser.add_argument(
        "--place", type=Path, help="keep everything here; what is here is not done again"
    )
    parser.add_argument("--short", action="store_true", help="a minute, and only to see it run")
    args = parser.parse_args()
    torch.set_num_threads(min(2, torch.get_num_threads()))
    sizes = SHORT if args.short else Sizes()
    if args.place is not None:
        args.place.mkdir(parents=True, exist_ok=True)
        _run(args.place, sizes, args.short, args.write)
        return
    with tempfile.TemporaryDirectory() as directory:
        _run(Path(directory), sizes, args.short, args.write)


def _run(place: Path, sizes: Sizes, short: bool, page: Path | None) -> None:
    sections = []
    for table in everything(place, sizes, short):
        sections.append(table.markdown().replace(str(place), "results"))
        print(f"\n{sections[-1]}", flush=True)
    text = "\n".join([head(sizes, short), *sections])
    if page is not None:
        page.write_text(text)
        print(f"written: {page}")
