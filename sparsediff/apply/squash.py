"""squash: a chain of patches to one patch.

Enters: a base and the patches that lead from it to a target. Leaves: the patch that
`make_patch` writes for base and target, byte for byte; it appears whole or not at all.
The target is rebuilt and verified next to the output and removed again, whatever
happens; what a killed run left of it, by the next one. Never keeps the chain's
payloads: what changed twice is coded once.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from sparsediff.apply.chain import (
    check_declared,
    groups,
    listed,
    open_chain,
    rebuild_chain,
    rebuilt_bytes,
)
from sparsediff.apply.rebuild import PAID_BYTES, UNFOLDED_BYTES
from sparsediff.checkpoint import open_checkpoint
from sparsediff.checkpoint.formats import load_all
from sparsediff.disk.names import temp_sibling
from sparsediff.disk.outputs import staged_file
from sparsediff.disk.temps import discard, temp_directory
from sparsediff.errors import UsageError, os_errors
from sparsediff.make import MakeResult, make_patch
from sparsediff.make.spool import place_of
from sparsediff.parallel import Budget, Progress, threads
from sparsediff.patch.container import PatchSource, paths
from sparsediff.patch.signed import signed_when_it_appears

if TYPE_CHECKING:
    from sparsediff.signing import Signer


def squash_patches(
    base: Path | str,
    patches: PatchSource | Sequence[PatchSource],
    output: Path | str,
    *,
    jobs: int | None = None,
    force: bool = False,
    max_bytes: int | None = None,
    progress: Progress | None = None,
    signer: Signer | None = None,
) -> MakeResult:
    """Write one patch that does what a chain of patches does.

    Args:
        base: checkpoint file or directory the first patch was made from.
        patches: each made from the target of the one before: paths, ``-`` for standard
            input, or binary streams.
        output: path of the patch. Next to it there must be room for the target.
        jobs: threads; default all processors. Does not change the patch.
        force: replace an existing output.
        max_bytes: most bytes that a target may have, as with `apply_patch`; default any.
        progress: told of bytes rebuilt and read.
        signer: who signs the patch, as for `make_patch`.

    Raises:
        UsageError: a path is unusable, or the output exists.
        WrongBaseError: ``base`` or a later patch does not continue the chain.
        CorruptError: a patch is damaged, or leads to more than ``max_bytes``, or a
            checkpoint file violates its format.
        UnsupportedError: a file name, or the number of tensors, fits no patch.
        UnavailableError: the disk is full, or the base changed meanwhile.
        LockedError: another run writes the same output.
    """
    load_all()
    sources = listed(patches)
    place = place_of(output, force=force, inputs=[base, *paths(sources)], signer=signer)
    if place is None:
        raise UsageError("the output must be a file: the target is rebuilt next to it")
    jobs = threads(jobs)
    with ExitStack() as stack:
        chain = stack.enter_context(open_chain(sources))
        check_declared(chain, max_bytes)
        pinned = open_checkpoint(base, allow_empty=True)
        to_read = sum(f.size for f in chain[-1].manifest.target_files)
        runs = groups(chain)
        to_rebuild, rebuilt = rebuilt_bytes(runs), 0

        def tell(done: int) -> None:
            if progress is not None:
                progress(done, to_rebuild + to_read)

        def advance(n: int) -> None:
            nonlocal rebuilt
            rebuilt += n
            tell(rebuilt)

        sign = stack.enter_context(signed_when_it_appears(place, signer))
        out = stack.enter_context(staged_file(place, force=force))
        work = temp_sibling(place, 0)  # whoever holds the lock on the output owns this too
        stack.enter_context(temp_directory(work))
        stack.callback(discard, work)
        target, patch = work / "target", work / "patch"
        rebuild_chain(pinned.path, runs, target, lambda i: work / str(i), jobs, advance)
        # Still pinned, so it is also noticed if the base changed between the two.
        # What a small patch unfolded to is held by all threads together here as well.
        paid = PAID_BYTES * sum(p.n_bytes for p in chain)
        result = make_patch(
            pinned,
            target,
            patch,
            jobs=jobs,
            progress=lambda done, _: tell(to_rebuild + done),
            room=Budget(UNFOLDED_BYTES + paid),
        )
        with os_errors(place), open(patch, "rb") as made:
            head = made.read(result.patch_bytes - sum(result.sizes.values()))
            out.write(head)
            shutil.copyfileobj(made, out, 1 << 20)
            sign(head)
        return result
