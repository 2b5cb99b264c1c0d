"""``sparsediff show``."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import click

from sparsediff.cli.common import (
    PatchPath,
    count,
    examples,
    exit_codes,
    json_option,
    number,
    options,
    percent,
    print_json,
    say,
    size,
)
from sparsediff.cli.documents import Rows
from sparsediff.cli.keys import trust_option
from sparsediff.cli.tables import print_table
from sparsediff.errors import printable
from sparsediff.version import FORMAT_VERSION

if TYPE_CHECKING:
    from sparsediff.patch.container import Patch


@click.command(
    "show",
    epilog=examples("sparsediff show 101.sdiff", "sparsediff show 101.sdiff --json | jq .tensors")
    + exit_codes(0, 2, 11, 12, 130),
)
@click.argument("patch", type=PatchPath())
@options(trust_option, json_option)
def command(patch: str, as_json: bool) -> None:
    """Print what PATCH says about itself: its manifest.

    Files, sizes and totals for people; with --json everything, down to each
    tensor's place and each bucket's checksums.
    """
    from sparsediff.patch.container import open_patch
    from sparsediff.stats import patch_stats

    with open_patch(patch) as opened:
        if as_json:
            print_json(_document(opened))
            return
        stats = patch_stats(opened)
        manifest = opened.manifest
        rows = (
            [
                file.name or "(single file)",
                size(file.size),
                count(file.n_tensors),
                count(len(buckets)),
                size(
                    opened.sizes.get(f"skeleton.{i}", 0)
                    + sum(opened.sizes.get(f"bucket.{b}", 0) for b in buckets)
                ),
            ]
            for i, (file, buckets) in enumerate(
                zip(manifest.target_files, manifest.file_buckets, strict=True)
            )
        )
        kept = {f.name for f in manifest.target_files}
        removed = [f.name for f in manifest.base_files if f.name not in kept]
    total = stats.total
    say(f"{patch}: sparsediff patch, format {FORMAT_VERSION}, {size(stats.patch_bytes)}")
    base_bytes = sum(f.size for f in manifest.base_files)
    say(f"base    {_files(len(manifest.base_files))}, {size(base_bytes)}")
    say(
        f"target  {_files(len(manifest.target_files))}, {size(stats.target_bytes)}, "
        f"ratio {number(stats.ratio, 1)}"
    )
    say(
        f"tensors {total.n_tensors:,} ({total.n_untouched:,} untouched), "
        f"{total.n_changed:,} of {total.n_elements:,} elements changed, "
        f"density {percent(total.density)}"
    )
    say("")
    print_table(["file", "size", "tensors", "buckets", "in patch"], rows)
    if removed:
        say(f"removed: {', '.join(map(printable, removed))}")


def _files(n: int) -> str:
    return "1 file" if n == 1 else f"{n:,} files"


def _document(patch: Patch) -> dict[str, Any]:
    """The manifest as records instead of columns, with payload sizes."""
    m = patch.manifest
    return {
        "format": "sparsediff",
        "version": FORMAT_VERSION,
        "patch_bytes": patch.n_bytes,
        "base": {
            "is_directory": m.base_is_directory,
            "files": Rows(
                lambda: (
                    {"name": f.name, "size": f.size, "layout": f.layout, "skeleton": f.skeleton}
                    for f in m.base_files
                )
            ),
        },
        "target": {
            "is_directory": m.target_is_directory,
            "files": Rows(
                lambda: (
                    {
                        "name": f.name,
                        "size": f.size,
                        "n_tensors": f.n_tensors,
                        "skeleton": f.skeleton,
                        "dictionary": f.dictionary,
                        "sha256": f.skeleton_digest,
                        "patch_bytes": patch.sizes.get(f"skeleton.{i}", 0),
                    }
                    for i, f in enumerate(m.target_files)
                )
            ),
        },
        "tensors": Rows(
            lambda: (
                {
                    "name": t.name,
                    "dtype": t.dtype.name,
                    "shape": t.shape,
                    "offset": t.offset,
                    "base_file": t.base_file,
                    "base_offset": t.base_offset,
                    "n_words": t.n_words,
                    "n_based": t.n_based,
                    "n_changed": t.n_changed,
                    "n_ones": t.n_ones,
                    "median_step": t.median,
                    "largest_step": t.largest,
                }
                for t in m.tensors
            )
        ),
        "buckets": Rows(
            lambda: (
                {
                    "parts": Rows(partial(map, list, parts)),
                    "n_words": b.n_words,
                    "base": b.base,
                    "target": b.target if b.target is not None else b.base,
                    "sha256": b.digest,
                    "patch_bytes": patch.sizes.get(f"bucket.{i}", 0),
                }
                for i, (b, parts) in enumerate(zip(m.buckets, m.parts, strict=True))
            )
        ),
    }
