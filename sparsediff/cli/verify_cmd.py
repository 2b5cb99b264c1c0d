"""``sparsediff verify``."""

from __future__ import annotations

from dataclasses import asdict

import click

from sparsediff.cli.common import (
    PatchPath,
    examples,
    exit_codes,
    jobs_option,
    json_option,
    options,
    print_json,
    quiet_option,
    say,
    size,
)
from sparsediff.cli.keys import trust_option


@click.command(
    "verify",
    epilog=examples(
        "sparsediff verify 101.sdiff",
        "sparsediff verify 101.sdiff --base step_100/",
        "sparsediff verify 101.sdiff --target step_101/",
    )
    + exit_codes(0, 2, 10, 11, 12, 13, 130),
)
@click.argument("patch", type=PatchPath())
@options(
    click.option("--base", type=click.Path(), help="Also rebuild everything from this base."),
    click.option("--target", type=click.Path(), help="Also compare this checkpoint."),
    trust_option,
    jobs_option,
    quiet_option,
    json_option,
)
def command(
    patch: str, base: str | None, target: str | None, jobs: int | None, quiet: bool, as_json: bool
) -> None:
    """Check that PATCH is intact, and that it fits a base or a target.

    Alone, every byte of the patch is checked against its digests. With --base,
    every bucket is rebuilt and its result verified, as apply would, without
    writing. With --target, every byte of that checkpoint is compared with what
    the patch says of its target.
    """
    from sparsediff.apply import verify_patch

    result = verify_patch(patch, base=base, target=target, jobs=jobs)
    if as_json:
        print_json(asdict(result))
    elif not quiet:
        checked = ["patch intact"]
        checked += ["rebuilds from the base"] if result.base else []
        checked += ["target identical"] if result.target else []
        say(f"{patch}: {', '.join(checked)} ({size(result.patch_bytes)})")
