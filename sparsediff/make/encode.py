"""Buckets and skeletons of a target to payloads.

Enters: a planned manifest, a bucket's index, and where its words are. Leaves: the
payload, and what the manifest will say of the bucket: checksums and steps of its parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from sparsediff import checksum, kernels
from sparsediff.checkpoint import Checkpoint
from sparsediff.checksum import PartChecksums
from sparsediff.codec import bucket as codec
from sparsediff.codec.zstd import compress
from sparsediff.dtypes import DType
from sparsediff.errors import UnsupportedError
from sparsediff.kernels import Words
from sparsediff.kernels.numbers import class_of
from sparsediff.make.results import N_CLASSES, NO_STEPS, Result, Steps
from sparsediff.patch import words
from sparsediff.patch.counts import Counts
from sparsediff.patch.manifest import MAX_SKELETON_BYTES, Manifest
from sparsediff.patch.words import Run, Source

_WHOLE_BYTES = 1 << 22  # buckets up to here are held in memory and surveyed completely,
_SMALL_BYTES = 1 << 25  # and all those of checkpoints up to here, which takes milliseconds

Observer = Callable[[DType, Words, Words], None]
"""Called, from worker threads, with the base and target words of each based part."""

_Feed = Callable[[Words, Words, Counts], int]
"""Adds the steps from base to target words to the counts; returns the largest."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One encoded skeleton or bucket.

    Attributes:
        payload: empty if the target is what it was in the base.
        result: what the manifest will say of it.
    """

    payload: bytes
    result: Result


def encode_bucket(
    manifest: Manifest,
    bucket: int,
    base: Source,
    target: Source,
    target_bytes: int,
    observer: Observer | None,
) -> Encoded:
    """Encode one bucket of target words, against base words if it has any.

    Small and dense ones are held whole, so that every way to code them can be tried; of
    the others a sample decides how they are coded while they are read.

    Args:
        manifest: as planned.
        bucket: index of the bucket.
        base: where its base words are; not asked if it has none.
        target: where its target words are.
        target_bytes: size of the whole target.
        observer: shown each pair of words compared.
    """
    if manifest.buckets[bucket].base is None:
        return _encode_new(manifest, bucket, target)
    n_bytes = words.n_bytes(manifest, bucket)
    if n_bytes > (_WHOLE_BYTES if target_bytes > _SMALL_BYTES else _SMALL_BYTES):
        choice = _choose_by_sample(manifest, bucket, base, target)
        if choice is not None:
            return _encode_passing(manifest, bucket, base, target, choice, observer)
    return _encode_held(manifest, bucket, base, target, observer)


def _encode_new(manifest: Manifest, bucket: int, target: Source) -> Encoded:
    """Encode a bucket that has no base words."""
    sums = PartChecksums()
    (held,) = words.room(manifest, bucket, 1)
    for run in words.runs(manifest, bucket, [target], into=[held]):
        words.add_checksums(sums, run, run.words[0])
    payload = codec.encode(None, held, words.bucket_dtype(manifest, bucket), None)
    return Encoded(payload, Result(checksum.combine(sums.hex()), checksum.digest(payload)))


def _choose_by_sample(
    manifest: Manifest, bucket: int, base: Source, target: Source
) -> codec.Choice | None:
    """How to code a large bucket while it passes by; None if it should rather be held."""
    b, t = words.sample(manifest, bucket, [base, target])
    found = kernels.survey(b, t, words.bucket_dtype(manifest, bucket))
    choice = codec.choose(found, manifest.buckets[bucket].n_words)
    n_bytes = words.n_bytes(manifest, bucket)
    if found.changed.any() and codec.planes_may_win(b, t, choice, n_bytes):
        return None
    return choice


def _encode_passing(
    manifest: Manifest,
    bucket: int,
    base: Source,
    target: Source,
    choice: codec.Choice,
    observer: Observer | None,
) -> Encoded:
    """Encode a bucket as tiers, holding no more than a piece of it."""
    dtype = words.bucket_dtype(manifest, bucket)
    differ = choice.differ(dtype)
    runs = words.runs(manifest, bucket, [base, target])
    found = _taken_in(runs, dtype, differ.feed, observer)
    return _encoded(b"" if found.is_same else choice.payload(differ), found)


def _encode_held(
    manifest: Manifest, bucket: int, base: Source, target: Source, observer: Observer | None
) -> Encoded:
    """Encode a bucket the smallest way there is, holding all its words."""
    dtype = words.bucket_dtype(manifest, bucket)
    held = words.room(manifest, bucket, 2)
    runs = words.runs(manifest, bucket, [base, target], into=held)
    taken = _taken_in(runs, dtype, None, observer)
    if taken.is_same:
        return _encoded(b"", taken)
    b, t = held
    return _encoded(codec.encode(b, t, dtype, kernels.survey(b, t, dtype)), taken)


@dataclass(frozen=True, slots=True)
class _Taken:
    """What was seen while the words of a bucket were read: checksums and steps, per part."""

    base: list[str]
    target: list[str]
    steps: Steps

    @property
    def is_same(self) -> bool:
        """Whether nothing changed."""
        return self.base == self.target


def _encoded(payload: bytes, taken: _Taken) -> Encoded:
    return Encoded(
        payload,
        Result(
            target=checksum.combine(taken.target),
            digest=checksum.digest(payload) if payload else None,
            base=checksum.combine(taken.base),
            locators="".join(map(checksum.locator, taken.base)),
            steps=NO_STEPS if taken.is_same else taken.steps,
        ),
    )


def _taken_in(
    runs: Iterator[Run], dtype: DType, feed: _Feed | None, observer: Observer | None
) -> _Taken:
    """Take in words that are read just once; ``feed``, if given, codes them."""
    base_sums, target_sums = PartChecksums(), PartChecksums()
    steps: list[Steps] = []
    counts, largest = np.zeros((1, 2 * N_CLASSES), np.int64), 0  # of a part
    for run in runs:
        b, t = run.words
        words.add_checksums(target_sums, run, t)
        words.add_checksums(base_sums, run, b)
        if observer is not None:
            observer(dtype, b, t)
        if len(run.ends) > 1:
            if feed is not None:
                feed(b, t, np.zeros(2 * N_CLASSES, np.int64))
            steps.append(Steps(*kernels.count_parts(b, t, dtype, run.ends)))
            continue
        found = feed(b, t, counts[0]) if feed else kernels.count_steps(b, t, dtype, counts[0])
        largest = max(largest, found)
        if run.is_last_of_part:
            n = class_of(largest - 1) + 1 if largest else 1
            by_class = counts[:, 0 : 2 * n : 2] + counts[:, 1 : 2 * n : 2]  # signs do not matter
            steps.append(Steps(by_class, [largest]))
            counts[:], largest = 0, 0
    return _Taken(base_sums.hex(), target_sums.hex(), Steps.joined(steps))


def encode_skeleton(
    manifest: Manifest, index: int, base: Checkpoint, target: Checkpoint
) -> Encoded:
    """Compress the skeleton of a target file; no payload if it is that of its dictionary.

    Raises:
        UnsupportedError: it is too large for a patch.
    """
    if manifest.skeleton_size(index) > MAX_SKELETON_BYTES:
        raise UnsupportedError("header is too large", file=target.files[index].source.path)
    dictionary_file = manifest.target_files[index].dictionary
    skeleton = target.files[index].skeleton()
    found = checksum.checksum(skeleton)
    dictionary = b""
    if dictionary_file is not None:
        if manifest.base_files[dictionary_file].skeleton == found:
            return Encoded(b"", Result(found))
        dictionary = base.files[dictionary_file].skeleton()
    # The slow levels are for headers and tokenizers, not for megabytes.
    level = 19 if len(skeleton) + len(dictionary) <= 1 << 20 else 9
    payload = compress(skeleton, level, dictionary)
    return Encoded(payload, Result(found, checksum.digest(payload)))
