"""``sparsediff merge``."""

from __future__ import annotations

import time

import click

from sparsediff.cli.common import (
    check_output_stream,
    examples,
    exit_codes,
    force_option,
    json_option,
    options,
    progress_bar,
    quiet_option,
    wait_option,
)
from sparsediff.cli.keys import check_nothing_trusted, sign_option, signing
from sparsediff.cli.make_cmd import print_result


@click.command(
    "merge",
    epilog=examples(
        "sparsediff merge *.part -o 101.sdiff",
        "sparsediff merge *.part -o - | ssh host sparsediff apply A - -o B",
    )
    + exit_codes(0, 2, 11, 12, 13, 14, 130),
)
@click.argument("parts", metavar="PART...", nargs=-1, required=True, type=click.Path())
@options(
    click.option(
        "-o",
        "--output",
        metavar="PATCH",
        required=True,
        help="Where to write the patch; - for standard output.",
    ),
    sign_option,
    force_option,
    wait_option,
    quiet_option,
    json_option,
)
def command(parts: tuple[str, ...], output: str, force: bool, quiet: bool, as_json: bool) -> None:
    """Turn the parts of a patch into the patch.

    Each PART was made by make --part I/N. The result is the patch that make
    writes without --part, byte for byte. All N parts are needed, in any order.
    Parts are not signed, so there is nothing to merge where SPARSEDIFF_TRUST is set;
    with --sign whoever merges them vouches for what their makers made.
    """
    from sparsediff.make import merge_parts

    check_nothing_trusted("parts", parts[0])
    check_output_stream(output, as_json=as_json)
    start = time.monotonic()
    with progress_bar("merge", quiet=quiet) as progress:
        result = merge_parts(parts, output, force=force, progress=progress, signer=signing())
    print_result(output, result, time.monotonic() - start, quiet=quiet, as_json=as_json)
