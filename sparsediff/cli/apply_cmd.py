"""``sparsediff apply``."""

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
    noted,
    options,
    print_json,
    progress_bar,
    quiet_option,
    ray_option,
    say,
    size,
    wait_option,
)
from sparsediff.cli.keys import trust_option


@click.command(
    "apply",
    epilog=examples(
        "sparsediff apply step_100/ 101.sdiff -o step_101/",
        "sparsediff apply step_100/ 101.sdiff 102.sdiff 103.sdiff -o step_103/",
        "sparsediff apply --in-place current/ 104.sdiff",
        "cat 101.sdiff | sparsediff apply step_100/ - -o step_101/",
        "sparsediff apply step_100/ 101.sdiff --files 'model-0000[1-4]*' -o share/",
        "sparsediff apply step_100/ 101.sdiff --ray auto -o step_101/",
    )
    + exit_codes(0, 2, 10, 11, 12, 13, 14, 130),
)
@click.argument("base", type=click.Path())
@click.argument("patches", metavar="PATCH...", nargs=-1, required=True, type=PatchPath())
@options(
    click.option("-o", "--output", metavar="OUT", help="Where to write the target."),
    click.option(
        "--in-place",
        is_flag=True,
        help="Update BASE itself, one file at a time. If interrupted, run it again.",
    ),
    click.option(
        "--files",
        multiple=True,
        metavar="PATTERN",
        help="Rebuild only the files of the target that match, as 'model-0000[1-4]*'; BASE needs"
        " to hold only what these come from. In place, others stay as they are. Repeatable."
        " [default: all]",
    ),
    trust_option,
    ray_option,
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
    output: str | None,
    in_place: bool,
    files: tuple[str, ...],
    ray: str | None,
    force: bool,
    max_bytes: int | None,
    jobs: int | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Rebuild the target of PATCH from BASE, byte for byte.

    Several patches are a chain: each was made from the target of the one
    before. - reads a patch from standard input. The output appears only when
    every byte of it has been verified. With --ray a cluster rebuilds the
    files, each on one processor.
    """
    from sparsediff.apply import apply_patch
    from sparsediff.errors import UsageError
    from sparsediff.patch.container import is_patch

    if is_patch(base):
        raise UsageError("is a patch; apply takes BASE first, then PATCH", file=base)
    if in_place and output is not None:
        raise click.UsageError("--in-place updates BASE itself and takes no -o")
    if not in_place and output is None:
        raise click.UsageError("give -o OUT, or --in-place to update BASE itself")
    if ray is not None and (in_place or jobs is not None):
        raise click.UsageError(
            "--ray writes to -o OUT, on all processors: no --in-place, no --jobs"
        )
    start = time.monotonic()
    with progress_bar("apply", quiet=quiet) as progress:
        if ray is not None and output is not None:
            from sparsediff.ray import apply

            result = apply(
                base,
                patches,
                output,
                address=ray,
                force=force,
                files=files,
                max_bytes=max_bytes,
                progress=progress,
                note=noted(quiet=quiet),
            )
        else:
            result = apply_patch(
                base,
                patches,
                output,
                in_place=in_place,
                max_bytes=max_bytes,
                jobs=jobs,
                force=force,
                files=files,
                progress=progress,
            )
    took = time.monotonic() - start
    if as_json:
        print_json(
            {
                "output": str(result.output),
                "n_patches": result.n_patches,
                "target_bytes": result.target_bytes,
                "written_bytes": result.written_bytes,
                "patch_bytes": result.patch_bytes,
                "seconds": took,
            }
        )
    elif not quiet:
        patches_text = "1 patch" if result.n_patches == 1 else f"{result.n_patches} patches"
        say(
            f"{result.output}: {size(result.target_bytes)} verified, from {patches_text} of "
            f"{size(result.patch_bytes)}, {took:.2f} s"
        )
