"""``sparsediff ship``."""

from __future__ import annotations

import os
import time
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING

import click

from sparsediff.cli.commands import command_options
from sparsediff.cli.common import (
    Duration,
    duration,
    examples,
    exit_codes,
    in_options,
    jobs_option,
    number,
    options,
    percent,
    plural,
    progress_bar,
    quiet_option,
    ray_option,
    selection_options,
    size,
    wait_option,
)
from sparsediff.cli.dry_run import check_alone, dry_run_options, print_ship
from sparsediff.cli.keys import sign_option, trust_option
from sparsediff.cli.service import (
    Outcome,
    Service,
    network_options,
    once_option,
    report_options,
    watch_option,
)
from sparsediff.cli.stores import opened_store

if TYPE_CHECKING:
    from sparsediff.errors import SparsediffError
    from sparsediff.shipping.ship import ShipResult
    from sparsediff.shipping.state import Waiting

_SAID = 3  # checkpoints, or names, that one line tells of


@click.command(
    "ship",
    epilog=examples(
        "sparsediff ship /runs/grpo7/ s3://weights/grpo7",
        "sparsediff ship /runs/grpo7/ /mnt/store --marker DONE --watch 10",
        "sparsediff ship /runs/latest/ /mnt/store --settled 30s --squash-every 10",
        "sparsediff ship /runs/grpo7/ /mnt/store --ray auto",
    )
    + exit_codes(0, 2, 11, 12, 13, 14, 130),
)
@click.argument("source", type=click.Path())
@click.argument("store")
@options(
    click.option(
        "--pattern",
        metavar="REGEX",
        help="Names of checkpoints in SOURCE, with one group for the number; '' if SOURCE is one"
        " checkpoint itself. [default: names that end in a number]",
    ),
    click.option(
        "--marker", metavar="NAME", help="A checkpoint is complete when this file is in it."
    ),
    click.option(
        "--settled",
        type=Duration(),
        default=0.0,
        metavar="TIME",
        help="A checkpoint is complete when none of its files changed for this long.",
    ),
    click.option(
        "--stalled-after",
        type=Duration(),
        default=3600.0,
        metavar="TIME",
        help="End with 13 once a checkpoint has waited for longer than this, --settled aside."
        " [default: 1h]",
    ),
    selection_options("a checkpoint"),
    click.option("--newest", is_flag=True, help="Ship only the newest, not those between."),
    click.option(
        "--rewind",
        is_flag=True,
        help="Ship the checkpoint modified last even if its number is not above the last one"
        " shipped: the training was taken back.",
    ),
    click.option(
        "--anchor-every",
        type=click.IntRange(1),
        metavar="K",
        help="Store every K-th version whole. [default: by weight]",
    ),
    click.option(
        "--anchor-weight",
        type=click.FloatRange(0, min_open=True),
        default=1.0,
        show_default=True,
        metavar="W",
        help="Store a version whole when the patches since the last one stored whole weigh W"
        " times as much as it, or are 500.",
    ),
    click.option(
        "--squash-every",
        type=click.IntRange(2),
        metavar="N",
        help="After every N versions add one patch across all of them, for machines far behind.",
    ),
    click.option(
        "--hold-behind",
        type=click.IntRange(1),
        metavar="N",
        help="Ship no version that would leave a machine more than N versions behind, of those"
        " that pull with --ack; what must wait is shipped by a later run.",
    ),
    click.option(
        "--ack-max-age",
        type=Duration(),
        metavar="TIME",
        help="With --hold-behind: a machine that was not heard of for so long does not count."
        " [default: all count]",
    ),
    click.option(
        "--state",
        metavar="DIR",
        help="Where to keep what the next run needs, best on the disk of SOURCE."
        " [default: .NAME.sparsediff-ship next to SOURCE]",
    ),
    click.option(
        "--adopt",
        is_flag=True,
        help="Continue STORE with this run, though it holds the checkpoints of another. Everybody"
        " who pulls from it goes over to this one.",
    ),
    sign_option,
    trust_option,
    dry_run_options,
    command_options,
    once_option,
    watch_option,
    network_options,
    ray_option,
    jobs_option,
    wait_option,
    quiet_option,
    report_options,
)
def command(
    source: str,
    store: str,
    pattern: str | None,
    marker: str | None,
    settled: float,
    stalled_after: float,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    newest: bool,
    rewind: bool,
    anchor_every: int | None,
    anchor_weight: float,
    squash_every: int | None,
    hold_behind: int | None,
    ack_max_age: float | None,
    state: str | None,
    adopt: bool,
    dry_run: bool,
    as_json: bool,
    on_error: str | None,
    exec_timeout: float,
    once: bool,
    watch: float | None,
    bwlimit: float | None,
    streams: int,
    retries: int,
    ray: str | None,
    jobs: int | None,
    quiet: bool,
    log_json: bool,
    metrics_file: str | None,
) -> int:
    """Publish the new checkpoints of SOURCE in STORE, as patches.

    SOURCE is a directory of numbered checkpoints, such as step_000100/, or one
    checkpoint that is overwritten. STORE is a directory or a URL: s3://, gs://,
    az://. Only complete checkpoints are shipped; the trainer may delete or
    overwrite them at any time. Made for cron: a run that finds another at work
    ends with 14 at once. With --ray a cluster makes the patches.
    """
    from pathlib import Path  # takes long

    from sparsediff.disk.selection import Selection
    from sparsediff.shipping.policy import Policy
    from sparsediff.shipping.ship import ShipResult, check_apart, check_source, ship
    from sparsediff.shipping.source import Rule

    if once and watch is not None:
        raise click.UsageError("--once and --watch exclude each other")
    if ack_max_age is not None and hold_behind is None:
        raise click.UsageError("--ack-max-age is for --hold-behind")
    if ray is not None and jobs is not None:
        raise click.UsageError("--ray makes patches on all processors of a cluster: no --jobs")
    check_alone(dry_run, as_json, watch, metrics_file, on_error)
    service = Service(
        "ship",
        quiet=quiet,
        log_json=log_json,
        metrics_file=metrics_file,
        on_error=on_error,
        command_limit=exec_timeout,
        source=source,
        store=store,
    )
    policy = Policy(
        Rule(marker, settled, pattern),
        anchor_every,
        anchor_weight,
        squash_every,
        newest,
        rewind,
        Selection(include, exclude),
        hold_behind=hold_behind,
        ack_max_age=ack_max_age,
    )

    if dry_run:
        check_source(source)
        if "://" not in store:
            check_apart(Path(source), Path(store))
        from sparsediff.shipping.preview import preview

        opened = None
        if "://" in store or os.path.lexists(store):  # else it would be made
            with opened_store(store, bwlimit, retries, create=False) as opened:
                pass
        found = preview(source, opened, policy, state_directory=state, adopt=adopt)
        print_ship(found, as_json, stalled_after + settled)
        return 0

    if ray is None:
        publish = partial(ship, jobs=jobs)
    else:
        from sparsediff.ray import ship as ship_on_cluster

        publish = partial(ship_on_cluster, address=ray)

    def run(outcome: Outcome) -> None:
        result = ShipResult()
        started = time.monotonic()
        try:
            check_source(source)
            if "://" not in store:
                check_apart(Path(source), Path(store))
            with (
                service.opened_store(store, bwlimit, retries, create=True) as opened,
                progress_bar("ship", quiet=quiet or log_json) as progress,
            ):
                publish(
                    source,
                    opened,
                    policy,
                    state_directory=state,
                    adopt=adopt,
                    streams=streams,
                    note=service.note,
                    progress=progress,
                    result=result,
                )
        finally:
            now = time.time()
            stalled = [w for w in result.waiting if now - w.since > stalled_after + settled]
            _report(outcome, result, stalled, time.monotonic() - started)
        if stalled:
            outcome.error = _stall(source, stalled)
            outcome.about = "\n".join(f"{w.name} {w.reason}" for w in stalled)

    return service.run(run, watch)


def _stall(source: str, stalled: list[Waiting]) -> SparsediffError:
    """The error of a run that did all that it could, and yet checkpoints wait."""
    from sparsediff.errors import UnavailableError, printable

    said = [
        f"{printable(w.name)} has waited for {duration(time.time() - w.since)}: {w.why}"
        for w in stalled[:_SAID]
    ]
    more = len(stalled) - len(said)
    also = [f"{plural(more, 'more checkpoint')} as well"] if more else []
    return UnavailableError("; ".join(said + also), file=source)


def _report(outcome: Outcome, result: ShipResult, stalled: list[Waiting], took: float) -> None:
    """Fill in what a run did, as far as it got."""
    from sparsediff.errors import printable
    from sparsediff.shipping.look import REASONS

    others = [] if result.look is None else result.look.others
    shipped, catalog = result.shipped, result.catalog
    sent = sum(s.sent_bytes for s in shipped)
    whole = sum(s.version.n_bytes for s in shipped)
    if result.look is not None:
        ages = [max(0.0, time.time() - w.since) for w in result.waiting]
        outcome.gauges |= {
            "lag_versions": len(ages),
            "lag_seconds": max(ages, default=0.0),
            "newest_seen_timestamp_seconds": result.look.seen.newest,
        }
        for name, group in (
            ("waiting_checkpoints", result.waiting),
            ("stalled_checkpoints", stalled),
        ):
            outcome.by_reason[name] = {r: sum(w.reason == r for w in group) for r in REASONS}
    outcome.added |= {
        "versions_total": len(shipped),
        "moved_bytes_total": sent,
        "whole_bytes_total": whole,
    }
    latest = None if catalog is None else catalog.latest
    if latest is not None:
        outcome.gauges |= {
            "version": latest.version,
            "latest_version": latest.version,
            "last_shipped_timestamp_seconds": latest.shipped,
        }
    outcome.document |= {
        "version": None if latest is None else latest.version,
        "name": None if latest is None else latest.name,
        "shipped": [
            {
                "version": s.version.version,
                "name": s.version.name,
                "kinds": [_kind(p.base, s.version.version) for p in s.version.patches],
                "target_bytes": s.version.n_bytes,
                "patch_bytes": s.version.patch_bytes,
                "sent_bytes": s.sent_bytes,
                "ratio": s.version.ratio,
                "density": s.version.density,
                "left_out": None if s.version.left_out is None else asdict(s.version.left_out),
                "make_seconds": round(s.make_seconds, 3),
                "send_seconds": round(s.send_seconds, 3),
            }
            for s in shipped
        ],
        "waiting": [
            asdict(w) | {"why": in_options(w.why), "stalled": w in stalled} for w in result.waiting
        ],
        "passed_over": others,
        "seconds": round(took, 3),
    }
    held = [w for w in result.waiting if w.reason == "held"]
    also = "".join(
        f"; {printable(w.name)} waits: {in_options(w.why)}"
        for w in held[:1] or result.waiting[-1:]
        if w not in stalled
    )
    if others:
        names = ", ".join(map(printable, others[:_SAID])) + (", …" if others[_SAID:] else "")
        also += f"; of another sequence: {names}"
    if not shipped:
        have = "the store is empty" if latest is None else f"the store is at {latest.name}"
        outcome.line = f"nothing new to ship, {have}{also}"
        return
    last = shipped[-1]
    version = last.version
    outcome.gauges |= {
        "patch_bytes": version.patch_bytes,
        "ratio": version.ratio or 0.0,
        "make_seconds": last.make_seconds,
        "send_seconds": last.send_seconds,
    }
    what = " and ".join(_kind(p.base, version.version) for p in version.patches)
    if version.density is not None:
        outcome.gauges["density"] = version.density
        what += f", {percent(version.density)} changed"
    if version.left_out is not None:
        what += f", {plural(version.left_out.n_files, 'file')} left out"
    names = version.name if len(shipped) == 1 else f"{len(shipped)} versions up to {version.name}"
    outcome.line = (
        f"shipped {names}: {size(sent)} sent for {size(whole)} "
        f"({number(whole / sent if sent else None, 1)}x; {what}), {duration(took)}{also}"
    )


def _kind(base: int | None, version: int) -> str:
    if base is None:
        return "anchor"
    return "patch" if base == version - 1 else "shortcut"
