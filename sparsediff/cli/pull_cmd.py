"""``sparsediff pull``."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from sparsediff.cli.commands import command_options, run_command
from sparsediff.cli.common import (
    duration,
    examples,
    exit_codes,
    jobs_option,
    max_bytes_option,
    number,
    options,
    plural,
    progress_bar,
    quiet_option,
    size,
    wait_option,
)
from sparsediff.cli.dry_run import check_alone, dry_run_options, print_pull, way_of
from sparsediff.cli.keys import trust_option
from sparsediff.cli.service import (
    Outcome,
    Service,
    network_options,
    once_option,
    report_options,
    watch_option,
)
from sparsediff.cli.stores import opened_store
from sparsediff.errors import SparsediffError, UnavailableError, printable

if TYPE_CHECKING:
    from sparsediff.shipping.bring import PullResult


@click.command(
    "pull",
    epilog=examples(
        "sparsediff pull s3://weights/grpo7 /models/grpo7",
        "sparsediff pull /mnt/store /models/grpo7 --exec './reload.sh \"$SPARSEDIFF_PATH\"'",
        "sparsediff pull /mnt/store /models/grpo7 --version step_000100",
        "sparsediff pull s3://weights/grpo7 /models/grpo7 --in-place --watch 10",
        "sparsediff pull s3://weights/grpo7 /models/grpo7 --watch 10 --ack node-7",
        "sparsediff pull s3://weights/grpo7 /models/share --files 'model-0000[1-4]*'",
    )
    + exit_codes(0, 2, 11, 12, 13, 14, 130),
)
@click.argument("store")
@click.argument("dest", type=click.Path())
@options(
    click.option(
        "--version",
        "wanted",
        metavar="NAME",
        help="Version to switch to: its name or number, as log shows them. [default: the latest]",
    ),
    click.option(
        "--keep",
        type=click.IntRange(1),
        default=2,
        show_default=True,
        metavar="N",
        help="Versions to keep in DEST, the current one included.",
    ),
    click.option(
        "--in-place",
        is_flag=True,
        help="DEST is the checkpoint itself, updated file by file: no second copy, but readers"
        " may meet files of two versions.",
    ),
    click.option(
        "--files",
        multiple=True,
        metavar="PATTERN",
        help="Bring only the files that match, as 'model-0000[1-4]*', and fetch no more than they"
        " need. DEST holds the same files of every version. Repeatable. [default: all]",
    ),
    click.option(
        "--ack",
        metavar="NAME",
        help="Say in STORE, under this name, which version is here, after the command of --exec:"
        " for status and for ship --hold-behind. Each machine has a name of its own.",
    ),
    click.option(
        "--exec",
        "after",
        metavar="COMMAND",
        help="Run this after a switch, in a shell that has SPARSEDIFF_PATH, _NAME, _VERSION and"
        " _PREVIOUS_VERSION in its environment. If it fails, the next run runs it again.",
    ),
    click.option(
        "--allow-rewind",
        is_flag=True,
        help="Follow STORE, once, although it has gone back: to an older state, or to another"
        " history that ship --rewind did not begin.",
    ),
    trust_option,
    dry_run_options,
    command_options,
    once_option,
    watch_option,
    network_options,
    max_bytes_option,
    jobs_option,
    wait_option,
    quiet_option,
    report_options,
)
def command(
    store: str,
    dest: str,
    wanted: str | None,
    keep: int,
    in_place: bool,
    files: tuple[str, ...],
    ack: str | None,
    after: str | None,
    allow_rewind: bool,
    dry_run: bool,
    as_json: bool,
    on_error: str | None,
    exec_timeout: float,
    once: bool,
    watch: float | None,
    bwlimit: float | None,
    streams: int,
    retries: int,
    max_bytes: int | None,
    jobs: int | None,
    quiet: bool,
    log_json: bool,
    metrics_file: str | None,
) -> int:
    """Bring DEST to the latest version in STORE.

    Fetches what is needed to get there from the versions DEST holds, rebuilds
    and verifies the new one as DEST/versions/NAME, and only then lets the link
    DEST/current point to it. Made for cron: a run that finds another at work
    ends with 14 at once.
    """
    from sparsediff.shipping.acks import Acknowledger
    from sparsediff.shipping.bring import PullResult
    from sparsediff.shipping.pull import pull

    if once and watch is not None:
        raise click.UsageError("--once and --watch exclude each other")
    check_alone(dry_run, as_json, watch, metrics_file, on_error)
    machine = None if ack is None else Acknowledger(ack)
    service = Service(
        "pull",
        quiet=quiet,
        log_json=log_json,
        metrics_file=metrics_file,
        on_error=on_error,
        command_limit=exec_timeout,
        store=store,
        dest=dest,
    )

    if dry_run:
        from sparsediff.shipping.pull import preview

        with opened_store(store, bwlimit, retries, create=False) as opened:
            found = preview(
                opened,
                dest,
                version=wanted,
                in_place=in_place,
                files=files,
                allow_rewind=allow_rewind,
                max_bytes=max_bytes,
                note=service.note,
            )
        print_pull(found, dest, after, as_json)
        return 0

    def run(outcome: Outcome) -> None:
        nonlocal allow_rewind
        result = PullResult()
        started = time.monotonic()
        try:
            with (
                service.opened_store(store, bwlimit, retries, create=False) as opened,
                progress_bar("pull", quiet=quiet or log_json) as progress,
            ):
                pull(
                    opened,
                    dest,
                    version=wanted,
                    in_place=in_place,
                    keep=keep,
                    files=files,
                    allow_rewind=allow_rewind,
                    streams=streams,
                    max_bytes=max_bytes,
                    jobs=jobs,
                    after=None if after is None else lambda r: _run_after(after, r, exec_timeout),
                    note=service.note,
                    progress=progress,
                    result=result,
                )
                allow_rewind = False  # with --watch: what comes later was not meant
                if machine is not None and result.catalog and result.version:
                    try:
                        machine.tell(opened, result.catalog.id, result.version)
                    except SparsediffError as e:  # what was switched to is said all the same
                        outcome.error = e
        finally:
            _report(outcome, result, dest, time.monotonic() - started)

    return service.run(run, watch)


def _run_after(command: str, result: PullResult, limit: float) -> None:
    """Run the operator's own command after a switch.

    Raises:
        UnavailableError: it failed.
    """
    assert result.version is not None
    variables = {
        "PATH": str(result.path),
        "NAME": result.version.name,
        "VERSION": str(result.version.version),
        "PREVIOUS_VERSION": "" if result.previous is None else str(result.previous),
    }
    try:
        run_command(command, variables, limit)
    except UnavailableError as e:
        now = f"now {printable(result.version.name)}"
        e.problem = f"{now}, but {e.problem}; the next run runs it again"
        raise


def _report(outcome: Outcome, result: PullResult, dest: str, took: float) -> None:
    """Fill in what a run did, as far as it got."""
    outcome.added |= {
        "versions_total": int(result.switched),
        "moved_bytes_total": result.fetched_bytes,
    }
    version, catalog = result.version, result.catalog
    if version is None or catalog is None:
        return
    here = result.previous if result.path is None else version.version
    n_missed, missed = catalog.history.after(here or 0)
    age = 0.0 if missed is None else time.time() - missed.shipped
    outcome.gauges |= {
        "latest_version": catalog.latest.version,
        "lag_versions": n_missed,
        "lag_seconds": max(0.0, age),
        "last_shipped_timestamp_seconds": catalog.latest.shipped,
    }
    if here is not None:
        outcome.gauges["version"] = here
    brought = version.n_bytes if result.share_bytes is None else result.share_bytes
    ratio = brought / result.fetched_bytes if result.fetched_bytes else None
    if result.switched:
        outcome.added["whole_bytes_total"] = brought
        outcome.gauges |= {
            "patch_bytes": result.fetched_bytes,
            "fetch_seconds": result.fetch_seconds,
            "apply_seconds": result.apply_seconds,
        }
        if ratio is not None:
            outcome.gauges["ratio"] = ratio
        if version.density is not None:
            outcome.gauges["density"] = version.density
    outcome.document |= {
        "version": version.version,
        "name": version.name,
        "latest": catalog.latest.version,
        "path": None if result.path is None else str(result.path),
        "previous": result.previous,
        "switched": result.switched,
        "n_patches": len(result.patches),
        "fetched_bytes": result.fetched_bytes,
        "target_bytes": version.n_bytes,
        "share_bytes": result.share_bytes,
        "left_out": None if version.left_out is None else asdict(version.left_out),
        "fetch_seconds": round(result.fetch_seconds, 3),
        "apply_seconds": round(result.apply_seconds, 3),
        "seconds": round(took, 3),
    }
    if not result.switched:
        outcome.line = f"nothing new to pull, {dest} is at {printable(version.name)}"
        return
    fetched = f"{size(result.fetched_bytes)} fetched for {size(brought)}"
    if result.share_bytes is not None:
        fetched += f" of {size(version.n_bytes)}"
    if ratio is not None:
        fetched += f" ({number(ratio, 1)}x)"
    if version.left_out is not None:
        left = version.left_out
        fetched += f", without {plural(left.n_files, 'file')} ({size(left.n_bytes)}) not shipped"
    outcome.line = (
        f"{dest}: now {printable(version.name)}, from {way_of(result.patches)}, {fetched}, "
        f"{duration(took)}"
    )
