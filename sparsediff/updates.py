"""What a patch changes, as positions and words: for whoever holds the weights already.

Enters: a patch, and its base on disk or in memory. Leaves: per tensor the flat
positions that change and their new words, a bucket's worth at a time. Of a bucket
nothing leaves before its base words, its payload and its result were verified; that
all the others are right is known at the end only. Never writes, and never holds
more than a few buckets.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from sparsediff import words
from sparsediff.chain import PatchSource
from sparsediff.errors import UnsupportedError, WrongBaseError
from sparsediff.files import OpenFiles
from sparsediff.kernels import Words
from sparsediff.manifest import Manifest
from sparsediff.memory import Tensors
from sparsediff.named import BaseTensors, open_base, removed, renamed_rows
from sparsediff.parallel import default_jobs, ordered_map
from sparsediff.patch import Patch, open_patch
from sparsediff.rebuild import Base, Task, run, tasks

Indices = npt.NDArray[np.signedinteger[Any]]


@dataclass(frozen=True, slots=True)
class Update:
    """New words of one tensor, or of a part of it.

    A word is an element's bits, but for two kinds of dtype: a complex number is two
    words, real part first, and packed 4- and 6-bit numbers come as bytes.

    Attributes:
        name: the tensor's.
        file: the target file it lies in; empty if the target is a single file.
        dtype: as safetensors spells it.
        shape: of the whole tensor.
        n_words: of the whole tensor.
        n_based: how many of them the base has under this name; 0 if the tensor is new.
        indices: flat C-order positions of words in the tensor, strictly increasing.
        values: the words that belong there, unsigned and little-endian, one per position.
    """

    name: str
    file: str
    dtype: str
    shape: tuple[int, ...]
    n_words: int
    n_based: int
    indices: Indices
    values: Words


@dataclass(frozen=True, slots=True)
class Change:
    """New words of the manifest's tensor ``tensor``, from word ``start`` on.

    ``positions`` count from ``start`` (int32, strictly increasing); None means that
    ``values`` are the next words, all of them.
    """

    tensor: int
    start: int
    positions: npt.NDArray[np.int32] | None
    values: Words

    def indices(self, dtype: type[np.int32] | type[np.int64]) -> Indices:
        """Flat positions in the tensor."""
        flat = np.empty(self.values.size, dtype)
        flat[:] = np.arange(self.values.size) if self.positions is None else self.positions
        flat += dtype(self.start)
        return flat


def changes(
    patch: Patch,
    base: Base,
    jobs: int,
    *,
    whole: Collection[int] = (),
    whole_runs: bool = False,
    skip_unchanged: bool = False,
) -> Iterator[Change]:
    """Everything that changes in tensors, bucket by bucket, each verified.

    Args:
        patch: opened, nothing of it read yet.
        base: where base words come from.
        jobs: threads.
        whole: rows of tensors of which to give every word, changed or not.
        whole_runs: where most words change, give all of them instead of positions.
        skip_unchanged: do not even read the base words of buckets that the patch leaves alone.

    Raises:
        WrongBaseError: base words are not those the patch was made from.
        CorruptError: the patch is damaged.
    """

    def job(task: Task) -> list[Change]:
        (payload,) = task.payloads
        named = task.bucket is not None and _is_named(patch.manifest, task.bucket)
        try:
            if task.bucket is None or not named:
                if payload is not None:
                    kind = (
                        f"skeleton.{task.file}" if task.bucket is None else f"bucket.{task.bucket}"
                    )
                    patch.check(kind, payload)
            elif payload is not None or not _avoids(patch.manifest, task.bucket, whole):
                return _decode(patch, base, task, whole, whole_runs)
            elif not skip_unchanged:
                base.check(task.bucket)
        except WrongBaseError as e:
            if isinstance(base, BaseTensors):
                e.offset = None  # that of a file
            raise
        return []

    for found in ordered_map(job, tasks([patch]), jobs):
        yield from found


def _is_named(manifest: Manifest, bucket: int) -> bool:
    """Whether a bucket holds words of tensors, not bytes of a file without any."""
    return bool(manifest.tensors[manifest.buckets[bucket].tensors[0]].name)


def _avoids(manifest: Manifest, bucket: int, rows: Collection[int]) -> bool:
    """Whether a bucket holds no words of these tensors."""
    return not rows or not any(row in rows for row in manifest.buckets[bucket].tensors)


class _Overheard:
    """A base of which the words last read can be asked for: those before a change."""

    def __init__(self, base: Base) -> None:
        self._base = base
        self.path, self.check, self.skeleton = base.path, base.check, base.skeleton
        self.last: Words | None = None

    def source(self, files: OpenFiles) -> words.Source:
        inner = self._base.source(files)

        def read(index: int, offset: int, buffer: Any) -> None:
            inner.read(index, offset, buffer)
            self.last = buffer.copy()

        return words.Source(inner.place, read)


def _decode(
    patch: Patch, base: Base, task: Task, whole: Collection[int], whole_runs: bool
) -> list[Change]:
    """Changes of one bucket, all of it verified."""
    assert task.bucket is not None
    overheard = _Overheard(base)
    parts = iter(patch.manifest.parts[task.bucket])
    part, done = next(parts), 0
    found: list[Change] = []

    def write(_: int, __: int, new: Words) -> None:
        nonlocal part, done
        if done == part.n_words:  # pieces never cross parts
            part, done = next(parts), 0
        positions: npt.NDArray[np.int32] | None = None
        values = new
        if overheard.last is not None and part.tensor not in whole:
            positions = np.flatnonzero(overheard.last != new).astype(np.int32)
            if whole_runs and positions.size * (4 + new.itemsize) > new.nbytes:
                positions = None
            else:
                values = new[positions]
                positions += np.int32(done)
        start = part.start + (done if positions is None else 0)
        done += new.size
        if values.size:
            found.append(Change(part.tensor, start, positions, values.copy()))

    run([patch], overheard, task, write)
    return _joined(found)


def _joined(found: list[Change]) -> list[Change]:
    """Changes of consecutive pieces of one part as one."""
    groups: list[list[Change]] = []
    for change in found:
        last = groups[-1][-1] if groups else None
        if (
            last is not None
            and last.positions is not None
            and change.positions is not None
            and (last.tensor, last.start) == (change.tensor, change.start)
        ):
            groups[-1].append(change)
        else:
            groups.append([change])
    return [
        group[0]
        if len(group) == 1
        else Change(
            group[0].tensor,
            group[0].start,
            np.concatenate([c.positions for c in group if c.positions is not None]),
            np.concatenate([c.values for c in group]),
        )
        for group in groups
    ]


def iter_updates(
    patch: PatchSource,
    base: Path | str | Tensors,
    *,
    index_dtype: Literal["int32", "int64"] = "int64",
    jobs: int | None = None,
) -> Iterator[Update]:
    """What a patch changes, tensor by tensor.

    A tensor's updates follow each other in increasing order; a large one has several, one
    for each bucket it has words in. Words that the base does not have under this name,
    those of a new tensor, of a renamed one or of rows that were added, are listed like any
    others. A tensor in which
    nothing changes is verified and not mentioned; nor is one that the target no longer
    has (`removed_tensors`), or anything outside of tensors: ``config.json``, headers,
    files that are no safetensors.

    What was yielded is right, whatever follows. Only the end of the iteration says that
    nothing is missing and that the rest of the base is right as well.

    Args:
        patch: path, ``-`` for standard input, or a binary stream.
        base: the checkpoint it was made from, or that checkpoint's tensors by name: NumPy
            arrays, or what `sparsediff.torch.in_memory` makes of a state dict.
        index_dtype: of the positions.
        jobs: threads; default all processors.

    Yields:
        Updates that hold only words that are new or differ from the base's.

    Raises:
        UsageError: a path is unusable.
        WrongBaseError: ``base`` is not the patch's; names the tensor.
        CorruptError: the patch is damaged.
        UnsupportedError: a tensor has too many words for int32, or a name means two tensors.
    """
    kind: type[np.int32] | type[np.int64] = np.int32 if index_dtype == "int32" else np.int64
    with open_patch(patch) as opened:
        manifest = opened.manifest
        files = [
            f.name
            for f, r in zip(manifest.target_files, manifest.file_tensors, strict=True)
            for _ in r
        ]
        for tensor in manifest.tensors:
            if tensor.name and tensor.n_words > np.iinfo(kind).max:
                raise UnsupportedError("too many words for int32 positions", tensor=tensor.name)
        source = open_base(base, manifest)
        renamed = renamed_rows(manifest, source)
        for change in changes(opened, source, jobs or default_jobs(), whole=renamed):
            tensor = manifest.tensors[change.tensor]
            yield Update(
                tensor.name,
                files[change.tensor],
                tensor.dtype.name,
                tensor.shape,
                tensor.n_words,
                0 if change.tensor in renamed else tensor.n_based,
                change.indices(kind),
                change.values,
            )


def removed_tensors(patch: PatchSource, base: Path | str | Tensors) -> list[str]:
    """Names of the base's tensors that the target no longer has, sorted.

    Raises:
        SparsediffError: as `iter_updates` and `make_patch` do for their inputs.
    """
    with open_patch(patch) as opened:
        return removed(opened.manifest, open_base(base, opened.manifest))
