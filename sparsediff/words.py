"""The words of one bucket, gathered from files and scattered to files.

Enters: a manifest, a bucket's index, and where its files are. Leaves: one
contiguous array of words and the checksum of each part, or those words
written to their places. The only module that joins buckets to file offsets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from sparsediff import checksum
from sparsediff.dtypes import DType
from sparsediff.errors import WrongBaseError
from sparsediff.kernels import Words
from sparsediff.manifest import Manifest

Reader = Callable[[int, int, Any], None]  # file index, offset in bytes, buffer to fill
Writer = Callable[[int, int, Any], None]  # file index, offset in bytes, data


def bucket_dtype(manifest: Manifest, bucket: int) -> DType:
    """Element type of a bucket."""
    return manifest.tensors[manifest.buckets[bucket].tensors[0]].dtype


def gather_base(manifest: Manifest, bucket: int, read: Reader) -> tuple[Words, list[str]]:
    """Base words of a bucket, (n_words,), and the checksum of each part."""
    tensors = manifest.tensors

    def place(index: int) -> tuple[int, int]:
        file = tensors[index].base_file
        assert file is not None  # only buckets with a base come here
        return file, tensors[index].base_offset

    return _gather(manifest, bucket, read, place)


def gather_target(
    manifest: Manifest, bucket: int, file: int, read: Reader
) -> tuple[Words, list[str]]:
    """Target words of a bucket, (n_words,), and the checksum of each part."""
    return _gather(manifest, bucket, read, lambda index: (file, manifest.tensors[index].offset))


def _gather(
    manifest: Manifest, bucket: int, read: Reader, place: Callable[[int], tuple[int, int]]
) -> tuple[Words, list[str]]:
    dtype = bucket_dtype(manifest, bucket)
    words = np.empty(manifest.buckets[bucket].n_words, dtype.numpy)
    sums = []
    for part, piece in zip(manifest.parts[bucket], split(manifest, bucket, words), strict=True):
        file, offset = place(part.tensor)
        read(file, offset + part.start * dtype.word_bytes, piece)
        sums.append(checksum.checksum(piece))
    return words, sums


def split(manifest: Manifest, bucket: int, words: Words) -> list[Words]:
    """Views of a bucket's words, part by part."""
    ends = np.cumsum([p.n_words for p in manifest.parts[bucket]])
    return np.split(words, ends[:-1])


def part_checksums(manifest: Manifest, bucket: int, words: Words) -> list[str]:
    """Checksum of each part of a bucket's words."""
    return [checksum.checksum(piece) for piece in split(manifest, bucket, words)]


def scatter(manifest: Manifest, bucket: int, file: int, words: Words, write: Writer) -> None:
    """Write a bucket's target words to their places in target file ``file``."""
    for part, piece in zip(manifest.parts[bucket], split(manifest, bucket, words), strict=True):
        write(file, manifest.tensors[part.tensor].offset + part.start * words.itemsize, piece)


def check_base(
    manifest: Manifest, bucket: int, sums: list[str], name_of: Callable[[int], object]
) -> None:
    """Compare the base words' checksums with those of the patch.

    Args:
        manifest: of the patch.
        bucket: index of the bucket.
        sums: checksum of each part, as read.
        name_of: path of a base file, by its index, for the message.

    Raises:
        WrongBaseError: naming the first tensor that differs.
    """
    record = manifest.buckets[bucket]
    found = checksum.combine(sums)
    if found == record.base:
        return
    parts = manifest.parts[bucket]
    k = checksum.LOCATOR_DIGITS
    stored = [record.locators[k * i : k * i + k] for i in range(len(parts))]
    differs = [i for i, s in enumerate(sums) if checksum.locator(s) != stored[i]]
    first = parts[differs[0] if differs else 0]
    tensor = manifest.tensors[first.tensor]
    assert tensor.base_file is not None
    raise WrongBaseError(
        "wrong base: these words are already the target's"
        if found == record.target
        else "wrong base: these are not the words the patch was made from",
        file=name_of(tensor.base_file),
        tensor=tensor.name or None,
        offset=tensor.base_offset + first.start * tensor.dtype.word_bytes,
        expected=f"checksum {record.base}",
        found=found,
    )
