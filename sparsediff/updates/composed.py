"""What patches in a row change together: each word once, from the base's to the last target's.

Enters: opened patches in a row, and the base of the first, on disk or in memory. Leaves:
the changes between that base and the last target, in the rows of the last patch's
manifest. Patches that are cut alike are taken together, bucket by bucket, with nothing
kept; for others the target of the ones before is never written anywhere: it is read as
its base with the changes laid over, which are all that is kept.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sparsediff.apply import chain as chains
from sparsediff.apply.base import Base
from sparsediff.checkpoint.memory import bytes_of
from sparsediff.disk.inputs import OpenFiles
from sparsediff.errors import UnsupportedError
from sparsediff.kernels.steps import Words
from sparsediff.patch import words
from sparsediff.patch.container import Patch
from sparsediff.patch.manifest import Manifest
from sparsediff.updates.changes import Change, changes
from sparsediff.updates.named import renamed_rows

_CHUNK = 1 << 20  # words compared at once


@dataclass(frozen=True, slots=True)
class Composed:
    """Changes, and what they are in terms of the first patch's base.

    Attributes:
        manifest: of the last patch; changes speak of its rows.
        n_based: per row, how many words the base has under the tensor's name.
        changes: of all rows, those of a row in increasing order.
    """

    manifest: Manifest
    n_based: list[int]
    changes: Iterator[Change]


def compose(chain: Sequence[Patch], base: Base, jobs: int) -> Composed:
    """What a chain changes.

    Args:
        chain: as `open_chain` gives it.
        base: of the first patch.
        jobs: threads.

    Raises:
        SparsediffError: as `changes` does, for every patch; also while changes are taken.
    """
    runs = _runs(chain)
    first = runs[0][-1].manifest
    renamed = renamed_rows(runs[0][0].manifest, base)
    tensors = runs[0][0].manifest.tensors  # a later patch of the run has them as its base
    n_based = [0 if i in renamed else n for i, n in enumerate(tensors.n_based)]
    if len(runs) == 1:
        found = changes(runs[0], base, jobs, whole=renamed, with_old=True)
        return Composed(first, n_based, found)
    layers: list[_Changed] = []
    under = base
    for run in runs:
        layer = _Changed(run, under)
        layer.take(changes(run, under, jobs))
        layers.append(layer)
        if run is not runs[-1]:
            under = _Continued(layer, chain[chain.index(run[-1]) + 1])
    return _whole_way(layers, base, first, n_based)


def _runs(chain: Sequence[Patch]) -> list[list[Patch]]:
    """Groups that one pass can take together and in which every tensor keeps its name."""
    found: list[list[Patch]] = []
    for group in chains.groups(chain):
        for patch in group:
            if (
                found
                and patch is not group[0]
                and found[-1][-1].manifest.names == patch.manifest.names
            ):
                found[-1].append(patch)
            else:
                found.append([patch])
    return found


class _Changed:
    """The target of a group of patches: its base, with what changes over it."""

    def __init__(self, group: Sequence[Patch], base: Base) -> None:
        self.manifest, self.base = group[-1].manifest, base
        self.based = group[0].manifest.tensors  # the same rows, and where the base has them
        self._found: dict[int, tuple[npt.NDArray[np.int64], Words]] = {}

    def take(self, found: Iterator[Change]) -> None:
        """Keep changes, all of them."""
        by_row: defaultdict[int, list[Change]] = defaultdict(list)
        for change in found:
            by_row[change.tensor].append(change)
        for row, own in by_row.items():
            at = np.concatenate([c.indices(np.int64) for c in own])
            self._found[row] = at, np.concatenate([c.values for c in own])

    def touches(self, row: int) -> bool:
        """Whether words of a row change, or are new."""
        return row in self._found

    def read(self, row: int, start: int, out: Words) -> None:
        """Words of a row, from ``start`` on."""
        tensor, end = self.based[row], start + out.size
        n_old = min(tensor.n_based, end) - start
        if n_old > 0:
            with OpenFiles() as files:
                source = self.base.source(files)
                file, begin = source.place(row)
                source.read(file, begin + start * tensor.dtype.word_bytes, out[:n_old])
        if row in self._found:
            at, values = self._found[row]
            a, b = np.searchsorted(at, (start, end))
            out[at[a:b] - start] = values[a:b]


class _Continued:
    """That target as the base of the patch that follows."""

    def __init__(self, layer: _Changed, after: Patch) -> None:
        self._layer, self._after = layer, after
        names = {f.name: i for i, f in enumerate(layer.manifest.target_files)}
        self._rows: list[list[int]] = []  # per base file of `after`, those with words
        for record in after.manifest.base_files:
            rows = layer.manifest.file_tensors[names[record.name]]
            self._rows.append([r for r in rows if layer.manifest.tensors.n_words[r]])
        self._starts = [[layer.manifest.tensors.offsets[r] for r in rows] for rows in self._rows]

    def path(self, index: int) -> object:
        """It lies nowhere."""
        return None

    def source(self, files: OpenFiles) -> words.Source:
        """Base words of buckets."""
        return words.base_source(self._after.manifest, self._read)

    def check(self, bucket: int) -> None:
        """Compare the base words of a bucket with what the patch says of them."""
        manifest = self._after.manifest
        with OpenFiles() as files:
            sums = words.checksums(manifest, bucket, self.source(files))
        words.check_base(manifest, bucket, sums, self.path)

    def skeleton(self, index: int) -> bytes:
        """Only words are asked for."""
        raise NotImplementedError

    def row_at(self, file: int, offset: int) -> int | None:
        """The row of the layer that begins at an offset of a base file."""
        at = bisect_right(self._starts[file], offset) - 1
        exact = at >= 0 and self._starts[file][at] == offset
        return self._rows[file][at] if exact else None

    def _read(self, file: int, offset: int, buffer: Any) -> None:
        out = bytes_of(buffer)
        while out.size:  # of tensors that lie side by side
            n = self._read_of_one(file, offset, out)
            out, offset = out[n:], offset + n

    def _read_of_one(self, file: int, offset: int, out: npt.NDArray[np.uint8]) -> int:
        """Read from the tensor that holds the byte at ``offset``; how many bytes."""
        at = bisect_right(self._starts[file], offset) - 1
        row = self._rows[file][at] if at >= 0 else -1
        tensor = self._layer.manifest.tensors[row]
        skip = offset - tensor.offset
        n = min(out.size, tensor.n_bytes - skip)
        if at < 0 or n <= 0:
            raise UnsupportedError(
                "patches of a chain see the tensors of a file differently", file=self._after.name
            )
        width = tensor.dtype.word_bytes
        start, end = skip // width, -(-(skip + n) // width)
        read = np.empty(end - start, tensor.dtype.numpy)
        self._layer.read(row, start, read)
        out[:n] = read.view(np.uint8)[skip - start * width :][:n]
        return n


def _whole_way(layers: list[_Changed], base: Base, first: Manifest, n_based: list[int]) -> Composed:
    """Every row of the last layer followed back to the base."""
    last = layers[-1].manifest
    origin: list[int | None] = []  # row of the first layer that has the tensor's name
    based: list[int] = []
    touched: list[bool] = []
    for row in range(len(last.tensors)):
        at: int | None = row
        n, touch = last.tensors.n_words[row], False
        for layer in reversed(layers):
            if at is None:
                break
            tensor = layer.based[at]
            n, touch = min(n, tensor.n_based), touch or layer.touches(at)
            if layer is layers[0]:
                n = min(n, n_based[at])
            elif tensor.base_file is not None and isinstance(layer.base, _Continued):
                at = layer.base.row_at(tensor.base_file, tensor.base_offset)
            else:
                at = None
        same = at is not None and first.names[at] == last.names[row] is not None
        origin.append(at if same else None)
        based.append(n if same else 0)
        touched.append(touch or based[-1] < last.tensors.n_words[row])
    return Composed(last, based, _differences(layers, base, origin, based, touched))


def _differences(
    layers: list[_Changed],
    base: Base,
    origin: list[int | None],
    based: list[int],
    touched: list[bool],
) -> Iterator[Change]:
    last = layers[-1]
    with OpenFiles() as files:
        source = base.source(files)
        for row, tensor in enumerate(last.manifest.tensors):
            if last.manifest.names[row] is None or not touched[row]:
                continue
            start = 0
            while start < tensor.n_words:
                edge = based[row] if start < based[row] else tensor.n_words
                new = np.empty(min(_CHUNK, edge - start), tensor.dtype.numpy)
                last.read(row, start, new)
                at = origin[row]
                if at is None or start >= based[row]:
                    yield Change(row, start, None, new)
                else:
                    old = np.empty_like(new)
                    file, begin = source.place(at)
                    source.read(file, begin + start * tensor.dtype.word_bytes, old)
                    where = np.flatnonzero(old != new).astype(np.int32)
                    if where.size:
                        yield Change(row, start, where, new[where], old[where])
                start += new.size
