"""Both sides of a bucket, read once: checksums, steps and perhaps code of their words.

Enters: a planned manifest, a bucket's index, and where its words are. Leaves: what was seen of
each part. In one native call where all words lie in files and nobody else wants to see them;
else a piece at a time, which says as well why a file could not be read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import NamedTuple

from sparsediff import kernels
from sparsediff.checksum import PartChecksums, Sums
from sparsediff.dtypes import DType
from sparsediff.kernels import Differ, Words
from sparsediff.kernels.symbols import N_SYMBOLS, class_of
from sparsediff.make.results import Steps
from sparsediff.patch import words
from sparsediff.patch.manifest import Manifest
from sparsediff.patch.words import Source

Observer = Callable[[DType, Words, Words], None]
"""Called, from worker threads, with the base and target words of each based part."""


class Taken(NamedTuple):
    """What was seen while the words of a bucket were read.

    Attributes:
        base: checksums of the parts' base words.
        target: of their target words.
        steps: from those to these.
        payload: of all of them, if they were coded and any changed.
    """

    base: Sums
    target: Sums
    steps: Steps
    payload: bytes

    @property
    def is_same(self) -> bool:
        """Whether nothing changed."""
        return self.base == self.target


def take_in(
    manifest: Manifest,
    bucket: int,
    sides: Sequence[Source],
    found: words.Both | None,
    *,
    differ: Callable[[], Differ] | None = None,
    into: Sequence[Words] | None = None,
    observer: Observer | None = None,
) -> Taken:
    """Take in the words of a bucket.

    Args:
        manifest: as planned.
        bucket: index of the bucket.
        sides: where its base words and its target words are.
        found: where those are in open files, as `words.both_extents` says.
        differ: makes a coder of its words, if they are to be coded.
        into: memory for the words of each side, which keeps them.
        observer: shown each pair of words compared.
    """
    taken = None
    if found is not None and observer is None:
        taken = _at_once(manifest, bucket, found, differ, into)
    return taken or _by_pieces(manifest, bucket, sides, differ, into, observer)


def _at_once(
    manifest: Manifest,
    bucket: int,
    found: words.Both,
    differ: Callable[[], Differ] | None,
    into: Sequence[Words] | None,
) -> Taken | None:
    """The same in one call; None if there is none for such a bucket, or it came to nothing."""
    dtype = words.bucket_dtype(manifest, bucket)
    ends = list(accumulate(part.n_words for part in manifest.parts[bucket]))
    coder = differ and differ()
    seen = kernels.take_in(*found, into, ends, words.piece_words(dtype), dtype, coder)
    if seen is None:
        return None
    return Taken(seen.base, seen.target, Steps(*seen.counts), seen.payload)


def _by_pieces(
    manifest: Manifest,
    bucket: int,
    sides: Sequence[Source],
    differ: Callable[[], Differ] | None,
    into: Sequence[Words] | None,
    observer: Observer | None,
) -> Taken:
    """The same a piece at a time."""
    dtype = words.bucket_dtype(manifest, bucket)
    coder = differ and differ()
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
    return Taken(base, target, Steps.joined(steps), payload)


def _no_counts() -> memoryview:
    """Room for the number of each step symbol."""
    return memoryview(bytearray(8 * N_SYMBOLS)).cast("q")
