"""``sparsediff check``."""

from __future__ import annotations

import time

import click

from sparsediff.cli.common import (
    Duration,
    examples,
    exit_codes,
    json_option,
    options,
    plural,
    print_json,
    progress_bar,
    quiet_option,
    say,
    size,
)
from sparsediff.cli.keys import sign_option, trust_option
from sparsediff.cli.service import network_options
from sparsediff.cli.stores import opened_store


@click.command(
    "check",
    epilog=examples("sparsediff check /mnt/store", "sparsediff check s3://weights/grpo7 --repair")
    + exit_codes(0, 2, 11, 12, 13, 130),
)
@click.argument("store")
@options(
    click.option(
        "--repair",
        is_flag=True,
        help="Delete objects that belong to nothing, and no longer offer patches that are broken"
        " or do not continue the one before; the next ship then stores a version whole where that"
        " cut the chain. Makes a new pointer if it is missing or damaged.",
    ),
    click.option(
        "--upgrade",
        is_flag=True,
        help="Give a store of an earlier release the latest layout, if it is sound. Releases that"
        " do not know it cannot read the store any more.",
    ),
    click.option(
        "--grace",
        type=Duration(),
        default=86400.0,
        metavar="TIME",
        help="Leave younger objects alone: a shipper may be about to publish them. [default: 1d]",
    ),
    network_options,
    sign_option,
    trust_option,
    quiet_option,
    json_option,
)
def command(
    store: str,
    repair: bool,
    upgrade: bool,
    grace: float,
    bwlimit: float | None,
    streams: int,
    retries: int,
    quiet: bool,
    as_json: bool,
) -> int:
    """Read everything in STORE and say what is broken.

    Follows the checksums from patch to patch. Ends with 11 if an object is missing
    or damaged, or a version cannot be reached; objects that belong to nothing, and
    versions that an earlier repair found lost, are listed, but are not an error.
    """
    from sparsediff.errors import CorruptError
    from sparsediff.shipping.catalog import LAYOUT
    from sparsediff.shipping.check import check

    with (
        opened_store(store, bwlimit, retries, create=False) as opened,
        progress_bar("check", quiet=quiet or as_json) as progress,
    ):
        result = check(
            opened,
            now=time.time(),
            repair=repair,
            upgrade=upgrade,
            grace=grace,
            streams=streams,
            progress=progress,
        )
    code = 0 if result.is_sound else CorruptError.exit_code
    if as_json:
        print_json(
            {
                "sound": result.is_sound,
                "versions": len(result.catalog.versions),
                "checked_bytes": result.checked_bytes,
                "broken": result.broken,
                "unreachable": result.unreachable,
                "lost": result.lost,
                "unproven": result.unproven,
                "orphans": [s.key for s in result.orphans],
                "young_orphans": [s.key for s in result.young],
                "removed": result.removed,
                "new_pointer": result.has_new_pointer,
                "upgraded": result.was_upgraded,
            }
        )
        return code
    for key, problem in result.broken.items():
        say(f"sparsediff: {opened.name}/{key}: {problem}", err=True)
    for number in result.unreachable:
        version = result.catalog.get(number)
        assert version is not None
        what = "cannot be reached any more"
        if number in result.lost:
            what = "is lost"
            if version is result.catalog.latest:
                what += "; the next ship stores it whole, or else the version after it"
        say(f"sparsediff: {opened.name}: {version.name} {what}", err=True)
    if not quiet:
        orphans = [*result.orphans, *result.young]
        tail = ""
        if orphans:
            n_bytes = sum(s.n_bytes for s in orphans)
            tail = f"; {plural(len(orphans), 'object')} ({size(n_bytes)}) of no version"
            if result.young:
                tail += f", {len(result.young)} too young to be removed"
        if result.unproven:
            n = len(result.unproven)
            tail += f"; {plural(n, 'link')} that only pull can prove, as tensors moved there"
        if result.has_new_pointer:
            tail += "; made a new pointer, which begins a new history"
        if result.was_upgraded:
            tail += f"; it has layout {LAYOUT} now"
        if repair:
            tail += f"; {len(result.removed)} removed"
        n = len(result.catalog.versions) - len(result.unreachable)
        say(f"{n} of {plural(len(result.catalog.versions), 'version')} can be had, "
                   f"{size(result.checked_bytes)} checked{tail}")  # fmt: skip
    return code
