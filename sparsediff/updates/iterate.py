"""iter_updates: what a patch changes, tensor by tensor, for whoever holds the weights.

Enters: a patch, or patches in a row, and the base on disk or in memory. Leaves: updates,
a bucket's worth at a time. What was yielded is right; that nothing is missing is known at
the end only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from sparsediff.apply.chain import listed, open_chain
from sparsediff.checkpoint.memory import Tensors
from sparsediff.errors import UnsupportedError
from sparsediff.kernels.steps import Words
from sparsediff.parallel import threads
from sparsediff.patch.container import PatchSource
from sparsediff.updates.changes import Indices
from sparsediff.updates.composed import compose
from sparsediff.updates.named import open_base, removed


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
        base_values: the words that the base has there; None where it has none, which is so for
            positions from ``n_based`` on. One update has no positions of both kinds.
    """

    name: str
    file: str
    dtype: str
    shape: tuple[int, ...]
    n_words: int
    n_based: int
    indices: Indices
    values: Words
    base_values: Words | None = None


def iter_updates(
    patch: PatchSource | Sequence[PatchSource],
    base: Path | str | Tensors,
    *,
    index_dtype: Literal["int32", "int64"] = "int64",
    jobs: int | None = None,
) -> Iterator[Update]:
    """What a patch changes, tensor by tensor, or several patches in a row together.

    A tensor's updates follow each other in increasing order; a large one has several, one
    for each bucket it has words in. Words that the base does not have under this name,
    those of a new tensor, of a renamed one or of rows that were added, are listed like any
    others. A tensor in which
    nothing changes is verified and not mentioned; nor is one that the target no longer
    has (`removed_tensors`), or anything outside of tensors: ``config.json``, headers,
    files that are no safetensors. Of several patches, only what is different between the
    first one's base and the last one's target is listed, once. Where each cuts its tensors as
    the one before did, as in training, nothing is kept meanwhile; otherwise what changes is.

    What was yielded is right, whatever follows. Only the end of the iteration says that
    nothing is missing and that the rest of the base is right as well.

    Args:
        patch: path, ``-`` for standard input, or a binary stream; or a list of them, each made
            from the target of the one before.
        base: the checkpoint that the first of them was made from, or that checkpoint's tensors
            by name: NumPy arrays, or what `sparsediff.torch.in_memory` makes of a state dict.
        index_dtype: of the positions.
        jobs: threads; default all processors.

    Yields:
        Updates that hold only words that are new or differ from the base's.

    Raises:
        UsageError: a path is unusable.
        WrongBaseError: ``base`` is not the patch's, or a patch does not continue the one
            before; names the tensor, or the patch.
        CorruptError: the patch is damaged.
        UnsupportedError: a tensor has too many words for int32, or a name means two tensors.
    """
    kind: type[np.int32] | type[np.int64] = np.int32 if index_dtype == "int32" else np.int64
    with open_chain(listed(patch)) as chain:
        manifest = chain[-1].manifest
        files = [
            f.name
            for f, r in zip(manifest.target_files, manifest.file_tensors, strict=True)
            for _ in r
        ]
        for name, n_words in zip(manifest.names, manifest.tensors.n_words, strict=True):
            if name is not None and n_words > np.iinfo(kind).max:
                raise UnsupportedError("too many words for int32 positions", tensor=name)
        composed = compose(chain, open_base(base, chain[0].manifest), threads(jobs))
        for change in composed.changes:
            tensor = manifest.tensors[change.tensor]
            yield Update(
                tensor.name,
                files[change.tensor],
                tensor.dtype.name,
                tensor.shape,
                tensor.n_words,
                composed.n_based[change.tensor],
                change.indices(kind),
                change.values,
                change.old,
            )


def removed_tensors(
    patch: PatchSource | Sequence[PatchSource], base: Path | str | Tensors
) -> list[str]:
    """Names of the base's tensors that the target no longer has, sorted.

    Raises:
        SparsediffError: as `iter_updates` and `make_patch` do for their inputs.
    """
    with open_chain(listed(patch)) as chain:
        manifest = chain[0].manifest
        return removed(chain[-1].manifest, manifest, open_base(base, manifest))
