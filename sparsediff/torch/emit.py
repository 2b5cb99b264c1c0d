"""Patches made from tensors in memory: what a trainer does instead of saving.

Enters: state dicts, step by step. Leaves: patches, each whole or not at all. A state
dict counts as the one file that ``safetensors.torch.save_file`` would write of it, byte
for byte, so such a patch applies to that file as well as to live tensors. Never
serialises a model: tensors are read piece by piece where they are.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import torch

from sparsediff import make
from sparsediff.checkpoint import Checkpoint
from sparsediff.checkpoint.memory import memory_checkpoint
from sparsediff.errors import UsageError, os_errors
from sparsediff.make import MakeResult
from sparsediff.torch.tensors import StateDict, checked, identity, in_memory, words_of

Side = Path | str | StateDict | None


def make_patch(
    base: Side,
    target: Path | str | StateDict,
    output: Path | str | BinaryIO | None,
    *,
    metadata: Mapping[str, str] | None = None,
    jobs: int | None = None,
    force: bool = False,
) -> MakeResult:
    """`sparsediff.make_patch` that also takes state dicts, for either side or both.

    Of names that are the same elements of the same memory (tied weights) the first
    stands for all, as in files: whoever applies the patch ties them too. Tensors need
    not be contiguous. They must not change meanwhile, and on the CPU it is noticed if they do.

    Args:
        base: what the other side holds: a checkpoint's path or tensors; None makes an
            anchor, a patch from nothing.
        target: what applying the patch should give: a checkpoint's path, or tensors.
        output: as for `sparsediff.make_patch`.
        metadata: of the file that a state dict stands for; ``{"format": "pt"}`` is what
            transformers writes. Matters only to those who apply the patch to files.
        jobs: threads; default all processors.
        force: replace an existing output.

    Raises:
        UnsupportedError: an entry of a state dict is no tensor with ordinary memory, or
            its safetensors has no such dtype.
        UnavailableError: a tensor or file changed while it was read, or the disk is full.
        SparsediffError: as `sparsediff.make_patch` does.
    """
    return make.make_patch(
        _opened(base, metadata), _opened(target, metadata), output, jobs=jobs, force=force
    )


def _opened(side: Side, metadata: Mapping[str, str] | None) -> Path | str | Checkpoint:
    if side is None:
        return Checkpoint(Path("<nothing>"), True, [])
    if isinstance(side, (str, Path)):
        return side
    return memory_checkpoint(in_memory(_once(side)), metadata, "<state dict>")


def _once(state_dict: StateDict) -> dict[str, torch.Tensor]:
    """The tensors, each under the first of its names."""
    first: dict[tuple[object, ...], str] = {}
    return {
        name: tensor
        for name, tensor in ((n, checked(n, t)) for n, t in state_dict.items())
        if tensor.numel() == 0 or first.setdefault(identity(tensor), name) == name
    }


def cast(state_dict: StateDict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The tensors with those of floating point converted, as trainers store their masters.

    Tied weights are converted once and stay tied.
    """
    seen: dict[tuple[object, ...], torch.Tensor] = {}
    result = {}
    for name, entry in state_dict.items():
        tensor = checked(name, entry).detach()
        if tensor.is_floating_point() and tensor.dtype != dtype:
            tensor = seen.setdefault(identity(tensor), tensor.to(dtype))
        result[name] = tensor
    return result


class Snapshot(dict[str, torch.Tensor]):
    """Copies on the CPU of a state dict's tensors, each once.

    Args:
        pin_memory: allocate pinned memory, from which other devices copy faster.
    """

    def __init__(self, *, pin_memory: bool = False) -> None:
        super().__init__()
        self._pin_memory = pin_memory

    def update_(self, state_dict: StateDict) -> None:
        """Become a copy of ``state_dict``; memory is reused where dtype and shape still fit.

        Raises:
            UnsupportedError: an entry is no tensor with ordinary memory; nothing was copied.
        """
        tensors = _once(state_dict)
        for name in self.keys() - tensors.keys():
            del self[name]
        for name, tensor in tensors.items():
            own = self.get(name)
            if own is None or (own.dtype, own.shape) != (tensor.dtype, tensor.shape):
                own = self[name] = torch.empty(
                    tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=self._pin_memory
                )
            words_of(own).copy_(words_of(tensor))


def snapshot(state_dict: StateDict, *, pin_memory: bool = False) -> Snapshot:
    """Copy a state dict to the CPU, to be the base of the next patch.

    Raises:
        UnsupportedError: an entry is no tensor with ordinary memory.
    """
    copy = Snapshot(pin_memory=pin_memory)
    copy.update_(state_dict)
    return copy


class PatchWriter:
    """A patch for every step of a training loop.

    The first `step` writes an anchor, a patch from nothing, ``000000100.anchor.sdiff``;
    each later one a patch from the step before, ``000000101.sdiff``. A copy of the
    weights is kept on the CPU in between. A step that failed is made up by the next.

    Args:
        directory: where the patches go; created unless it is there.
        metadata: of the file that a state dict stands for.
        pin_memory: keep the copy in pinned memory.
        jobs: threads; default all processors.
    """

    def __init__(
        self,
        directory: Path | str,
        *,
        metadata: Mapping[str, str] | None = None,
        pin_memory: bool = False,
        jobs: int | None = None,
    ) -> None:
        self.directory = Path(directory)
        self._metadata, self._jobs = metadata, jobs
        self._base = Snapshot(pin_memory=pin_memory)
        self._last: int | None = None  # step
        self._has_base = False

    def step(self, state_dict: StateDict, step: int) -> Path:
        """Write the patch that leads to ``state_dict``; returns its path.

        Args:
            state_dict: tensors by name, on any device.
            step: its number, larger than the last; names the patch.

        Raises:
            UsageError: ``step`` does not follow, or a patch of this name exists.
            SparsediffError: as `make_patch` does.
        """
        if self._last is not None and step <= self._last:
            raise UsageError("steps must increase", expected=f"after {self._last}", found=step)
        path = self.directory / f"{step:09d}{'' if self._has_base else '.anchor'}.sdiff"
        with os_errors(self.directory):
            os.makedirs(self.directory, exist_ok=True)
        base = self._base if self._has_base else None
        make_patch(base, state_dict, path, metadata=self._metadata, jobs=self._jobs)
        self._last, self._has_base = step, False  # should copying fail, an anchor comes next
        self._base.update_(state_dict)
        self._has_base = True
        return path
