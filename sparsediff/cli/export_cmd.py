"""``sparsediff export``."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Literal, cast

import click

from sparsediff.cli.common import (
    PatchPath,
    count,
    duration,
    examples,
    exit_codes,
    force_option,
    jobs_option,
    json_option,
    max_bytes_option,
    options,
    print_json,
    progress_bar,
    quiet_option,
    say,
    size,
    wait_option,
)
from sparsediff.cli.keys import checked, trust_option


@click.command(
    "export",
    epilog=examples(
        "sparsediff export step_100/ 101.sdiff -o 101.safetensors",
        "sparsediff export step_100/ 101.sdiff -o 101.safetensors --layout trl",
        "sparsediff export step_100/ 101.sdiff -o sync/weight_v000101 --layout slime",
    )
    + exit_codes(0, 2, 10, 11, 12, 13, 14, 130),
)
@click.argument("base", type=click.Path(allow_dash=True))
@click.argument("patch", type=PatchPath())
@options(
    click.option(
        "-o",
        "--output",
        metavar="OUTPUT",
        required=True,
        help="Where to write the safetensors file, or slime's directory.",
    ),
    click.option(
        "--layout",
        type=click.Choice(["plain", "trl", "slime"]),
        default="plain",
        show_default=True,
        help="plain: NAME.indices and NAME.values; trl: NAME.idx and NAME.val; slime: a directory"
        " weight_v000101 that leads from the version before.",
    ),
    click.option(
        "--base-version",
        type=click.IntRange(0),
        metavar="N",
        help="Version that slime's receivers have. [default: the one before]",
    ),
    trust_option,
    force_option,
    max_bytes_option,
    jobs_option,
    wait_option,
    quiet_option,
    json_option,
)
def command(
    base: str,
    patch: str,
    output: str,
    layout: str,
    base_version: int | None,
    force: bool,
    max_bytes: int | None,
    jobs: int | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Write what PATCH changes in BASE as a file of positions and values.

    For programs that update weights in memory and know nothing of patches: of
    each tensor that changed, the flat positions and the new values there, as
    plain safetensors entries. New tensors are stored whole. Everything is
    verified against BASE first. - reads the patch from standard input.
    """
    from sparsediff.patch.container import is_patch
    from sparsediff.updates import export_patch, export_slime

    if base == "-" or (is_patch(base) and not is_patch(patch)):  # as it was once
        base, patch = str(patch), cast(str, checked(base))
        say("sparsediff: note: export takes BASE first, then PATCH, as apply does", err=True)
    if base_version is not None and layout != "slime":
        raise click.UsageError("--base-version is for --layout slime")
    start = time.monotonic()
    with progress_bar("export", quiet=quiet) as progress:
        if layout == "slime":
            result = export_slime(
                patch,
                base,
                output,
                base_version=base_version,
                jobs=jobs,
                force=force,
                max_bytes=max_bytes,
                progress=progress,
            )
        else:
            result = export_patch(
                patch,
                base,
                output,
                layout=cast(Literal["plain", "trl"], layout),
                jobs=jobs,
                force=force,
                max_bytes=max_bytes,
                progress=progress,
            )
    if as_json:
        print_json(asdict(result) | {"output": str(result.output)})
    elif not quiet:
        whole = f", {count(len(result.whole))} new" if result.whole else ""
        gone = f", {count(len(result.removed))} removed" if result.removed else ""
        say(
            f"{output}: {count(result.n_changed)} of {count(result.n_words)} words in "
            f"{count(len(result.sparse))} tensors{whole}{gone}, {size(result.n_bytes)}, "
            f"{duration(time.monotonic() - start)}"
        )
