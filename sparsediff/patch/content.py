"""What a patch says of the contents of its base and of its target, to be compared.

Enters: manifests. Leaves: a `Content`, which is checksums by the bytes they were taken
over. Two patches that cut alike can be compared in full; those that do not, wherever they
took a checksum over the same bytes. Reads no file.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from sparsediff.patch.manifest import Manifest

_NUMBER = 8  # bytes of each in `Places`
_SKELETON, _WORDS = 0, 1
Places = bytes
"""What a checksum was taken over, packed, as there may be very many: a skeleton or words, then of
each run of their bytes the index of the file, the first byte and how many."""


class Content(NamedTuple):
    """What is known of the contents of a checkpoint.

    Attributes:
        files: name and size of each, in order.
        sums: checksums by what they were taken over.
    """

    files: list[tuple[str, int]]
    sums: dict[Places, str]

    def differs(self, other: Content) -> str | None:
        """Name of a file that is not the same in both, for certain; None if there is none."""
        if self.files != other.files:
            return min(set(self.files) ^ set(other.files), default=("", 0))[0]
        for places, found in other.sums.items():
            if self.sums.get(places, found) != found:
                return self.files[memoryview(places[: 2 * _NUMBER]).cast("q")[1]][0]
        return None

    def proves(self, other: Content) -> bool:
        """Whether `differs` compared everything that ``other`` knows."""
        return self.sums.keys() >= other.sums.keys()


def of_target(manifest: Manifest) -> Content:
    """What a patch says of its target."""
    files = manifest.target_files
    skeletons = ((i, manifest.skeleton_ranges(i), file.skeleton) for i, file in enumerate(files))
    sums = {_skeleton(i, ranges): found for i, ranges, found in skeletons if ranges}
    file_of = [i for i, indices in enumerate(manifest.file_tensors) for _ in indices]
    for bucket, record in enumerate(manifest.buckets):
        found = record.target if record.target is not None else record.base
        assert found is not None  # as parsed: a bucket without a base has a target
        places = (
            (file_of[tensor], manifest.tensors.offsets[tensor] + skip, n)
            for tensor, skip, n in _parts(manifest, bucket)
        )
        sums[_packed(_WORDS, places)] = found
    return Content([(f.name, f.size) for f in files], sums)


def of_base(manifest: Manifest) -> Content:
    """What a patch says of its base: of words that it takes, and of all skeletons."""
    files, tensors = manifest.base_files, manifest.tensors
    skeletons = ((i, file.skeleton_ranges(), file.skeleton) for i, file in enumerate(files))
    sums = {_skeleton(i, ranges): found for i, ranges, found in skeletons if ranges}
    for bucket, record in enumerate(manifest.buckets):
        if record.base is not None:
            places = (
                (tensors.base_files[tensor] or 0, tensors.base_offsets[tensor] + skip, n)
                for tensor, skip, n in _parts(manifest, bucket)
            )
            sums[_packed(_WORDS, places)] = record.base
    return Content([(f.name, f.size) for f in files], sums)


def _packed(kind: int, places: Iterable[tuple[int, int, int]]) -> Places:
    packed = array("q", [kind])
    for place in places:
        packed.extend(place)
    return packed.tobytes()


def _skeleton(file: int, ranges: list[tuple[int, int]]) -> Places:
    places: list[tuple[int, int, int]] = []
    for begin, end in ranges:
        if places and sum(places[-1][1:]) == begin:  # an empty tensor lies between
            _, begin, _ = places.pop()
        places.append((file, begin, end - begin))
    return _packed(_SKELETON, places)


def _parts(manifest: Manifest, bucket: int) -> Iterator[tuple[int, int, int]]:
    """Index of the tensor, bytes of it to skip and bytes to take, for each part of a bucket."""
    for part in manifest.parts[bucket]:
        word_bytes = manifest.tensors.dtypes[part.tensor].word_bytes
        yield part.tensor, part.start * word_bytes, part.n_words * word_bytes
