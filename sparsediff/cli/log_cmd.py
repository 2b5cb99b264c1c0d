"""``sparsediff log``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from sparsediff.cli.common import (
    count,
    examples,
    exit_codes,
    json_option,
    number,
    options,
    percent,
    plural,
    print_json,
    say,
    size,
)
from sparsediff.cli.keys import trust_option
from sparsediff.cli.stores import opened_store
from sparsediff.cli.tables import print_table

if TYPE_CHECKING:
    from sparsediff.shipping.catalog import Version

_AT_A_TERMINAL = 30  # versions
_YEAR_9999 = 253_370_764_800  # seconds since the epoch, the last ones that have a date
_COLUMNS = (
    "version",
    "name",
    "shipped (UTC)",
    "bytes",
    "patch",
    "changed",
    "ratio",
    "anchor",
    "shortcut",
)


@click.command(
    "log",
    epilog=examples("sparsediff log /mnt/store", "sparsediff log s3://weights/grpo7 --json")
    + exit_codes(0, 2, 11, 12, 13, 130),
)
@click.argument("store")
@options(
    click.option(
        "--last",
        "-n",
        type=click.IntRange(1),
        metavar="N",
        help=f"Show only the last N versions. [default: {_AT_A_TERMINAL} at a terminal, else all]",
    ),
    click.option("--all", "all_of_them", is_flag=True, help="Show all versions."),
    trust_option,
    json_option,
)
def command(store: str, last: int | None, all_of_them: bool, as_json: bool) -> None:
    """List the versions in STORE.

    The ratio compares the patch from the version before with a whole copy; the
    last line compares everything that was sent. Reads no more of a long history
    than it shows.
    """
    if all_of_them and last is not None:
        raise click.UsageError("--last and --all exclude each other")
    at_a_terminal = sys.stdout is not None and sys.stdout.isatty()
    is_cut = last is None and not all_of_them and not as_json and at_a_terminal
    last = _AT_A_TERMINAL if is_cut else last
    from sparsediff.errors import UnavailableError
    from sparsediff.patch.measures import share
    from sparsediff.shipping.absent import has_objects, no_pointer
    from sparsediff.shipping.catalog_json import read_catalog, to_text

    with opened_store(store, None, 5, create=False) as opened:
        found = read_catalog(opened)
        if found is None:
            error = no_pointer(opened)
            # A new store lists nothing, and is none.
            if not isinstance(error, UnavailableError) or has_objects(opened):
                raise error
        n_versions = 0 if found is None else len(found[0].versions)
        shown: Sequence[Version] = ()
        if found is not None:
            versions = found[0].versions
            shown = versions[:] if last is None else versions[-last:]
    catalog = None if found is None else found[0]
    sent, whole = (0, 0) if catalog is None else catalog.history.sums()
    if as_json:
        rows = [
            {
                "version": v.version,
                "name": v.name,
                "number": v.number,
                "shipped": to_text(v.shipped),
                "target_bytes": v.n_bytes,
                "patch_bytes": v.patch_bytes,
                "ratio": v.ratio,
                "n_elements": v.n_elements,
                "n_changed": v.n_changed,
                "density": v.density,
                "left_out": None if v.left_out is None else asdict(v.left_out),
                "patches": [
                    {"base": p.base, "key": p.key, "bytes": p.n_bytes, "sha256": p.sha256}
                    for p in v.patches
                ],
            }
            for v in shown
        ]
        totals = {"stored_bytes": sent, "whole_bytes": whole, "ratio": share(whole, sent)}
        history: dict[str, object] = {"id": None, "rewind": 0}
        if catalog is not None:
            history = {"id": catalog.id, "rewind": catalog.rewind}
        print_json(history | {"versions": rows, "total": totals})
        return
    if not shown:
        say("nothing has been shipped here yet")
        return
    table = [
        [
            count(v.version),
            v.name,
            _shown_time(v.shipped),
            size(v.n_bytes),
            size(v.step.n_bytes) if v.step else "-",
            percent(v.density),
            number(share(v.n_bytes, v.step.n_bytes), 1) if v.step else "-",
            size(v.anchor.n_bytes) if v.anchor else "-",
            ", ".join(
                f"{size(p.n_bytes)} from {p.base}"
                for p in v.patches
                if p is not v.step and p is not v.anchor
            )
            or "-",
        ]
        for v in shown
    ]
    print_table(_COLUMNS, table, expendable=("shortcut", "bytes", "shipped (UTC)"))
    partial = [v for v in shown if v.left_out is not None]
    if partial and (left := partial[-1].left_out) is not None:
        patterns = [f"--include {p!r}" for p in left.include]
        patterns += [f"--exclude {p!r}" for p in left.exclude]
        say(
            f"{plural(len(partial), 'version')} without all files, the last of them by "
            f"{' '.join(patterns)}: {plural(left.n_files, 'file')} ({size(left.n_bytes)}) left out"
        )
    if catalog is not None and catalog.rewind:
        at = _shown_time(catalog.rewind) if catalog.rewind < _YEAR_9999 else "a time that is none"
        say(f"taken back, or begun anew, at {at}: numbers before belong to another history")
    if is_cut and len(shown) < n_versions:
        say(f"{plural(n_versions - len(shown), 'earlier version')} not shown; --all shows them")
    say(
        f"{plural(n_versions, 'version')} in {size(sent)}; whole copies would be {size(whole)} "
        f"({number(share(whole, sent), 1)}x)"
    )


def _shown_time(seconds: float) -> str:
    from sparsediff.shipping.catalog_json import to_text

    return to_text(seconds).replace("T", " ").replace("Z", "")
