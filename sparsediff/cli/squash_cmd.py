"""``sparsediff squash``."""

from __future__ import annotations

import time

import click

from sparsediff.cli.common import (
    PatchPath,
    examples,
    exit_codes,
    force_option,
    jobs_option,
    json_option,
    max_bytes_option,
    options,
    progress_bar,
    quiet_option,
    wait_option,
)
from sparsediff.cli.keys import sign_option, signing, trust_option
from sparsediff.cli.make_cmd import print_result


@click.command(
    "squash",
    epilog=examples(
        "sparsediff squash step_100/ 101.sdiff 102.sdiff 103.sdiff -o 100-103.sdiff",
        "sparsediff squash nothing/ anchor.sdiff 101.sdiff -o anchor-101.sdiff",
    )
    + exit_codes(0, 2, 10, 11, 12, 13, 14, 130),
)
@click.argument("base", type=click.Path())
@click.argument("patches", metavar="PATCH...", nargs=-1, required=True, type=PatchPath())
@options(
    click.option(
        "-o",
        "--output",
        metavar="PATCH",
        required=True,
        help="Where to write the patch. The target is rebuilt next to it for a while.",
    ),
    trust_option,
    sign_option,
    force_option,
    max_bytes_option,
    jobs_option,
    wait_option,
    quiet_option,
    json_option,
)
def command(
    base: str,
    patches: tuple[str, ...],
    output: str,
    force: bool,
    max_bytes: int | None,
    jobs: int | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Turn a chain of patches into one.

    Each PATCH was made from the target of the one before, the first from BASE.
    The result is the patch that make writes for BASE and the last target, byte
    for byte. - reads a patch from standard input.
    """
    from sparsediff.apply import squash_patches
    from sparsediff.errors import UsageError
    from sparsediff.patch.container import is_patch

    if is_patch(base):
        raise UsageError("is a patch; squash takes BASE first, then PATCH", file=base)
    start = time.monotonic()
    with progress_bar("squash", quiet=quiet) as progress:
        result = squash_patches(
            base,
            patches,
            output,
            jobs=jobs,
            force=force,
            max_bytes=max_bytes,
            progress=progress,
            signer=signing(),
        )
    print_result(output, result, time.monotonic() - start, quiet=quiet, as_json=as_json)
