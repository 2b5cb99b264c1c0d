"""iter_updates, with tensors of PyTorch.

Enters: a patch, or patches in a row, and the base on disk or in memory. Leaves: one
update for each tensor, whole. Holds the changes of one tensor at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import torch

from sparsediff.checkpoint.memory import Tensors
from sparsediff.kernels.steps import Words
from sparsediff.patch.container import PatchSource
from sparsediff.torch.tensors import dtype_in_torch
from sparsediff.updates import Update, iterate

_SIGNED = {1: np.uint8, 2: np.int16, 4: np.int32, 8: np.int64}


@dataclass(frozen=True, slots=True)
class TensorUpdate:
    """New words of one tensor; a word is as in `sparsediff.Update`.

    Attributes:
        name: the tensor's.
        file: the target file it lies in; empty if the target is a single file.
        dtype: PyTorch's.
        shape: of the whole tensor, as safetensors counts it.
        n_words: of the whole tensor.
        n_based: how many of them the base has under this name; 0 if the tensor is new.
        indices: flat C-order positions of words in the tensor, strictly increasing, int64.
        words: what belongs there, as uint8, int16, int32 or int64, one per position;
            ``update.words.view(update.dtype)`` are the values.
        base_words: what the base has at the positions below ``n_based``, which come first.
    """

    name: str
    file: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    n_words: int
    n_based: int
    indices: torch.Tensor
    words: torch.Tensor
    base_words: torch.Tensor


def iter_updates(
    patch: PatchSource | Sequence[PatchSource],
    base: Path | str | Tensors,
    *,
    jobs: int | None = None,
) -> Iterator[TensorUpdate]:
    """`sparsediff.iter_updates`, with one update for each tensor and tensors in it.

    Args:
        patch: as for `sparsediff.iter_updates`: one, or several in a row.
        base: the checkpoint's path, or what `in_memory` makes of a state dict.
        jobs: threads; default all processors.

    Raises:
        UnsupportedError: PyTorch has no such dtype.
        SparsediffError: as `sparsediff.iter_updates` does.
    """
    updates = iterate.iter_updates(patch, base, jobs=jobs)
    for (file, name), group in groupby(updates, key=lambda u: (u.file, u.name)):
        own = list(group)
        first = own[0]
        yield TensorUpdate(
            name,
            file,
            dtype_in_torch(first.dtype, name),
            first.shape,
            first.n_words,
            first.n_based,
            torch.from_numpy(np.concatenate([u.indices for u in own])),
            _words([u.values for u in own]),
            _words(_based(own) or [first.values[:0]]),
        )


def _based(updates: list[Update]) -> list[Words]:
    return [u.base_values for u in updates if u.base_values is not None]


def _words(arrays: list[Words]) -> torch.Tensor:
    joined = np.concatenate(arrays)
    return torch.from_numpy(joined.view(_SIGNED[joined.itemsize]))
