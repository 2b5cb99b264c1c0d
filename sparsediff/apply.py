"""apply: base and patches to the target, byte for byte, or nothing.

Enters: a base checkpoint and one or more patches. Leaves: the target at a new
path, by rename, after every bucket and skeleton was verified; or the base
updated in place, file by file, each by rename. Reads each patch front to back
and never holds more than a few buckets.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

from sparsediff.errors import UsageError, WrongBaseError, os_errors
from sparsediff.files import (
    check_output,
    clone,
    create,
    remove,
    staged_directory,
    staged_file,
    temp_sibling,
    write_at,
)
from sparsediff.inplace import update_in_place
from sparsediff.make import Progress
from sparsediff.parallel import default_jobs, ordered_map
from sparsediff.patch import Patch, open_patch
from sparsediff.rebuild import BaseFiles, Task, is_copy, run, tasks

PatchSource = Path | str | BinaryIO


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
    progress: Progress | None = None,
) -> ApplyResult:
    """Rebuild the target of a patch, or of a chain of patches, from its base.

    Args:
        base: checkpoint file or directory the first patch was made from.
        patches: one patch, or several, each made from the target of the one
            before: paths, ``-`` for standard input, or binary streams.
        output: where the target shall appear; None with ``in_place``.
        in_place: update ``base`` itself, one file at a time.
        jobs: threads; default all processors.
        force: replace an existing output.
        progress: told of bytes rebuilt.

    Raises:
        UsageError: a path is unusable, or the output exists.
        WrongBaseError: ``base`` or a later patch does not continue the chain.
        CorruptError: a patch is damaged.
        UnsupportedError: ``in_place`` cannot do what the patch asks.
        UnavailableError: the disk is full, or the base changed meanwhile.
        LockedError: another run writes the same output.
    """
    sources = (
        list(patches)
        if isinstance(patches, Sequence) and not isinstance(patches, str)
        else [patches]
    )
    if not sources or sum(str(s) == "-" for s in sources) > 1:
        raise UsageError("give at least one patch, and standard input once at most")
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
                    raise UsageError("output is the base (--in-place updates it)", file=output)
            paths = [s for s in sources if isinstance(s, (str, Path)) and str(s) != "-"]
            check_output(output, force=force, inputs=[base, *paths])
        chain = [stack.enter_context(open_patch(s)) for s in sources]
        for before, after in pairwise(chain):
            _check_link(before, after)
        last = chain[-1].manifest
        if output is None:
            written = update_in_place(base, chain, jobs, progress)
        else:
            written = _apply_to(base, chain, output, jobs, force, progress)
        return ApplyResult(
            output or base,
            len(chain),
            sum(f.size for f in last.target_files),
            written,
            sum(p.n_bytes for p in chain),
        )


def _check_link(before: Patch, after: Patch) -> None:
    """Raise WrongBaseError if ``after`` plainly was not made from the target of ``before``."""
    made = [(f.name, f.size, f.skeleton) for f in before.manifest.target_files]
    needed = [(f.name, f.size, f.skeleton) for f in after.manifest.base_files]
    same = made == needed
    a, b = before.manifest, after.manifest
    if same and a.parts == b.parts:  # the usual case: equal layouts are cut alike
        for x, y in zip(a.buckets, b.buckets, strict=True):
            same = same and y.base in (None, x.target if x.target is not None else x.base)
    if not same:
        raise WrongBaseError(f"wrong base: patch does not continue {before.name}", file=after.name)


def _apply_to(
    base: Path,
    chain: list[Patch],
    output: Path,
    jobs: int,
    force: bool,
    progress: Progress | None,
) -> int:
    """Build the target of ``chain`` at ``output``; returns the bytes written."""
    total = sum(f.size for p in chain for f in p.manifest.target_files)
    done = 0

    def advance(n: int) -> None:
        nonlocal done
        done += n
        if progress is not None:
            progress(done, total)

    with ExitStack() as stack:
        if chain[-1].manifest.target_is_directory:
            staged = stack.enter_context(staged_directory(output, force=force))
        else:
            stack.enter_context(staged_file(output, force=force))
            staged = temp_sibling(output)
        # Whoever holds the lock owns these too; a killed run may have left some.
        between = [temp_sibling(output, part) for part in range(len(chain) - 1)]
        left = [p for p in output.parent.iterdir() if p.name.startswith(f"{staged.name}.")]
        for path in {*between, *left}:
            stack.callback(_discard, path)
            _discard(path)
        root = base
        for patch, dest in zip(chain, [*between, staged], strict=True):
            _rebuild(patch, root, dest, jobs, advance)
            if root is not base:
                _discard(root)
            root = dest
    return total


def _discard(path: Path) -> None:
    if os.path.lexists(path):
        with os_errors(path):
            remove(path)


def _rebuild(
    patch: Patch, base: Path, dest: Path, jobs: int, advance: Callable[[int], None]
) -> None:
    """Write all target files of ``patch`` to ``dest``, a directory or the one file."""
    files = BaseFiles(base, patch.manifest)
    paths = [dest / f.name if f.name else dest for f in patch.manifest.target_files]
    for path, record in zip(paths, patch.manifest.target_files, strict=True):
        if path == dest and path.exists():
            with os_errors(path):
                os.truncate(path, record.size)
        else:
            create(path, record.size)

    cloned = {i for i, path in enumerate(paths) if _clone_unchanged(patch, files, i, path)}

    def write(file: int, offset: int, data: Any) -> None:
        if file not in cloned:
            write_at(paths[file], offset, data)

    def job(task: Task) -> int:
        return run(patch, files, task, write)

    for n in ordered_map(job, tasks(patch), jobs):
        advance(n)


def _clone_unchanged(patch: Patch, base: BaseFiles, file: int, path: Path) -> bool:
    """Whether ``path`` could be made a clone of the base file that it equals.

    The base's words are still read and checked like any others.
    """
    record = patch.manifest.target_files[file]
    same = record.dictionary  # where the skeleton of a copy comes from
    if same is None or not record.size or not is_copy(patch.manifest, file, same):
        return False
    return clone(base.open(same), path)
