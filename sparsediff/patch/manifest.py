"""The manifest: what a patch says of itself, as records.

Enters: what `plan` and `make` found out, or what `manifest_json` parsed and
validated. Leaves: files, tensors and buckets, and which words of which tensor
each bucket takes. Knows nothing of how it is stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from sparsediff.dtypes import DType
from sparsediff.errors import CorruptError
from sparsediff.patch.parts import PartsByBucket

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
class Tensor:
    """A tensor of the target and where its base lies.

    Attributes:
        name: its name; empty too for the bytes of an opaque file (`Manifest.names`).
        dtype: element type.
        shape: sizes, C order.
        offset: first byte in its target file.
        base_file: index of the base file it is compared with, or None.
        base_offset: first byte there.
        n_based: words, from the first on, that have a base.
        n_stepped: words, among those, that changed.
        n_ones: how many of them by one step, up or down.
        median: median |step| of them, in ULP.
        largest: largest |step|, in ULP.
        n_bytes: length in bytes; it follows from dtype and shape, and so does
        n_words: length in words.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]
    offset: int
    base_file: int | None = None
    base_offset: int = 0
    n_based: int = 0
    n_stepped: int = 0
    n_ones: int = 0
    median: int = 0
    largest: int = 0
    n_bytes: int = field(init=False)
    n_words: int = field(init=False)

    def __post_init__(self) -> None:
        """Reckon the lengths, which are asked for again and again."""
        self.n_bytes = self.dtype.n_bytes(self.shape) or 0
        self.n_words = self.n_bytes // self.dtype.word_bytes

    @property
    def n_changed(self) -> int:
        """Changed words; those without a base count as changed."""
        return self.n_stepped + self.n_words - self.n_based

    def lies_like(self, other: Tensor) -> bool:
        """Whether target and base of two tensors of one name lie at the same places."""
        return (
            self.offset == other.offset
            and self.shape == other.shape
            and self.dtype is other.dtype
            and self.base_file == other.base_file
            and self.base_offset == other.base_offset
            and self.n_based == other.n_based
        )


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
    tensors: list[Tensor]
    buckets: list[Bucket]
    # Derived from the above by `complete`:
    parts: PartsByBucket = field(default_factory=PartsByBucket)
    """Per bucket, the words it takes."""
    file_tensors: list[range] = field(default_factory=list)
    """Per target file, the indices of its tensors."""
    file_buckets: list[list[int]] = field(default_factory=list)
    """Per target file, the indices of its buckets."""
    _skeleton_sizes: list[int] = field(default_factory=list)
    names: list[str | None] = field(default_factory=list)
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
        for t in (self.tensors[i] for i in self.file_tensors[file]):
            if t.offset > end:
                ranges.append((end, t.offset))
            end = t.offset + t.n_bytes
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
            or not all(map(Tensor.lies_like, self.tensors, other.tensors))
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
        file_of = [i for i, f in enumerate(self.target_files) for _ in range(f.n_tensors)]
        tensors = self.tensors
        self._skeleton_sizes = [
            file.size - sum(t.n_bytes for t in tensors[indices.start : indices.stop])
            for indices, file in zip(self.file_tensors, self.target_files, strict=True)
        ]
        # A format that knows names has a header to keep them in, so no tensor is all of a file.
        self.names = [
            t.name if t.name or t.n_bytes < self.target_files[i].size else None
            for t, i in zip(self.tensors, file_of, strict=True)
        ]
        files = [file_of[b.tensors[0]] for b in self.buckets]
        if files != sorted(files):
            raise CorruptError("buckets are not in the order of the files")
        self.file_buckets = [[] for _ in self.target_files]
        for i, file in enumerate(files):
            self.file_buckets[file].append(i)

        based = [0] * len(self.tensors)  # next word to take
        new = [t.n_based for t in self.tensors]
        self.parts = PartsByBucket()
        for bucket, file in zip(self.buckets, files, strict=True):
            starts: list[int] = []
            sizes: list[int] = []
            left = bucket.n_words
            cursor = based if bucket.base is not None else new
            first = self.tensors[bucket.tensors[0]]
            has_base = bucket.base is not None
            for index in bucket.tensors:
                tensor, start = tensors[index], cursor[index]
                n = (tensor.n_based if has_base else tensor.n_words) - start
                if n > left:
                    n = left
                if n <= 0 or tensor.dtype is not first.dtype or file_of[index] != file:
                    raise CorruptError("bucket does not fit its tensors", tensor=tensor.name)
                starts.append(start)
                sizes.append(n)
                cursor[index] = start + n
                left -= n
            if left:
                raise CorruptError("bucket size does not fit its tensors", tensor=first.name)
            n_bytes = bucket.n_words * first.dtype.word_bytes
            if bucket.n_words > MAX_BUCKET_WORDS or n_bytes > MAX_BUCKET_BYTES:
                raise CorruptError(
                    "bucket is too large", tensor=first.name, found=f"{n_bytes} bytes"
                )
            self.parts.add(bucket.tensors, starts, sizes)
        for tensor, a, b in zip(self.tensors, based, new, strict=True):
            if a != tensor.n_based or b != tensor.n_words:
                raise CorruptError("words of a tensor are in no bucket", tensor=tensor.name)
