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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import BinaryIO

import numpy as np

from sparsediff import checksum, kernels, words
from sparsediff.checkpoint import Checkpoint, open_checkpoint
from sparsediff.checksum import PartChecksums
from sparsediff.codec import bucket as codec
from sparsediff.codec.zstd import compress
from sparsediff.dtypes import DType
from sparsediff.errors import UnsupportedError, UsageError, os_errors
from sparsediff.files import OpenFiles
from sparsediff.kernels import Words
from sparsediff.manifest import MAX_SKELETON_BYTES, Manifest
from sparsediff.measures import Counts, median_step, share
from sparsediff.outputs import check_output, staged_file
from sparsediff.parallel import default_jobs, ordered_map
from sparsediff.patch import pack
from sparsediff.plan import BUCKET_WORDS, plan

Progress = Callable[[int, int], None]
"""Called with bytes done and bytes in total."""

_WHOLE_BYTES = 1 << 22  # buckets up to here are held in memory and surveyed completely,
_SMALL_BYTES = 1 << 25  # and all those of checkpoints up to here, which takes milliseconds

Observer = Callable[[DType, Words, Words], None]
"""Called, from worker threads, with the base and target words of each based part."""


@dataclass(frozen=True, slots=True)
class MakeResult:
    """What `make_patch` did.

    Attributes:
        manifest: of the patch.
        sizes: bytes of each payload, by name.
        base_bytes: bytes of all base files.
        target_bytes: bytes of all target files.
        patch_bytes: bytes of the whole patch.
    """

    manifest: Manifest
    sizes: dict[str, int]
    base_bytes: int
    target_bytes: int
    patch_bytes: int

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
    bucket_words: int = BUCKET_WORDS,
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
        bucket_words: most words per bucket.
        progress: told of bytes read.
        observer: shown each pair of words compared.

    Raises:
        UsageError: a path is unusable or the output exists.
        CorruptError: a checkpoint file violates its format.
        UnsupportedError: a file name, or the number of tensors, fits no patch.
        UnavailableError: a file changed while it was read, or the disk is full.
        LockedError: another run writes the same output.
    """
    if not 1 <= bucket_words <= BUCKET_WORDS:
        raise UsageError("bucket_words out of range", expected=f"1 to {BUCKET_WORDS}")
    place: Path | None = None
    if isinstance(output, Path) or (isinstance(output, str) and output != "-"):
        if not str(output):
            raise UsageError("the name of the output is empty")
        place = Path(os.path.abspath(output))
        named = [side for side in (base, target) if not isinstance(side, Checkpoint)]
        check_output(place, force=force, inputs=named)
    sides = (
        base if isinstance(base, Checkpoint) else open_checkpoint(base, allow_empty=True),
        target if isinstance(target, Checkpoint) else open_checkpoint(target),
    )
    manifest = plan(*sides, bucket_words)
    with _spool(place) as spool, os_errors(place or "temporary file"):
        sizes = _encode_all(manifest, *sides, spool, jobs or default_jobs(), progress, observer)
        for checkpoint in sides:
            checkpoint.check_unchanged()
        head = pack(manifest, sizes)
        if place is not None:
            with staged_file(place, force=force) as fd, os.fdopen(os.dup(fd), "wb") as stream:
                _write(stream, head, spool)
        elif isinstance(output, str):
            with os_errors("standard output"):
                _write(sys.stdout.buffer, head, spool)
        elif output is not None:
            assert not isinstance(output, Path)
            _write(output, head, spool)
    return MakeResult(
        manifest, sizes, sides[0].n_bytes, sides[1].n_bytes, len(head) + sum(sizes.values())
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


@dataclass(frozen=True, slots=True)
class _Encoded:
    """One encoded bucket: payload (empty if unchanged), checksums and steps per part.

    ``steps`` holds, per part, counts per class of |step| - 1, without the zeros
    at the end, and the largest |step|; it is empty where nothing changed or
    nothing was compared.
    """

    payload: bytes
    base: list[str] | None
    target: list[str]
    steps: list[tuple[Counts, int]]


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

    def job(task: tuple[int, int]) -> _Encoded:
        file, bucket = task
        with OpenFiles() as files:
            sources = [
                words.target_source(manifest, file, files.reader(target_files)),
                words.base_source(manifest, files.reader(base_files)),
            ]
            if manifest.buckets[bucket].base is None:
                return _encode_new(manifest, bucket, sources[0])
            return _encode_bucket(manifest, bucket, sources, whole_bytes, observer)

    whole_bytes = _WHOLE_BYTES if total > _SMALL_BYTES else _SMALL_BYTES
    base_files, target_files = ([f.source for f in side.files] for side in (base, target))
    tasks = [(f, b) for f, buckets in enumerate(manifest.file_buckets) for b in buckets]
    results = ordered_map(job, tasks, jobs)
    for index, buckets in enumerate(manifest.file_buckets):
        skeleton = _encode_skeleton(manifest, index, base, target)
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


def _encode_new(manifest: Manifest, bucket: int, target: words.Source) -> _Encoded:
    """Encode a bucket that has no base words."""
    sums = PartChecksums()
    for piece in words.pieces(manifest, bucket, [target], keep=True):
        sums.update(piece.part, piece.words[0])
    (t,) = words.whole(piece)
    payload = codec.encode(None, t, words.bucket_dtype(manifest, bucket), None)
    return _Encoded(payload, None, sums.hex(), [])


def _encode_bucket(
    manifest: Manifest,
    bucket: int,
    sources: list[words.Source],
    whole_bytes: int,
    observer: Observer | None,
) -> _Encoded:
    """Encode a bucket of target words with base words.

    Small (up to ``whole_bytes``) and dense ones are held whole, so that every
    way to code them can be tried; of the others a sample decides how they are
    coded while they are read.
    """
    dtype = words.bucket_dtype(manifest, bucket)
    n_bytes = words.n_bytes(manifest, bucket)
    choice = None
    if n_bytes > whole_bytes:
        t, b = words.sample(manifest, bucket, sources)
        found = kernels.survey(b, t, dtype)
        choice = codec.choose(found, manifest.buckets[bucket].n_words)
        if found.changed.any() and codec.planes_may_win(b, t, choice, n_bytes):
            choice = None
    base_sums, target_sums = PartChecksums(), PartChecksums()
    steps: list[tuple[Counts, int]] = []
    counts, largest = np.zeros(256, np.int64), 0  # of a part
    differ = None if choice is None else choice.differ(dtype)
    for piece in words.pieces(manifest, bucket, sources, keep=choice is None):
        t, b = piece.words
        target_sums.update(piece.part, t)
        base_sums.update(piece.part, b)
        if observer is not None:
            observer(dtype, b, t)
        if differ is not None:
            largest = max(largest, differ.feed(b, t, counts))
        else:
            found = kernels.survey(b, t, dtype, by_class=False)
            counts += found.steps[0]
            largest = max(largest, found.largest)
        if piece.is_last_of_part:
            by_class = counts.reshape(128, 2).sum(axis=1)
            steps.append((np.trim_zeros(by_class, "b"), largest))
            counts[:], largest = 0, 0
    before, after = base_sums.hex(), target_sums.hex()
    if before == after:
        return _Encoded(b"", before, after, [])
    if choice is None or differ is None:
        t, b = words.whole(piece)
        payload = codec.encode(b, t, dtype, kernels.survey(b, t, dtype))
    else:
        payload = choice.payload(differ)
    return _Encoded(payload, before, after, steps)


def _record(
    manifest: Manifest, bucket: int, encoded: _Encoded, steps_of: dict[int, Counts]
) -> None:
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
        if found is not None and found[1]:
            by_class = steps_of.setdefault(part.tensor, np.zeros(128, np.int64))
            by_class[: found[0].size] += found[0]
            tensor.largest = max(tensor.largest, found[1])
        if part.start + part.n_words == tensor.n_based and part.tensor in steps_of:
            by_class = steps_of.pop(part.tensor)
            tensor.n_stepped, tensor.n_ones = int(by_class.sum()), int(by_class[0])
            tensor.median = median_step(by_class)


def _encode_skeleton(
    manifest: Manifest, index: int, base: Checkpoint, target: Checkpoint
) -> bytes | None:
    """Compressed skeleton of a target file, None if it is that of its dictionary."""
    record = manifest.target_files[index]
    if manifest.skeleton_size(index) > MAX_SKELETON_BYTES:
        raise UnsupportedError("header is too large", file=target.files[index].source.path)
    skeleton = target.files[index].skeleton()
    record.skeleton = checksum.checksum(skeleton)
    dictionary = b""
    if record.dictionary is not None:
        if manifest.base_files[record.dictionary].skeleton == record.skeleton:
            return None
        dictionary = base.files[record.dictionary].skeleton()
    # The slow levels are for headers and tokenizers, not for megabytes.
    level = 19 if len(skeleton) + len(dictionary) <= 1 << 20 else 9
    payload = compress(skeleton, level, dictionary)
    record.skeleton_digest = checksum.digest(payload)
    return payload
