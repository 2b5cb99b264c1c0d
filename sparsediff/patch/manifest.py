"""The manifest: what a patch says of itself, as records.

Enters: what `plan` and `make` found out, or what `manifest_json` parsed and
validated. Leaves: files, tensors and buckets, and which words of which tensor
each bucket takes. Knows nothing of how it is stored.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from sparsediff.errors import CorruptError
from sparsediff.patch.parts import PartsByBucket
from sparsediff.patch.tensors import Tensors

MAX_BUCKET_WORDS = 1 << 24
MAX_BUCKET_BYTES = 1 << 26
MAX_SKELETON_BYTES = 1 << 27

BUCKET_BYTES = 1 << 25  # those that `make` cuts; memory is reckoned in multiples of it


@dataclass(slots=True)
class BaseFile:
    """A file of the base.

    Attributes:
        name: relative path; empty if the base is a single file.
        size: bytes.
        layout: lengths in bytes, by turns of skeleton and of tensors, the
            first of skeleton; they add up to ``size``.
        skeleton: checksum of the skeleton.
    """

    name: str
    size: int
    layout: list[int]
    skeleton: str

    def skeleton_ranges(self) -> list[tuple[int, int]]:
        """Begin and end of each run of skeleton, in bytes."""
        ends = list(accumulate(self.layout))
        return [(end - n, end) for n, end in zip(self.layout[::2], ends[::2], strict=True) if n]


@dataclass(slots=True)
class TargetFile:
    """A file of the target.

    Attributes:
        name: relative path; empty if the target is a single file.
        size: bytes.
        n_tensors: how many of the manifest's tensors lie in it.
        skeleton: checksum of its skeleton.
        dictionary: index of the base file whose skeleton is the dictionary.
        skeleton_digest: SHA-256 of the stored skeleton; None if it is the
            dictionary itself.
    """

    name: str
    size: int
    n_tensors: int
    skeleton: str
    dictionary: int | None
    skeleton_digest: str | None


@dataclass(slots=True)
class Bucket:
    """A run of words that are coded together.

    Attributes:
        tensors: indices of the tensors it takes words from, in order.
        n_words: how many words it takes: what is left of each tensor, of the
            last one perhaps less.
        base: checksum of the base words, None if they have none.
        locators: 2 hex digits per tensor, to name the one that differs.
        target: checksum of the target words; None if equal to ``base``.
        digest: SHA-256 of the payload; None if there is none, the words being
            those of the base.
    """

    tensors: Sequence[int]
    n_words: int
    base: str | None = None
    locators: str = ""
    target: str | None = None
    digest: str | None = None


@dataclass(slots=True)
class Manifest:
    """Everything a patch says of itself; see the records it is made of."""

    base_is_directory: bool
    base_files: list[BaseFile]
    target_is_directory: bool
    target_files: list[TargetFile]
    tensors: Tensors
    buckets: list[Bucket]
    # Derived from the above by `complete`:
    parts: PartsByBucket = field(default_factory=PartsByBucket.empty)
    """Per bucket, the words it takes."""
    file_tensors: list[range] = field(default_factory=list)
    """Per target file, the indices of its tensors."""
    file_buckets: list[list[int]] = field(default_factory=list)
    """Per target file, the indices of its buckets."""
    _skeleton_sizes: list[int] = field(default_factory=list)
    names: Sequence[str | None] = ()
    """Per tensor its name, which may be empty; None for the bytes of a file of no known format."""

    def known(self) -> Sequence[int]:
        """Indices of the tensors of files of known formats; of all where there are no others."""
        every = range(len(self.names))
        if None not in self.names:
            return every
        return [i for i in every if self.names[i] is not None] or every

    def skeleton_size(self, file: int) -> int:
        """Bytes of a target file that lie outside its tensors."""
        return self._skeleton_sizes[file]

    def skeleton_ranges(self, file: int) -> list[tuple[int, int]]:
        """Begin and end of each run of skeleton in a target file, in bytes."""
        ranges, end = [], 0
        rows = slice(self.file_tensors[file].start, self.file_tensors[file].stop)
        for offset, n in zip(self.tensors.offsets[rows], self.tensors.n_bytes[rows], strict=True):
            if offset > end:
                ranges.append((end, offset))
            end = offset + n
        size = self.target_files[file].size
        return ranges + ([(end, size)] if size > end else [])

    def payload_names(self) -> list[str]:
        """Names of the payloads in the order they are stored: per file, skeleton then buckets."""
        names = []
        for i, (file, buckets) in enumerate(zip(self.target_files, self.file_buckets, strict=True)):
            if file.skeleton_digest is not None:
                names.append(f"skeleton.{i}")
            names += [f"bucket.{b}" for b in buckets if self.buckets[b].digest is not None]
        return names

    def share(self, other: Manifest) -> None:
        """Hold only once in memory what is the same in the manifest of the patch before.

        From step to step of training tensors stay where they are and buckets are cut alike:
        then a manifest keeps little more than the checksums and digests of its own. What it
        said of the steps of its tensors is given up for what the other says, and locators
        are given up altogether, so that an error may name a neighbour of the tensor it is about.
        """
        for own, old in zip(self.base_files, other.base_files, strict=False):
            if own.layout == old.layout:
                own.layout = old.layout
        if (
            self.names != other.names
            or self.parts != other.parts
            or self.file_tensors != other.file_tensors
            or not self.tensors.lie_like(other.tensors)
        ):
            return
        self.names, self.tensors, self.parts = other.names, other.tensors, other.parts
        self.file_tensors = other.file_tensors
        if self.file_buckets == other.file_buckets:
            self.file_buckets = other.file_buckets
        for bucket, like in zip(self.buckets, other.buckets, strict=True):
            bucket.tensors, bucket.locators = like.tensors, ""

    def complete(self) -> None:
        """Fill in which tensors and buckets belong to which file, and which words to which bucket.

        A bucket with a base takes words that have one, a bucket without takes
        those that have none.

        Raises:
            CorruptError: some word belongs to no bucket or to two.
        """
        ends = list(accumulate(f.n_tensors for f in self.target_files))
        self.file_tensors = [
            range(e - f.n_tensors, e) for e, f in zip(ends, self.target_files, strict=True)
        ]
        tensors = self.tensors
        self._skeleton_sizes = [
            file.size - sum(tensors.n_bytes[rows.start : rows.stop])
            for rows, file in zip(self.file_tensors, self.target_files, strict=True)
        ]
        self.names = self._names()
        files = [bisect_right(ends, b.tensors[0]) for b in self.buckets]
        if files != sorted(files):
            raise CorruptError("buckets are not in the order of the files")
        self.file_buckets = [[] for _ in self.target_files]
        for i, file in enumerate(files):
            self.file_buckets[file].append(i)

        dtypes, n_based, n_words = tensors.dtypes, tensors.n_based, tensors.n_words
        based = array("q", bytes(8 * len(tensors)))  # next word to take
        new = n_based[:]
        parts = array("i"), array("q"), array("q")
        add_row, add_start, add_size = (column.append for column in parts)
        end_of_bucket = array("q", [0])
        for bucket, file in zip(self.buckets, files, strict=True):
            cursor, limit = (new, n_words) if bucket.base is None else (based, n_based)
            rows, left = bucket.tensors, bucket.n_words
            dtype, end_of_file = dtypes[rows[0]], ends[file]
            for row in rows:
                start = cursor[row]
                n = min(limit[row] - start, left)
                if n <= 0 or dtypes[row] is not dtype or row >= end_of_file:
                    name = tensors.names[row]
                    raise CorruptError("bucket does not fit its tensors", tensor=name)
                add_row(row)
                add_start(start)
                add_size(n)
                cursor[row] = start + n
                left -= n
            end_of_bucket.append(len(parts[0]))
            if left:
                name = tensors.names[rows[0]]
                raise CorruptError("bucket size does not fit its tensors", tensor=name)
            n_bytes = bucket.n_words * dtype.word_bytes
            if bucket.n_words > MAX_BUCKET_WORDS or n_bytes > MAX_BUCKET_BYTES:
                name, found = tensors.names[rows[0]], f"{n_bytes} bytes"
                raise CorruptError("bucket is too large", tensor=name, found=found)
        self.parts = PartsByBucket(parts, end_of_bucket)
        if based != tensors.n_based or new != tensors.n_words:
            taken = zip(based, tensors.n_based, new, tensors.n_words, strict=True)
            row = next(i for i, (a, n, b, m) in enumerate(taken) if a != n or b != m)
            raise CorruptError("words of a tensor are in no bucket", tensor=tensors.names[row])

    def _names(self) -> Sequence[str | None]:
        """See `names`: a format that knows names has a header to keep them in."""
        names = self.tensors.names
        if "" not in names:
            return names
        sizes = (f.size for f in self.target_files for _ in range(f.n_tensors))
        lengths = zip(names, self.tensors.n_bytes, sizes, strict=True)
        return [name if name or n < size else None for name, n, size in lengths]
