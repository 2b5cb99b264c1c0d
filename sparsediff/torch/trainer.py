"""A callback for transformers' Trainer: a patch for every so many steps.

Enters: the trainer's calls. Leaves: patches, written by the first process.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from sparsediff.torch.emit import PatchWriter, cast


class PatchWriterCallback(TrainerCallback):
    """Writes an anchor when training begins, and a patch after every ``every`` steps.

    See `PatchWriter`. The model must be whole in the first process: sharded parameters
    are refused.

    Args:
        directory: where the patches go.
        every: steps from one patch to the next; the last step gets one in any case.
        dtype: what to convert weights of floating point to, as they are stored.
        metadata: of the file that the weights stand for.
    """

    def __init__(
        self,
        directory: Path | str,
        *,
        every: int = 1,
        dtype: torch.dtype | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self._writer = PatchWriter(directory, metadata=metadata)
        self._every, self._dtype = every, dtype
        self._last: int | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write the anchor."""
        self._write(state, kwargs["model"])

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write a patch if it is time for one."""
        if state.global_step % self._every == 0:
            self._write(state, kwargs["model"])

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write the last patch."""
        self._write(state, kwargs["model"])

    def _write(self, state: Any, model: torch.nn.Module) -> None:
        if not state.is_world_process_zero or state.global_step == self._last:
            return
        tensors = model.state_dict()
        if self._dtype is not None:
            tensors = cast(tensors, self._dtype)
        self._writer.step(tensors, state.global_step)
        self._last = state.global_step
