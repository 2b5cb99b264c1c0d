"""The base of a patch by the names of its tensors.

Enters: a manifest; a checkpoint on disk, or tensors in memory. Leaves: base words for
`rebuild`, and which tensors of the target somebody who goes by names has never seen.
A patch itself goes by places; checksums decide in the end, whatever a name promised.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from sparsediff.apply.base import Base, BaseFiles
from sparsediff.checkpoint.formats import Span, find_spans
from sparsediff.checkpoint.memory import MemoryTensor, Tensors, in_memory
from sparsediff.disk.inputs import OpenFiles
from sparsediff.errors import UnsupportedError, WrongBaseError
from sparsediff.patch import words
from sparsediff.patch.manifest import Manifest


class Rows(Collection[int]):
    """Rows of tensors, of which there may be very many: a byte for each that there is."""

    def __init__(self, n: int) -> None:
        """Take how many tensors there are; none is in it."""
        self._flags, self._n = bytearray(n), 0

    def add(self, row: int) -> None:
        """Add one that is not in it."""
        self._flags[row] = 1
        self._n += 1

    def __contains__(self, row: object) -> bool:
        """Whether it is in it."""
        return isinstance(row, int) and bool(self._flags[row])

    def __iter__(self) -> Iterator[int]:
        """Those in it, in order."""
        return (row for row, flag in enumerate(self._flags) if flag)

    def __len__(self) -> int:
        """How many are in it."""
        return self._n


class BaseTensors:
    """A base in memory: each target tensor's base is the tensor of its name."""

    def __init__(self, tensors: dict[str, MemoryTensor], manifest: Manifest) -> None:
        """Check that there is something to compare with.

        Raises:
            WrongBaseError: a tensor is missing, or has another dtype or size.
            UnsupportedError: two files of the target hold tensors of one name.
        """
        self._manifest = manifest
        self.names = set(tensors)
        self._tensors: dict[int, MemoryTensor] = {}
        check_names(manifest)
        for i, record in enumerate(manifest.tensors):
            if not record.n_based or manifest.names[i] is None:
                continue
            tensor = tensors.get(record.name)
            if tensor is None:
                raise WrongBaseError("wrong base: tensor is missing", tensor=record.name)
            if tensor.dtype != record.dtype or tensor.n_words < record.n_based:
                raise WrongBaseError(
                    "wrong base",
                    tensor=record.name,
                    expected=f"{record.dtype.name}{list(record.shape)}",
                    found=f"{tensor.dtype.name}{list(tensor.shape)}",
                )
            self._tensors[i] = tensor

    def path(self, index: int) -> object:
        """Memory has no name."""
        return None

    def source(self, files: OpenFiles) -> words.Source:
        """Base words of buckets."""
        return words.Source(lambda index: (index, 0), self._read)

    def check(self, bucket: int) -> None:
        """Compare the base words of a bucket with what the patch says of them.

        Raises:
            WrongBaseError: they differ; names the tensor.
        """
        sums = words.checksums(self._manifest, bucket, words.Source(_itself, self._read))
        words.check_base(self._manifest, bucket, sums, self.path)

    def skeleton(self, index: int) -> bytes:
        """Tensors have none, and nobody asks."""
        raise NotImplementedError

    def _read(self, index: int, offset: int, buffer: Any) -> None:
        self._tensors[index].read(offset, buffer)


def _itself(index: int) -> tuple[int, int]:
    return index, 0


def check_names(manifest: Manifest) -> None:
    """Raise UnsupportedError if two files of the target hold tensors of one name."""
    if len(set(manifest.names)) == len(manifest.names):
        return  # which needs no counters of very many
    for name, n in Counter(manifest.names).items():
        if n > 1 and name is not None:
            raise UnsupportedError(
                "several files of the target hold a tensor of this name", tensor=name
            )


def open_base(base: Path | str | Tensors, manifest: Manifest) -> Base:
    """Where base words come from: a checkpoint on disk, or tensors.

    Raises:
        UsageError: there is nothing at the path.
        WrongBaseError: it plainly is not the patch's base.
        UnsupportedError: names do not say which tensor is which.
    """
    if isinstance(base, (str, Path)):
        return BaseFiles(Path(base), manifest)
    return BaseTensors(in_memory(base), manifest)


def renamed_rows(manifest: Manifest, base: Base) -> Collection[int]:
    """Rows of tensors that the patch takes from a base tensor of another name.

    To whoever goes by names they are new. Tensors in memory have been found by name.

    Raises:
        WrongBaseError: a base file is missing or of another size.
        CorruptError: it violates its format.
    """
    if not isinstance(base, BaseFiles):
        return ()
    names = {
        file: {s.offset: s.name for s in spans if s.nbytes}
        for file, spans in _base_spans(manifest, base)
    }
    times = Counter(name for file in names.values() for name in file.values())
    found, tensors = Rows(len(manifest.tensors)), manifest.tensors
    for file, rows in enumerate(manifest.file_tensors):
        for row in rows:
            old, name = tensors.base_files[row], manifest.names[row]
            if old is not None and name is not None:
                same_file = manifest.base_files[old].name == manifest.target_files[file].name
                same_name = names[old].get(tensors.base_offsets[row]) == name
                if not same_name or (times[name] > 1 and not same_file):
                    found.add(row)
    return found


def removed(target: Manifest, manifest: Manifest, base: Base) -> list[str]:
    """Names of the base's tensors that the target no longer has, sorted.

    ``manifest`` is of the patch from that base; ``target`` of the last one, the same or another.
    """
    if isinstance(base, BaseTensors):
        names = base.names
    else:
        assert isinstance(base, BaseFiles)
        spans = (span for _, found in _base_spans(manifest, base) for span in found)
        names = {span.name for span in spans}
    return sorted(names - set(target.names))


def _base_spans(manifest: Manifest, base: BaseFiles) -> Iterator[tuple[int, list[Span]]]:
    """Index and tensors of each base file that has some; what else lies there is not touched."""
    for i, record in enumerate(manifest.base_files):
        if len(record.layout) > 1:
            yield i, [s for s in find_spans(base.open(i)) if not s.is_all_of(record.size)]
