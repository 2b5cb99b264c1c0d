"""Both sides of a bucket, read once: checksums, steps and perhaps code of their words.

Enters: a planned manifest, a bucket's index, and where its words are. Leaves: what was seen of
each part. In one native call where all words lie in files and nobody else wants to see them;
else a piece at a time, which says as well why a file could not be read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate

from sparsediff import kernels
from sparsediff.checksum import PartChecksums
from sparsediff.dtypes import DType
from sparsediff.kernels import Words
from sparsediff.kernels.symbols import N_SYMBOLS, TakenIn, Tiers, class_of
from sparsediff.make.results import Steps
from sparsediff.patch import words
from sparsediff.patch.manifest import Manifest
from sparsediff.patch.words import Source

Observer = Callable[[DType, Words, Words], None]
"""Called, from worker threads, with the base and target words of each based part."""


def take_in(
    manifest: Manifest,
    bucket: int,
    sides: Sequence[Source],
    found: words.Both | None,
    *,
    tiers: Tiers | None = None,
    into: Sequence[Words] | None = None,
    observer: Observer | None = None,
) -> TakenIn:
    """Take in the words of a bucket.

    Args:
        manifest: as planned.
        bucket: index of the bucket.
        sides: where its base words and its target words are.
        found: where those are in open files, as `words.both_extents` says.
        tiers: to code its words in, if they are to be coded.
        into: memory for the words of each side, which keeps them.
        observer: shown each pair of words compared.
    """
    taken = None
    if found is not None and observer is None:
        dtype = words.bucket_dtype(manifest, bucket)
        ends = list(accumulate(manifest.parts[bucket].sizes))
        taken = kernels.take_in(*found, into, ends, words.piece_words(dtype), dtype, tiers)
    return taken or _by_pieces(manifest, bucket, sides, tiers, into, observer)


def _by_pieces(
    manifest: Manifest,
    bucket: int,
    sides: Sequence[Source],
    tiers: Tiers | None,
    into: Sequence[Words] | None,
    observer: Observer | None,
) -> TakenIn:
    """The same a piece at a time."""
    dtype = words.bucket_dtype(manifest, bucket)
    coder = tiers and kernels.Differ(dtype, *tiers)
    base_sums, target_sums = PartChecksums(), PartChecksums()
    steps: list[Steps] = []
    counts, largest = _no_counts(), 0  # of a part
    for run in words.runs(manifest, bucket, sides, into=into):
        b, t = run.words
        words.add_checksums(target_sums, run, t)
        words.add_checksums(base_sums, run, b)
        if observer is not None:
            observer(dtype, b, t)
        if len(run.ends) > 1:
            if coder is not None:
                coder.feed(b, t, _no_counts())
            steps.append(Steps(*kernels.count_parts(b, t, dtype, run.ends)))
            continue
        found = coder.feed(b, t, counts) if coder else kernels.count_steps(b, t, dtype, counts)
        largest = max(largest, found)
        if run.is_last_of_part:
            n = class_of(largest - 1) + 1 if largest else 1
            signs = zip(counts[0 : 2 * n : 2], counts[1 : 2 * n : 2], strict=True)
            steps.append(Steps([[sum(both) for both in signs]], [largest]))
            counts, largest = _no_counts(), 0
    base, target = base_sums.sums(), target_sums.sums()
    payload = kernels.payload_of(coder) if coder is not None and base != target else b""
    return TakenIn(base, target, Steps.joined(steps), payload)


def _no_counts() -> memoryview:
    """Room for the number of each step symbol."""
    return memoryview(bytearray(8 * N_SYMBOLS)).cast("q")
