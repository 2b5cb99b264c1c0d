"""``--dry-run`` of ship and pull: what would be done, said without doing it.

Enters: previews. Leaves: lines for people, or one JSON document.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from sparsediff.cli.common import (
    duration,
    in_options,
    json_option,
    options,
    plural,
    print_json,
    say,
    size,
)

if TYPE_CHECKING:
    from sparsediff.shipping.catalog import StoredPatch
    from sparsediff.shipping.preview import Preview
    from sparsediff.shipping.pull import PullPreview

dry_run_options = options(
    click.option(
        "--dry-run",
        is_flag=True,
        help="Only say what would be done, and what waits and why; change nothing.",
    ),
    json_option,
)


def check_alone(dry_run: bool, as_json: bool, *others: object) -> None:
    """Raise click.UsageError unless the options go together.

    Args:
        dry_run: whether ``--dry-run`` was given.
        as_json: whether ``--json`` was given, which is of no use but with it.
        others: values of ``--watch``, ``--metrics-file`` and ``--on-error``.
    """
    if as_json and not dry_run:
        raise click.UsageError("--json is for --dry-run; what is done is printed by --log-json")
    if dry_run and any(other is not None for other in others):
        raise click.UsageError(
            "--dry-run runs once and tells nobody: leave out --watch, --metrics-file, --on-error"
        )


def print_ship(found: Preview, as_json: bool, limit: float) -> None:
    """Say what would be shipped, and what waits; ``limit`` seconds are too long."""
    latest = None if found.catalog is None else found.catalog.latest
    waiting = [w for w in found.found.waiting if w.reason != "ready"]
    if as_json:
        print_json(
            {
                "version": None if latest is None else latest.version,
                "name": None if latest is None else latest.name,
                "would_ship": [asdict(p) for p in found.planned],
                "waiting": [asdict(w) | {"why": in_options(w.why)} for w in waiting],
                "passed_over": found.found.others,
            }
        )
        return
    for p in found.planned:
        kind = "as an anchor" if p.kind == "anchor" else "as a patch"
        like = f"; the last one took {size(p.like_bytes)}" if p.like_bytes is not None else ""
        again = ", if it differs from what was shipped" if p.is_again else ""
        say(f"would ship {p.name}{again}: {size(p.n_bytes)}, {kind}{like}")
    for w in waiting:
        age = time.time() - w.since
        late = ", which is too long" if age > limit else ""
        say(f"{w.name} has waited for {duration(age)}{late}: {in_options(w.why)}")
    if found.found.others:
        say(f"of another sequence: {', '.join(found.found.others)}")
    if not found.planned:
        have = "the store is empty" if latest is None else f"the store is at {latest.name}"
        say(f"nothing new to ship, {have}")


def print_pull(found: PullPreview, dest: str, after: str | None, as_json: bool) -> None:
    """Say what would be fetched, and whether the command ``after`` would be run."""
    version, patches = found.version, found.patches
    here = None if found.current is None else found.catalog.get(found.current)
    if as_json:
        print_json(
            {
                "version": version.version,
                "name": version.name,
                "current": found.current,
                "start": found.start,
                "patches": [{"base": p.base, "bytes": p.n_bytes} for p in patches],
                "fetched_bytes": found.fetched_bytes,
                "target_bytes": version.n_bytes,
                "switches": found.current != version.version,
                "runs_command": after is not None and found.runs_command,
            }
        )
        return
    if found.current == version.version:
        say(f"nothing new to pull, {dest} is at {version.name}")
    else:
        was = f"version {found.current}" if here is None else here.name
        at = "" if found.current is None else f", now at {was}"
        fetched = f"{size(found.fetched_bytes)} to fetch for {size(version.n_bytes)}"
        say(f"{dest}: would go to {version.name}{at}, from {way_of(patches)}, {fetched}")
    if after is not None and found.runs_command:
        say(f"would run {after}")


def way_of(patches: Sequence[StoredPatch]) -> str:
    """What a version is made from, for people."""
    anchors = sum(p.base is None for p in patches)
    n = len(patches) - anchors
    way = [plural(anchors, "anchor")] * bool(anchors)
    way += [f"{n} patch" if n == 1 else f"{n} patches"] * bool(n)
    return " and ".join(way) or "a version that was kept"
