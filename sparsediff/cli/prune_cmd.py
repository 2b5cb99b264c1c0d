"""``sparsediff prune``."""

from __future__ import annotations

import time

import click

from sparsediff.cli.common import (
    Duration,
    duration,
    examples,
    exit_codes,
    json_option,
    options,
    print_json,
    quiet_option,
    size,
)
from sparsediff.cli.service import opened_store


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
        show_default="1h",
        metavar="TIME",
        help="Delete objects only so long after they were dropped: somebody may be fetching them.",
    ),
    click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing."),
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

    Whoever holds a version that is kept can still reach every later one, and a
    newcomer every one that is kept: older versions stay as long as one of those
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
    freed = sum(p.n_bytes for p in result.patches)
    if as_json:
        print_json(
            {
                "dry_run": dry_run,
                "dropped_versions": [v.version for v in result.versions],
                "dropped": [p.key for p in result.patches],
                "dropped_bytes": freed,
                "deleted": result.deleted,
                "deleted_bytes": result.deleted_bytes,
                "kept_versions": [v.version for v in result.kept],
            }
        )
    elif not quiet:
        would = "would have " if dry_run else ""
        back = result.held_back
        click.echo(
            f"{would}dropped {len(result.versions)} versions and {len(result.patches)} objects "
            f"({size(freed)}), to be deleted after {duration(grace)}; "
            f"{would}deleted {len(result.deleted)} dropped before ({size(result.deleted_bytes)}); "
            f"{len(result.kept)} versions stay, {result.kept[0].name} to {result.kept[-1].name}"
            + (f": {back.name} needs those before it" if back is not None else "")
        )
