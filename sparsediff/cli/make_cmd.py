"""``sparsediff make``."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import click

from sparsediff.cli.common import (
    check_output_stream,
    examples,
    exit_codes,
    force_option,
    jobs_option,
    json_option,
    noted,
    number,
    options,
    percent,
    plural,
    print_json,
    progress_bar,
    quiet_option,
    ray_option,
    say,
    selection_options,
    size,
    wait_option,
)
from sparsediff.cli.keys import sign_option, signing

if TYPE_CHECKING:
    from sparsediff.make import MakeResult, PartResult


@click.command(
    "make",
    epilog=examples(
        "sparsediff make step_100/ step_101/ -o 101.sdiff",
        "sparsediff make a.safetensors b.safetensors",
        "sparsediff make step_100/ step_101/ --exclude 'optimizer*'",
        "sparsediff make A B -o - | ssh host sparsediff apply A - -o B",
        "sparsediff make step_100/ step_101/ --part 3/16 -o 3.part",
        "sparsediff make step_100/ step_101/ --ray auto",
    )
    + exit_codes(0, 2, 11, 12, 13, 14, 130),
)
@click.argument("base", type=click.Path())
@click.argument("target", type=click.Path())
@options(
    click.option(
        "-o",
        "--output",
        metavar="PATCH",
        help="Where to write the patch; - for standard output. [default: TARGET's name + .sdiff,"
        " in the current directory; with --part, + .I-of-N.part]",
    ),
    click.option(
        "--part",
        metavar="I/N",
        help="Make only part I of N, for merge: N machines share the work.",
    ),
    ray_option,
    sign_option,
    selection_options("BASE and TARGET"),
    force_option,
    jobs_option,
    wait_option,
    quiet_option,
    json_option,
)
def command(
    base: str,
    target: str,
    output: str | None,
    part: str | None,
    ray: str | None,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    force: bool,
    jobs: int | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Write the patch that turns BASE into TARGET.

    BASE and TARGET are checkpoints: files, or directories with everything in
    them. TARGET can then be rebuilt from BASE and the patch, byte for byte;
    with --include or --exclude, those files of it.

    With --part I/N every one of N machines reads all headers and only its share of
    the words. merge of the N parts is the patch that one machine would make.
    With --ray a cluster does all of that.
    """
    from sparsediff.errors import UsageError
    from sparsediff.make import Share, make_patch
    from sparsediff.patch.container import SUFFIX, is_patch

    for path in (base, target):
        if is_patch(path):
            raise UsageError("is a patch, not a checkpoint; make takes BASE and TARGET", file=path)
    if ray is not None and (part is not None or jobs is not None):
        raise click.UsageError("--ray makes all parts, one on each processor: no --part, no --jobs")
    if output == "":
        raise click.UsageError("the name of the output is empty")
    share = None if part is None else Share.parse(part)
    if output is None:
        suffix = SUFFIX if share is None else f".{share.index}-of-{share.count}.part"
        output = os.path.basename(os.path.realpath(target)) + suffix
    signer = signing()
    if signer is not None and (share is not None or output == "-"):
        raise click.UsageError("--sign needs the patch as a file; of parts, merge --sign signs it")
    check_output_stream(output, as_json=as_json)
    start = time.monotonic()
    with progress_bar("make", quiet=quiet) as progress:
        if share is not None:
            from sparsediff.make import make_part

            made = make_part(
                base,
                target,
                share,
                output,
                jobs=jobs,
                force=force,
                include=include,
                exclude=exclude,
                progress=progress,
            )
        elif ray is not None:
            from sparsediff.ray import make

            result = make(
                base,
                target,
                output,
                address=ray,
                force=force,
                include=include,
                exclude=exclude,
                progress=progress,
                note=noted(quiet=quiet),
                signer=signer,
            )
        else:
            result = make_patch(
                base,
                target,
                output,
                jobs=jobs,
                force=force,
                include=include,
                exclude=exclude,
                progress=progress,
                signer=signer,
            )
    took = time.monotonic() - start
    if share is not None:
        _print_part(output, made, took, quiet=quiet, as_json=as_json)
    else:
        print_result(output, result, took, quiet=quiet, as_json=as_json)


def _print_part(
    output: str, result: PartResult, took: float, *, quiet: bool, as_json: bool
) -> None:
    if as_json:
        print_json(
            {
                "output": output,
                "part": str(result.share),
                "target_bytes": result.target_bytes,
                "part_bytes": result.part_bytes,
                "seconds": took,
            }
        )
    elif not quiet:
        say(
            f"{output if output != '-' else 'part'}: part {result.share}, "
            f"{size(result.part_bytes)} for {size(result.target_bytes)} of the target, "
            f"{took:.2f} s",
            err=output == "-",
        )


def print_result(
    output: str, result: MakeResult, took: float, *, quiet: bool, as_json: bool
) -> None:
    """Print what was made, and in how many seconds."""
    if quiet and not as_json:
        return
    from sparsediff.patch import measures

    n_elements, n_changed = result.n_elements, result.n_changed
    density, bits = measures.share(n_changed, n_elements), result.bits_per_changed
    if as_json:
        print_json(
            {
                "patch": output,
                "patch_bytes": result.patch_bytes,
                "target_bytes": result.target_bytes,
                "ratio": result.ratio,
                "n_elements": n_elements,
                "n_changed": n_changed,
                "density": density,
                "bits_per_changed": bits,
                "left_out": dict(result.left_out),
                "seconds": took,
            }
        )
    else:
        left_out = ""
        if result.left_out:
            n_bytes = sum(n for _, n in result.left_out)
            left_out = f", {plural(len(result.left_out), 'file')} left out ({size(n_bytes)})"
        say(
            f"{output if output != '-' else 'patch'}: {size(result.patch_bytes)} for "
            f"{size(result.target_bytes)} ({number(result.ratio, 1)}x), "
            f"{percent(density)} of {n_elements:,} elements changed, "
            f"{number(bits)} bits per change{left_out}, {took:.2f} s",
            err=output == "-",
        )
