"""verify: is a patch intact, and does it fit this base or this target?

Enters: a patch and perhaps checkpoints. Leaves: a `VerifyResult`, or the error
that says what is wrong. Writes nothing.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sparsediff.apply.base import BaseFiles, check_kind
from sparsediff.apply.batches import batches, run_batch
from sparsediff.apply.rebuild import NOWHERE, Task, check_target, tasks
from sparsediff.disk.inputs import walk
from sparsediff.errors import CorruptError, os_errors
from sparsediff.parallel import ordered_map, threads
from sparsediff.patch.container import PatchSource, open_patch


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """What `verify_patch` checked.

    Attributes:
        patch_bytes: size of the patch, every byte of which was checked.
        n_payloads: payloads whose SHA-256 was checked.
        base: whether the base was checked and every bucket decoded from it.
        target: whether a target was compared.
    """

    patch_bytes: int
    n_payloads: int
    base: bool
    target: bool


def verify_patch(
    patch: PatchSource,
    *,
    base: Path | str | None = None,
    target: Path | str | None = None,
    jobs: int | None = None,
) -> VerifyResult:
    """Check a patch, alone or against checkpoints.

    Args:
        patch: path, ``-`` for standard input, or a binary stream.
        base: if given, every bucket is decoded from it and verified.
        target: if given, every byte of it is compared with what the patch says.
        jobs: threads; default all processors.

    Raises:
        CorruptError: the patch is damaged, or ``target`` is not its target.
        WrongBaseError: ``base`` is not its base.
    """
    with open_patch(patch) as opened:
        manifest = opened.manifest
        jobs = threads(jobs, sum(f.size for f in manifest.target_files))
        if base is None:
            for _ in opened.payloads():
                pass
        else:
            files = BaseFiles(Path(base), manifest)

            def job(batch: list[Task]) -> int:
                return run_batch([opened], files, batch, lambda _: NOWHERE)

            for _ in ordered_map(job, batches([opened], tasks([opened])), jobs):
                pass
        if target is not None:
            root = Path(target)
            with os_errors(root):
                os.stat(root)
            error = CorruptError("not the target of this patch", file=root)
            check_kind(root, manifest.target_is_directory, error)
            for i, file in enumerate(manifest.target_files):
                path = root / file.name if file.name else root
                if not path.is_file():
                    raise CorruptError("file of the target is missing", file=path)
                check_target(manifest, i, path, partial(ordered_map, jobs=jobs))
            if manifest.target_is_directory:
                names = {f.name for f in manifest.target_files}
                for name, path in walk(root):
                    if name not in names:
                        raise CorruptError("file is not in the target", file=path)
        return VerifyResult(opened.n_bytes, len(opened.sizes), base is not None, target is not None)
