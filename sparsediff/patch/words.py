"""The words of one bucket, piece by piece from files and piece by piece to files.

Enters: a manifest, a bucket's index, and where its files are. Leaves: words,
a few hundred kilobytes at a time, which stay in the cache while they are hashed,
compared and coded. The only module that joins buckets to file offsets.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from sparsediff import kernels
from sparsediff.checksum import LOCATOR_DIGITS, PartChecksums, Sums
from sparsediff.dtypes import DType
from sparsediff.errors import WrongBaseError
from sparsediff.kernels import Extents, Words
from sparsediff.patch.manifest import MAX_BUCKET_WORDS, Manifest
from sparsediff.patch.parts import Part

PIECE_BYTES = 1 << 20  # few enough calls, and base and target stay in the cache
MAX_RUN_PARTS = 1 << 12  # few enough that counts of each take little memory
SAMPLE_BYTES = 1 << 15  # one run of a sample
SAMPLE_STRIDE = 1 << 20  # from one run to the next

Both = tuple[Extents, Extents]  # of base and target
Reader = Callable[[int, int, Any], None]  # file index, offset in bytes, buffer to fill
Locator = Callable[[int, int, int], tuple[int, int] | None]
"""File index, offset and size in bytes to descriptor and offset."""


class Source(NamedTuple):
    """One side of a bucket.

    Attributes:
        place: file index and offset in bytes of a tensor, by its row.
        read: fills a buffer from such a file.
        locate: where in an open file on disk that is; None if it is elsewhere.
    """

    place: Callable[[int], tuple[int, int]]
    read: Reader
    locate: Locator = lambda *_: None


NOTHING = Source(lambda _: (0, 0), lambda *_: None)
"""The side that a bucket without base words has there: memory to be filled."""


class Run(NamedTuple):
    """Words that follow each other in a bucket: a piece of one part, or several whole parts.

    Attributes:
        part: index in the bucket of the first part.
        parts: what words they are.
        ends: where each part ends among the words.
        words: the words of each source that was read, (ends[-1],) each.
        is_whole: whether they are whole parts.
        is_last_of_part: whether the next run, if any, is of the next part.
    """

    part: int
    parts: Sequence[Part]
    ends: list[int]
    words: list[Words]
    is_whole: bool
    is_last_of_part: bool


def base_source(manifest: Manifest, read: Reader, locate: Locator = lambda *_: None) -> Source:
    """Where the base words of buckets are."""
    files, offsets = manifest.tensors.base_files, manifest.tensors.base_offsets

    def place(index: int) -> tuple[int, int]:
        file = files[index]
        assert file is not None  # only buckets with a base come here
        return file, offsets[index]

    return Source(place, read, locate)


def target_source(
    manifest: Manifest, file: int, read: Reader, locate: Locator = lambda *_: None
) -> Source:
    """Where the target words of the buckets of target file ``file`` are."""
    offsets = manifest.tensors.offsets
    return Source(lambda index: (file, offsets[index]), read, locate)


def bucket_dtype(manifest: Manifest, bucket: int) -> DType:
    """Element type of a bucket."""
    return manifest.tensors.dtypes[manifest.buckets[bucket].tensors[0]]


def n_bytes(manifest: Manifest, bucket: int) -> int:
    """Size of a bucket's words."""
    return manifest.buckets[bucket].n_words * bucket_dtype(manifest, bucket).word_bytes


def runs(
    manifest: Manifest,
    bucket: int,
    sources: Sequence[Source],
    *,
    into: Sequence[Words] | None = None,
) -> Iterator[Run]:
    """The words of a bucket in order, of which there may be very many small parts.

    What lies side by side in a file is read at once.

    Args:
        manifest: of the patch.
        bucket: index of the bucket.
        sources: sides to read.
        into: memory for each source, as `room` gives; it holds all words of the bucket
            in the end. Without it, a run is overwritten by the next.
    """
    dtype = bucket_dtype(manifest, bucket)
    limit = piece_words(dtype)
    memory = into or room(manifest, bucket, len(sources), at_most=limit)
    parts = manifest.parts[bucket]
    lengths = parts.sizes
    cut: list[tuple[Sequence[Part], list[int]]]
    at = first = 0
    while first < len(parts):
        ends = [*accumulate(lengths[first : first + MAX_RUN_PARTS])]
        del ends[bisect_right(ends, limit) :]
        taken = first + len(ends)
        part = parts[first]
        if ends:
            cut = [(parts[first:taken], ends)]
        else:
            starts = range(0, part.n_words, limit)
            sizes = [min(limit, part.n_words - start) for start in starts]
            cut = [
                ([Part(part.tensor, part.start + start, size)], [size])
                for start, size in zip(starts, sizes, strict=True)
            ]
        for i, (found, until) in enumerate(cut, 1):
            views = [m[at : at + until[-1]] for m in memory]
            for source, view in zip(sources, views, strict=True):
                _fill(source, found, dtype.word_bytes, view)
            yield Run(first, found, until, views, bool(ends), i == len(cut))
            if into is not None:
                at += until[-1]
        first = max(taken, first + 1)


def batches(
    manifest: Manifest, buckets: Iterable[int], is_alone: Callable[[int], bool] = lambda _: False
) -> Iterator[range]:
    """Buckets of a file, in order; small ones in a row, of which there may be very many, together.

    Args:
        manifest: of the patch.
        buckets: their indices.
        is_alone: whether a bucket is not to be together with others.
    """
    batch, is_open, n_words, n_parts = range(0), False, 0, 0
    for bucket in buckets:
        size, parts = manifest.buckets[bucket].n_words, manifest.parts.n_of(bucket)
        n_words, n_parts, alone = n_words + size, n_parts + parts, is_alone(bucket)
        dtype = bucket_dtype(manifest, bucket)
        if (
            is_open
            and not alone
            and bucket == batch.stop
            and dtype is bucket_dtype(manifest, batch.start)
            and n_words <= piece_words(dtype)
            and n_parts <= MAX_RUN_PARTS
        ):
            batch = range(batch.start, bucket + 1)
            continue
        if batch:
            yield batch
        batch, is_open, n_words, n_parts = range(bucket, bucket + 1), not alone, size, parts
    if batch:
        yield batch


def sums_of(manifest: Manifest, batch: range, source: Source) -> list[str]:
    """Checksum of each bucket of one of `batches`, on one side."""
    if len(batch) > 1:
        return joined(manifest, batch, source)[1]
    return [checksums(manifest, bucket, source)[0] for bucket in batch]


def joined(manifest: Manifest, buckets: range, source: Source) -> tuple[Run, list[str]]:
    """The words of one of `batches`, and the checksum of each bucket.

    Args:
        manifest: of the patch.
        buckets: the batch.
        source: side to read.
    """
    dtype = bucket_dtype(manifest, buckets.start)
    parts = manifest.parts.joined(buckets)
    ends = [*accumulate(parts.sizes)]
    read = kernels.room(ends[-1], dtype)
    _fill(source, parts, dtype.word_bytes, read)
    sums = PartChecksums()
    sums.extend(read, [end * dtype.word_bytes for end in ends])
    found = sums.of_several(map(manifest.parts.n_of, buckets))
    return Run(0, parts, ends, [read], True, True), found


def extents(manifest: Manifest, bucket: int, source: Source) -> Extents | None:
    """Where the words of a bucket are in open files; None if some are elsewhere."""
    found, word_bytes = [], bucket_dtype(manifest, bucket).word_bytes
    for file, offset, words in _side_by_side(source.place, manifest.parts[bucket], word_bytes):
        n_bytes = (words.stop - words.start) * word_bytes
        place = source.locate(file, offset, n_bytes)
        if place is None:
            return None
        found.append((*place, n_bytes))
    return found


def both_extents(manifest: Manifest, bucket: int, sources: Sequence[Source]) -> Both | None:
    """`extents` of two sides; None if some words of one are elsewhere, or in very many parts."""
    if len(manifest.parts[bucket]) > MAX_RUN_PARTS:
        return None
    base, target = sources
    found = extents(manifest, bucket, base), extents(manifest, bucket, target)
    return None if found[0] is None or found[1] is None else (found[0], found[1])


def _fill(source: Source, parts: Sequence[Part], word_bytes: int, view: Words) -> None:
    """Read the words of parts, one after the other; what lies side by side at once."""
    for file, offset, words in _side_by_side(source.place, parts, word_bytes):
        source.read(file, offset, view[words])


def target_places(manifest: Manifest, run: Run) -> Iterator[tuple[int, Words]]:
    """Words of a run that lie side by side in the target file, and at which offset, in bytes."""
    offsets, (read,) = manifest.tensors.offsets, run.words
    for _, offset, words in _side_by_side(
        lambda index: (0, offsets[index]), run.parts, read.itemsize
    ):
        yield offset, read[words]


def _side_by_side(
    place: Callable[[int], tuple[int, int]], parts: Sequence[Part], word_bytes: int
) -> Iterator[tuple[int, int, slice]]:
    """Where parts lie, those side by side as one: file, offset, and which of their words."""
    file, begin, end, at = -1, 0, 0, 0
    for tensor, start, n_words in parts:
        part_file, offset = place(tensor)
        offset += start * word_bytes
        if part_file != file or offset != end:
            n = (end - begin) // word_bytes
            if n:
                yield file, begin, slice(at, at + n)
            at += n
            file, begin, end = part_file, offset, offset
        end += n_words * word_bytes
    yield file, begin, slice(at, at + (end - begin) // word_bytes)


def piece_words(dtype: DType) -> int:
    """Most words of a piece."""
    return PIECE_BYTES // dtype.word_bytes


def room(
    manifest: Manifest, bucket: int, n: int, *, at_most: int = MAX_BUCKET_WORDS
) -> list[Words]:
    """Memory for the words of a bucket, all or ``at_most``, ``n`` times, not yet filled."""
    dtype, n_words = bucket_dtype(manifest, bucket), manifest.buckets[bucket].n_words
    return [kernels.room(min(n_words, at_most), dtype) for _ in range(n)]


def sample(manifest: Manifest, bucket: int, sources: Sequence[Source]) -> tuple[Words, Words]:
    """One in 32 of a bucket's words on two sides, in runs spread evenly over it.

    Args:
        manifest: of the patch.
        bucket: index of the bucket.
        sources: both sides.
    """
    dtype = bucket_dtype(manifest, bucket)
    parts = manifest.parts[bucket]
    n_words = manifest.buckets[bucket].n_words
    ends = list(accumulate(parts.sizes))
    stride, length = SAMPLE_STRIDE // dtype.word_bytes, SAMPLE_BYTES // dtype.word_bytes
    starts = range(0, n_words, stride)
    total = sum(min(length, n_words - s) for s in starts)
    memory = [kernels.room(total, dtype) for _ in sources]
    at = 0
    for start in starts:
        end = min(start + length, n_words)
        while start < end:
            index = bisect_right(ends, start)
            part = parts[index]
            n = min(end, ends[index]) - start
            skip = part.start + start - (ends[index] - part.n_words)
            for source, m in zip(sources, memory, strict=True):
                file, offset = source.place(part.tensor)
                source.read(file, offset + skip * dtype.word_bytes, m[at : at + n])
            at += n
            start += n
    return memory[0], memory[1]


def checksums(manifest: Manifest, bucket: int, source: Source) -> Sums:
    """Checksums of the parts of a bucket's words on one side."""
    sums = PartChecksums()
    for run in runs(manifest, bucket, [source]):
        add_checksums(sums, run, run.words[0])
    return sums.sums()


def add_checksums(sums: PartChecksums, run: Run, read: Words) -> None:
    """Add the words of a run, of one source."""
    if run.is_whole:
        sums.extend(read, [end * read.itemsize for end in run.ends])
    else:
        sums.update(run.part, read)


def check_base(
    manifest: Manifest, bucket: int, sums: Sums, name_of: Callable[[int], object]
) -> None:
    """Compare the base words' checksums with those of the patch.

    Args:
        manifest: of the patch.
        bucket: index of the bucket.
        sums: of its parts, as read.
        name_of: path of a base file, by its index, for the message.

    Raises:
        WrongBaseError: naming the first tensor that differs.
    """
    record = manifest.buckets[bucket]
    found, locators = sums
    if found == record.base:
        return
    parts = manifest.parts[bucket]
    starts = range(0, len(locators), k := LOCATOR_DIGITS)
    differ = (i for i in starts if locators[i : i + k] != record.locators[i : i + k])
    first = parts[next(differ, 0) // k]
    tensor = manifest.tensors[first.tensor]
    assert tensor.base_file is not None
    raise WrongBaseError(
        "wrong base: these words are already the target's"
        if found == record.target
        else "wrong base: these are not the words the patch was made from",
        file=name_of(tensor.base_file),
        tensor=manifest.names[first.tensor],
        offset=tensor.base_offset + first.start * tensor.dtype.word_bytes,
        expected=f"checksum {record.base}",
        found=found,
    )
