"""iter_updates: what a patch changes, tensor by tensor, for whoever holds the weights.

Enters: a patch, and its base on disk or in memory. Leaves: updates, a bucket's worth at
a time. What was yielded is right; that nothing is missing is known at the end only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from sparsediff.checkpoint.memory import Tensors
from sparsediff.errors import UnsupportedError
from sparsediff.kernels import Words
from sparsediff.parallel import default_jobs
from sparsediff.patch.container import PatchSource, open_patch
from sparsediff.updates.changes import Indices, changes
from sparsediff.updates.named import open_base, removed, renamed_rows


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
        for name, tensor in zip(manifest.names, manifest.tensors, strict=True):
            if name is not None and tensor.n_words > np.iinfo(kind).max:
                raise UnsupportedError("too many words for int32 positions", tensor=name)
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
