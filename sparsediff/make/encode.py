"""Buckets and skeletons of a target to payloads.

Enters: a planned manifest, a bucket's index, and where its words are. Leaves: the
payload, and what the manifest will say of the bucket: checksums and steps of its parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import NamedTuple

from sparsediff import checksum, kernels
from sparsediff.checkpoint import Checkpoint
from sparsediff.checksum import PartChecksums
from sparsediff.codec import bucket as codec
from sparsediff.codec.zstd import compress
from sparsediff.errors import UnsupportedError
from sparsediff.kernels.symbols import TakenIn
from sparsediff.make.intake import Observer, take_in
from sparsediff.make.results import NO_STEPS, Result, Steps
from sparsediff.parallel import Budget
from sparsediff.patch import words
from sparsediff.patch.manifest import MAX_SKELETON_BYTES, Manifest
from sparsediff.patch.words import Source

_WHOLE_BYTES = 1 << 22  # buckets up to here are held in memory and surveyed completely,
_SMALL_BYTES = 1 << 25  # and all those of checkpoints up to here, which takes milliseconds


class Encoded(NamedTuple):
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
    room: Budget | None = None,
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
        room: for both words of buckets that are held, and for their byte planes.
    """
    n_bytes = words.n_bytes(manifest, bucket)
    held = nullcontext() if room is None else room.hold(3 * n_bytes)
    if manifest.buckets[bucket].base is None:
        with held:
            return _encode_new(manifest, bucket, target)
    sides = (base, target)
    found = words.both_extents(manifest, bucket, sides)
    if n_bytes > (_WHOLE_BYTES if target_bytes > _SMALL_BYTES else _SMALL_BYTES):
        choice = _choose_by_sample(manifest, bucket, sides, found)
        if choice is not None:
            return _encode_passing(manifest, bucket, sides, found, choice, observer)
    with held:
        return _encode_held(manifest, bucket, sides, found, observer)


def _encode_new(manifest: Manifest, bucket: int, target: Source) -> Encoded:
    """Encode a bucket that has no base words."""
    sums = PartChecksums()
    (held,) = words.room(manifest, bucket, 1)
    for run in words.runs(manifest, bucket, [target], into=[held]):
        words.add_checksums(sums, run, run.words[0])
    payload = codec.encode(None, held, words.bucket_dtype(manifest, bucket), None)
    return Encoded(payload, Result(sums.sums()[0], checksum.digest(payload)))


def _choose_by_sample(
    manifest: Manifest, bucket: int, sides: Sequence[Source], found: words.Both | None
) -> codec.Choice | None:
    """How to code a large bucket while it passes by; None if it should rather be held."""
    dtype = words.bucket_dtype(manifest, bucket)
    chosen = found and kernels.choose_by_sample(
        *found, words.SAMPLE_STRIDE, words.SAMPLE_BYTES, dtype
    )
    if chosen is None:
        b, t = words.sample(manifest, bucket, sides)
        survey = kernels.survey(b, t, dtype)
        choice = codec.choose(survey, manifest.buckets[bucket].n_words)
        sample = (b, t) if survey.largest else None
    else:
        choice, sample = codec.Choice(*chosen[0]), chosen[1]
    if sample and codec.planes_may_win(*sample, choice, words.n_bytes(manifest, bucket)):
        return None
    return choice


def _encode_passing(
    manifest: Manifest,
    bucket: int,
    sides: Sequence[Source],
    found: words.Both | None,
    choice: codec.Choice,
    observer: Observer | None,
) -> Encoded:
    """Encode a bucket as tiers, holding no more than a piece of it."""
    taken = take_in(manifest, bucket, sides, found, tiers=choice.tiers, observer=observer)
    return _encoded(taken.payload, taken)


def _encode_held(
    manifest: Manifest,
    bucket: int,
    sides: Sequence[Source],
    found: words.Both | None,
    observer: Observer | None,
) -> Encoded:
    """Encode a bucket the smallest way there is, holding all its words."""
    dtype = words.bucket_dtype(manifest, bucket)
    held = words.room(manifest, bucket, 2)
    taken = take_in(manifest, bucket, sides, found, into=held, observer=observer)
    if taken.is_same:
        return _encoded(b"", taken)
    b, t = held
    return _encoded(codec.encode(b, t, dtype, kernels.survey(b, t, dtype)), taken)


def _encoded(payload: bytes, taken: TakenIn) -> Encoded:
    (base, locators), (target, _) = taken.base, taken.target
    digest = checksum.digest(payload) if payload else None
    steps = NO_STEPS if taken.is_same else Steps(*taken.counts)
    return Encoded(payload, Result(target, digest, base, locators, steps))


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
