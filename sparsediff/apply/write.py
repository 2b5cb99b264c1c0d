"""apply: base and patches to the target, byte for byte, or nothing.

Enters: a base checkpoint and one or more patches. Leaves: the target at a new
path, by rename, after every bucket and skeleton was verified; or the base
updated in place, file by file, each by rename. Reads each patch front to back
and never holds more than a few buckets.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from sparsediff.apply.chain import (
    check_declared,
    groups,
    hold_once,
    listed,
    narrow,
    open_chain,
    rebuild_chain,
    rebuilt_bytes,
)
from sparsediff.apply.in_place import update_in_place
from sparsediff.disk.names import temp_sibling
from sparsediff.disk.outputs import staged_directory, staged_file
from sparsediff.disk.replace import check_output
from sparsediff.disk.selection import Selection
from sparsediff.disk.temps import clear_parts, discard, temp_directory
from sparsediff.errors import UsageError, os_errors
from sparsediff.parallel import Progress, threads
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
    max_bytes: int | None = None,
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
        max_bytes: most bytes that a target may have of what is to be rebuilt; default any.
        progress: told of bytes rebuilt.

    Raises:
        UsageError: a path is unusable, or the output exists, or no file matches.
        WrongBaseError: ``base`` or a later patch does not continue the chain.
        CorruptError: a patch is damaged, or leads to more than ``max_bytes``.
        UnsupportedError: ``in_place`` cannot do what the patch asks.
        UnavailableError: the disk is full, or has no room for the target, or the base changed
            meanwhile.
        LockedError: another run writes the same output.
    """
    sources = listed(patches)
    base = Path(base)
    if in_place == (output is not None):
        raise UsageError("give either an output or in-place, not both")
    place = None if output is None else place_of(output, base, sources, force=force)
    with open_chain(sources) as chain:
        names = names_of(chain)
        if files:
            narrow(chain, Selection(tuple(files)))
            hold_once(chain)
        check_declared(chain, max_bytes)
        jobs = threads(jobs, sum(f.size for patch in chain for f in patch.manifest.target_files))
        if place is None:
            written = update_in_place(base, chain, jobs, progress)
        else:
            written = _apply_to(base, chain, place, jobs, force, names, progress)
        return result_of(chain, place or base, written)


def place_of(
    output: Path | str, base: Path, sources: Sequence[PatchSource], *, force: bool
) -> Path:
    """Absolute path of the output of `apply_patch`.

    Raises:
        UsageError: nothing may be written there.
    """
    if not str(output):
        raise UsageError("the name of the output is empty")
    place = Path(os.path.abspath(output))
    with os_errors(base):
        if base.exists() and place.exists() and place.samefile(base):
            raise UsageError("output is the base (`in_place=True` updates it)", file=place)
    check_output(place, force=force, inputs=[base, *paths(sources)])
    return place


def result_of(chain: Sequence[Patch], output: Path, written_bytes: int) -> ApplyResult:
    """What is said of a chain that was applied."""
    return ApplyResult(
        output,
        len(chain),
        sum(f.size for f in chain[-1].manifest.target_files),
        written_bytes,
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
    if len(runs) > 1:
        import shutil  # noqa: F401 - what targets on the way are removed with: see `temps`
    total, done = rebuilt_bytes(runs), 0

    def advance(n: int) -> None:
        nonlocal done
        done += n
        if progress is not None:
            progress(done, total)

    with staged_target(chain, output, names, force=force) as (staged, work):
        rebuild_chain(base, runs, staged, lambda i: work / str(i), jobs, advance)
    return total


@contextmanager
def staged_target(
    chain: Sequence[Patch], output: Path, names: set[str], *, force: bool
) -> Iterator[tuple[Path, Path]]:
    """Let the target of a chain be built, and give it its name when it is.

    Args:
        chain: of patches.
        output: where the target appears, or nothing on an error.
        names: of the files that a directory which is replaced may hold, and no others.
        force: replace what is there.

    Yields:
        Where to build it, a file or a directory that is there already; and a directory beside
        it for what is needed on the way.
    """
    with ExitStack() as stack:
        if chain[-1].manifest.target_is_directory:
            staged = stack.enter_context(staged_directory(output, force=force, replaceable=names))
        else:
            stack.enter_context(staged_file(output, force=force))
            staged = temp_sibling(output)
        clear_parts(staged)
        work = temp_sibling(output, 0)
        stack.enter_context(temp_directory(work))
        stack.callback(discard, work)
        yield staged, work


def names_of(chain: Sequence[Patch]) -> set[str]:
    """Of all files of all the chain's checkpoints."""
    bases = {f.name for patch in chain for f in patch.manifest.base_files}
    return bases | {f.name for patch in chain for f in patch.manifest.target_files}
