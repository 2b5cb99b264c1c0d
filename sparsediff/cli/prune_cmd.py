"""``sparsediff prune``."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from sparsediff.cli.common import (
    Duration,
    duration,
    examples,
    exit_codes,
    json_option,
    options,
    plural,
    print_json,
    quiet_option,
    say,
    size,
)
from sparsediff.cli.keys import sign_option, trust_option
from sparsediff.cli.stores import opened_store

if TYPE_CHECKING:
    from sparsediff.shipping.prune import PruneResult


@click.command(
    "prune",
    epilog=examples(
        "sparsediff prune /mnt/store --keep 20 --max-age 7d",
        "sparsediff prune s3://weights/grpo7 --keep 50 --dry-run",
    )
    + exit_codes(0, 2, 11, 12, 13, 130),
)
@click.argument("store")
@options(
    click.option(
        "--keep",
        type=click.IntRange(1),
        metavar="N",
        help="Keep the newest N versions, however old. [default: 1 with --max-age]",
    ),
    click.option(
        "--max-age",
        type=Duration(),
        metavar="TIME",
        help="Keep versions younger than this, however many.",
    ),
    click.option(
        "--grace",
        type=Duration(),
        default=3600.0,
        metavar="TIME",
        help="How long a dropped object is kept before it is deleted: a pull may be fetching it."
        " [default: 1h]",
    ),
    click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing."),
    sign_option,
    trust_option,
    quiet_option,
    json_option,
)
def command(
    store: str,
    keep: int | None,
    max_age: float | None,
    grace: float,
    dry_run: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Drop old versions from STORE.

    From every version that is kept, every later one can still be reached, and a new
    machine can reach all that are kept: older versions stay as long as one of these
    needs them. Objects are first dropped, and deleted by a later run.
    """
    from sparsediff.shipping.prune import prune

    if keep is None and max_age is None:
        raise click.UsageError("say what to keep: --keep N, --max-age TIME, or both")
    with opened_store(store, None, 5, create=False) as opened:
        result = prune(
            opened,
            now=time.time(),
            keep=keep or 1,
            max_age=max_age,
            grace=grace,
            dry_run=dry_run,
        )
    if as_json:
        print_json(
            {
                "dry_run": dry_run,
                "dropped_versions": [v.version for v in result.versions],
                "dropped": [p.key for p in result.patches],
                "dropped_bytes": sum(p.n_bytes for p in result.patches),
                "deleted": result.deleted,
                "deleted_bytes": result.deleted_bytes,
                "kept_versions": [v.version for v in result.kept],
            }
        )
    elif not quiet:
        say(_line(result, grace, dry_run))


def _line(result: PruneResult, grace: float, dry_run: bool) -> str:
    drop, delete = ("would drop", "would delete") if dry_run else ("dropped", "deleted")
    parts = ["nothing to drop"]
    if result.patches:
        n_bytes = size(sum(p.n_bytes for p in result.patches))
        later = f"; a run in {duration(grace)} or later deletes them" if grace else ""
        parts = [
            f"{drop} {plural(len(result.versions), 'version')} "
            f"({plural(len(result.patches), 'object')}, {n_bytes}{later})"
        ]
    if result.deleted:
        n_bytes = size(result.deleted_bytes)
        parts += [f"{delete} {plural(len(result.deleted), 'object')} ({n_bytes})"]
    first, last, back = result.kept[0].name, result.kept[-1].name, result.held_back
    names = first if first == last else f"{first} to {last}"
    parts += [f"{plural(len(result.kept), 'version')} kept, {names}"]
    if back is not None:
        parts[-1] += f": {back.name} needs those before it"
    return "; ".join(parts)
