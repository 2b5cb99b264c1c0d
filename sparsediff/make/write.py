"""make: two checkpoints to one patch.

Enters: base and target. Leaves: a patch file that appears whole or not at all,
and a `MakeResult`. Reads every byte of both once, and a sample of large buckets
before, and refuses if a file changed meanwhile.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import BinaryIO

import numpy as np

from sparsediff import checksum
from sparsediff.checkpoint import Checkpoint, open_checkpoint
from sparsediff.disk.inputs import OpenFiles
from sparsediff.disk.outputs import staged_file
from sparsediff.disk.replace import check_output
from sparsediff.disk.selection import Selection
from sparsediff.errors import UsageError, os_errors
from sparsediff.make.encode import Encoded, Observer, encode_bucket, encode_skeleton
from sparsediff.make.plan import plan
from sparsediff.parallel import Progress, default_jobs, ordered_map
from sparsediff.patch import words
from sparsediff.patch.container import pack
from sparsediff.patch.manifest import MAX_BUCKET_WORDS, Manifest
from sparsediff.patch.measures import Counts, median_step, share


@dataclass(frozen=True, slots=True)
class MakeResult:
    """What `make_patch` did.

    Attributes:
        manifest: of the patch.
        sizes: bytes of each payload, by name.
        base_bytes: bytes of all base files.
        target_bytes: bytes of all target files.
        patch_bytes: bytes of the whole patch.
        left_out: names and bytes of the target's files that were not asked for.
    """

    manifest: Manifest
    sizes: dict[str, int]
    base_bytes: int
    target_bytes: int
    patch_bytes: int
    left_out: list[tuple[str, int]] = field(default_factory=list)

    @property
    def ratio(self) -> float | None:
        """Target bytes per patch byte."""
        return share(self.target_bytes, self.patch_bytes)


def make_patch(
    base: Path | str | Checkpoint,
    target: Path | str | Checkpoint,
    output: Path | str | BinaryIO | None,
    *,
    jobs: int | None = None,
    force: bool = False,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    bucket_words: int = MAX_BUCKET_WORDS,
    progress: Progress | None = None,
    observer: Observer | None = None,
) -> MakeResult:
    """Write the patch that turns ``base`` into ``target``.

    Args:
        base: checkpoint file or directory that the other side holds; a directory without
            files makes an anchor, a patch from nothing.
        target: checkpoint to reproduce there. Both may also be opened already, as
            `memory.memory_checkpoint` does with tensors.
        output: path of the patch, ``-`` for standard output, a binary stream,
            or None to measure only.
        jobs: threads; default all processors. Does not change the patch.
        force: replace an existing output.
        include: patterns of the files of directories to carry, default all: see
            `disk.selection.Selection`. Files that are left out are neither in the patch nor
            demanded of the base.
        exclude: patterns of those not to carry.
        bucket_words: most words per bucket.
        progress: told of bytes read.
        observer: shown each pair of words compared.

    Raises:
        UsageError: a path is unusable or the output exists.
        CorruptError: a checkpoint file violates its format.
        UnsupportedError: a file name, or the number of tensors, fits no patch; or the target
            holds a file named like what a killed run leaves behind.
        UnavailableError: a file changed while it was read, or the disk is full.
        LockedError: another run writes the same output.
    """
    if not 1 <= bucket_words <= MAX_BUCKET_WORDS:
        raise UsageError("bucket_words out of range", expected=f"1 to {MAX_BUCKET_WORDS}")
    place: Path | None = None
    if isinstance(output, Path) or (isinstance(output, str) and output != "-"):
        if not str(output):
            raise UsageError("the name of the output is empty")
        place = Path(os.path.abspath(output))
        named = [side for side in (base, target) if not isinstance(side, Checkpoint)]
        check_output(place, force=force, inputs=named)
    chosen = Selection(tuple(include), tuple(exclude))
    sides = (
        base
        if isinstance(base, Checkpoint)
        else open_checkpoint(base, allow_empty=True, selection=chosen),
        target
        if isinstance(target, Checkpoint)
        else open_checkpoint(target, whole=True, selection=chosen),
    )
    manifest = plan(*sides, bucket_words)
    with _spool(place) as spool, os_errors(place or "temporary file"):
        sizes = _encode_all(manifest, *sides, spool, jobs or default_jobs(), progress, observer)
        for checkpoint in sides:
            checkpoint.check_unchanged()
        head = pack(manifest, sizes)
        if place is not None:
            with staged_file(place, force=force) as stream:
                _write(stream, head, spool)
        elif isinstance(output, str):
            with os_errors("standard output"):
                _write(sys.stdout.buffer, head, spool)
        elif output is not None:
            assert not isinstance(output, Path)
            _write(output, head, spool)
    return MakeResult(
        manifest,
        sizes,
        sides[0].n_bytes,
        sides[1].n_bytes,
        len(head) + sum(sizes.values()),
        sides[1].left_out,
    )


@contextmanager
def _spool(output: Path | None) -> Iterator[BinaryIO]:
    """Unnamed file for the payloads: the header, which comes first, needs their sizes."""
    # Opened apart, so that errors of whoever uses it are not taken for errors of opening.
    with os_errors(output or "temporary directory"):
        spool = tempfile.TemporaryFile(dir=output.parent if output else None)  # noqa: SIM115 - see below
    with spool:
        yield spool


def _write(stream: BinaryIO, head: bytes, spool: BinaryIO) -> None:
    stream.write(head)
    spool.seek(0)
    shutil.copyfileobj(spool, stream, 1 << 20)
    stream.flush()


def _encode_all(
    manifest: Manifest,
    base: Checkpoint,
    target: Checkpoint,
    spool: BinaryIO,
    jobs: int,
    progress: Progress | None,
    observer: Observer | None,
) -> dict[str, int]:
    """Encode all payloads into ``spool`` and complete the manifest; bytes per payload."""
    sizes: dict[str, int] = {}
    steps_of: dict[int, Counts] = {}
    total, done = target.n_bytes, 0
    base_files, target_files = ([f.source for f in side.files] for side in (base, target))

    def job(task: tuple[int, int]) -> Encoded:
        file, bucket = task
        with OpenFiles() as files:
            before = words.base_source(manifest, files.reader(base_files))
            after = words.target_source(manifest, file, files.reader(target_files))
            return encode_bucket(manifest, bucket, before, after, total, observer)

    tasks = [(f, b) for f, buckets in enumerate(manifest.file_buckets) for b in buckets]
    results = ordered_map(job, tasks, jobs)
    for index, buckets in enumerate(manifest.file_buckets):
        skeleton = encode_skeleton(manifest, index, base, target)
        if skeleton is not None:
            sizes[f"skeleton.{index}"] = len(skeleton)
            spool.write(skeleton)
        done += manifest.skeleton_size(index)
        for bucket, encoded in zip(buckets, results, strict=False):
            _record(manifest, bucket, encoded, steps_of)
            if encoded.payload:
                sizes[f"bucket.{bucket}"] = len(encoded.payload)
                spool.write(encoded.payload)
            done += words.n_bytes(manifest, bucket)
            if progress is not None:
                progress(done, total)
    return sizes


def _record(manifest: Manifest, bucket: int, encoded: Encoded, steps_of: dict[int, Counts]) -> None:
    """Enter what was found about a bucket and its tensors into the manifest.

    ``steps_of`` keeps, by tensor, the steps per class until its last bucket is in.
    """
    record = manifest.buckets[bucket]
    target = checksum.combine(encoded.target)
    if encoded.base is not None:
        record.base = checksum.combine(encoded.base)
        record.locators = "".join(map(checksum.locator, encoded.base))
    if encoded.payload:
        record.target, record.digest = target, checksum.digest(encoded.payload)
    for part, found in zip_longest(manifest.parts[bucket], encoded.steps):
        tensor = manifest.tensors[part.tensor]
        if found is not None and found.largest:
            by_class = steps_of.setdefault(part.tensor, np.zeros(128, np.int64))
            by_class[: found.by_class.size] += found.by_class
            tensor.largest = max(tensor.largest, found.largest)
        if part.start + part.n_words == tensor.n_based and part.tensor in steps_of:
            by_class = steps_of.pop(part.tensor)
            tensor.n_stepped, tensor.n_ones = int(by_class.sum()), int(by_class[0])
            tensor.median = median_step(by_class)
