"""One share of the work on two checkpoints → one of the parts that `merge` makes the patch of.

Enters: base, target and a share. Leaves: a part that appears whole or not at all, and a
`PartResult`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

from sparsediff.checkpoint import Checkpoint
from sparsediff.disk.selection import Selection
from sparsediff.errors import os_errors
from sparsediff.make.part import Findings, Read, changed_at, pack_part, payload_name, plan_text
from sparsediff.make.results import Result
from sparsediff.make.shares import Share, Task, n_bytes, tasks
from sparsediff.make.spool import Output, deliver, place_of, rewound, spool
from sparsediff.make.write import Side, encode_tasks, open_both, paths_of, planned
from sparsediff.parallel import Progress, threads
from sparsediff.patch.manifest import MAX_BUCKET_WORDS, Manifest


@dataclass(frozen=True, slots=True)
class PartResult:
    """What `make_part` did.

    Attributes:
        share: which part.
        target_bytes: bytes of the target that it holds.
        part_bytes: bytes of the part.
    """

    share: Share
    target_bytes: int
    part_bytes: int


def make_part(
    base: Side,
    target: Side,
    part: Share,
    output: Output,
    *,
    jobs: int | None = None,
    force: bool = False,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    bucket_words: int = MAX_BUCKET_WORDS,
    progress: Progress | None = None,
) -> PartResult:
    """Write one of several parts of the patch that turns ``base`` into ``target``.

    Every part reads all headers, but only the words of its own share. `merge_parts` of
    all parts gives the patch that `make_patch` would write, byte for byte.

    Args:
        base: as of `make_patch`, the same for all parts; so are ``include``, ``exclude`` and
            ``bucket_words``.
        target: likewise.
        part: which of how many.
        output: where to write it; as of `make_patch`.
        jobs: threads; default all processors.
        force: replace an existing output.
        include: as of `make_patch`.
        exclude: as of `make_patch`.
        bucket_words: most words per bucket.
        progress: told of bytes of the share that were read.

    Raises:
        SparsediffError: as `make_patch` does.
    """
    place = place_of(output, force=force, inputs=paths_of(base, target))
    sides = open_both(base, target, Selection(tuple(include), tuple(exclude)))
    manifest = planned(*sides, bucket_words)
    mine, jobs = tasks(manifest, part), threads(jobs)
    results: list[Result] = []
    sizes: dict[str, int] = {}
    with spool(place) as payloads, os_errors(place or "temporary file"):
        with closing(encode_tasks(manifest, *sides, part, jobs, progress, None)) as work:
            for task, encoded in work:
                results.append(encoded.result)
                if encoded.payload:
                    sizes[payload_name(task)] = len(encoded.payload)
                    payloads.write(encoded.payload)
        for checkpoint in sides:
            checkpoint.check_unchanged()
        found = Findings(part, _read(manifest, *sides, mine), results, sizes)
        head = pack_part(plan_text(manifest), found)
        deliver(output, place, head, rewound(payloads), force=force)
    return PartResult(
        part, sum(n_bytes(manifest, t) for t in mine), len(head) + sum(sizes.values())
    )


def _read(manifest: Manifest, base: Checkpoint, target: Checkpoint, mine: list[Task]) -> Read:
    """The files that tasks read, and when each was changed last."""
    read: Read = {}
    for task in mine:
        source = target.files[task.file].source
        read[f"target/{manifest.target_files[task.file].name}"] = changed_at(source)
        parts = manifest.parts[task.bucket] if task.bucket is not None else ()
        for file in {manifest.tensors.base_files[p.tensor] for p in parts} - {None}:
            assert file is not None
            read[f"base/{manifest.base_files[file].name}"] = changed_at(base.files[file].source)
    return read
