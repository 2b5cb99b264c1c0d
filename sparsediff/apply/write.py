"""apply: base and patches to the target, byte for byte, or nothing.

Enters: a base checkpoint and one or more patches. Leaves: the target at a new
path, by rename, after every bucket and skeleton was verified; or the base
updated in place, file by file, each by rename. Reads each patch front to back
and never holds more than a few buckets.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from sparsediff.apply.chain import (
    groups,
    listed,
    narrow,
    open_chain,
    rebuild_chain,
    rebuilt_bytes,
)
from sparsediff.apply.in_place import update_in_place
from sparsediff.disk.names import is_temp, temp_sibling
from sparsediff.disk.outputs import staged_directory, staged_file
from sparsediff.disk.replace import check_output
from sparsediff.disk.selection import Selection
from sparsediff.disk.temps import clear, discard, temp_directory
from sparsediff.errors import UsageError, os_errors
from sparsediff.parallel import Progress, default_jobs
from sparsediff.patch.container import Patch, PatchSource, paths


@dataclass(frozen=True, slots=True)
class ApplyResult:
    """What `apply_patch` did.

    Attributes:
        output: where the target is.
        n_patches: length of the chain applied.
        target_bytes: bytes of the target.
        written_bytes: bytes of target files written.
        patch_bytes: bytes of all patches.
    """

    output: Path
    n_patches: int
    target_bytes: int
    written_bytes: int
    patch_bytes: int


def apply_patch(
    base: Path | str,
    patches: PatchSource | Sequence[PatchSource],
    output: Path | str | None = None,
    *,
    in_place: bool = False,
    jobs: int | None = None,
    force: bool = False,
    files: Sequence[str] = (),
    progress: Progress | None = None,
) -> ApplyResult:
    """Rebuild the target of a patch, or of a chain of patches, from its base.

    Args:
        base: checkpoint file or directory the first patch was made from.
        patches: one patch, or several, each made from the target of the one
            before: paths, ``-`` for standard input, or binary streams.
        output: where to write the target; None with ``in_place``.
        in_place: update ``base`` itself, one file at a time; with ``files`` those that match,
            and the others stay as they are.
        jobs: threads; default all processors.
        force: replace an existing output.
        files: patterns of the target's files to rebuild, default all: see
            `disk.selection.Selection`. Only what these come from must be in ``base``.
        progress: told of bytes rebuilt.

    Raises:
        UsageError: a path is unusable, or the output exists, or no file matches.
        WrongBaseError: ``base`` or a later patch does not continue the chain.
        CorruptError: a patch is damaged.
        UnsupportedError: ``in_place`` cannot do what the patch asks.
        UnavailableError: the disk is full, or the base changed meanwhile.
        LockedError: another run writes the same output.
    """
    sources = listed(patches)
    base, jobs = Path(base), jobs or default_jobs()
    if in_place == (output is not None):
        raise UsageError("give either an output or in-place, not both")
    with ExitStack() as stack:
        if output is not None:
            if not str(output):
                raise UsageError("the name of the output is empty")
            output = Path(os.path.abspath(output))
            with os_errors(base):
                if base.exists() and output.exists() and output.samefile(base):
                    raise UsageError("output is the base (`in_place=True` updates it)", file=output)
            check_output(output, force=force, inputs=[base, *paths(sources)])
        chain = stack.enter_context(open_chain(sources))
        names = _names(chain)
        if files:
            narrow(chain, Selection(tuple(files)))
            for before, after in pairwise(chain):
                after.manifest.share(before.manifest)
        if output is None:
            written = update_in_place(base, chain, jobs, progress)
        else:
            written = _apply_to(base, chain, output, jobs, force, names, progress)
        return ApplyResult(
            output or base,
            len(chain),
            sum(f.size for f in chain[-1].manifest.target_files),
            written,
            sum(p.n_bytes for p in chain),
        )


def _apply_to(
    base: Path,
    chain: list[Patch],
    output: Path,
    jobs: int,
    force: bool,
    names: set[str],
    progress: Progress | None,
) -> int:
    """Build the target of ``chain`` at ``output``; returns the bytes written.

    What is replaced there may hold files of ``names`` only.
    """
    runs = groups(chain)
    total, done = rebuilt_bytes(runs), 0

    def advance(n: int) -> None:
        nonlocal done
        done += n
        if progress is not None:
            progress(done, total)

    with ExitStack() as stack:
        if chain[-1].manifest.target_is_directory:
            staged = stack.enter_context(staged_directory(output, force=force, replaceable=names))
        else:
            stack.enter_context(staged_file(output, force=force))
            staged = temp_sibling(output)
        # Whoever holds the lock owns these too; a killed run may have left some.
        for left in output.parent.glob(f"{glob.escape(staged.name)}.*"):
            if is_temp(left.name):
                clear(left)
        work = temp_sibling(output, 0)
        if len(runs) > 1:
            stack.enter_context(temp_directory(work))
            stack.callback(discard, work)
        rebuild_chain(base, runs, staged, lambda i: work / str(i), jobs, advance)
    return total


def _names(chain: list[Patch]) -> set[str]:
    """Of all files of all the chain's checkpoints."""
    bases = {f.name for patch in chain for f in patch.manifest.base_files}
    return bases | {f.name for patch in chain for f in patch.manifest.target_files}
