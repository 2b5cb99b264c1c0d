"""For workers of vLLM in tests: weights as on a GPU, their digests, and a rank that fails.

Given as ``--worker-extension-cls``, so it is imported in each worker before the model is.
On CPUs vLLM packs linear weights and drops them; ``Plain`` leaves them as they are.
"""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any

import torch
from vllm.model_executor.layers import utils

from sparsediff.torch import iter_updates, staged


class Packed:
    """Methods for tests."""

    model_runner: Any
    rank: int

    def digests(self) -> dict[str, str]:
        """Digest of each parameter's bytes."""
        return {
            name: hashlib.sha256(
                p.detach().contiguous().view(torch.uint8).reshape(-1).numpy().tobytes()
            ).hexdigest()
            for name, p in self.model_runner.get_model().named_parameters()
        }

    def fail_while(self, path: str, rank: int) -> None:
        """Let commits fail half-way on one rank as long as a file is there."""
        put = staged.Staged._put

        def failing(part: staged.Part, words: torch.Tensor) -> None:
            put(part, words)
            middle = words is part.new and part.tensors[0][0].endswith("down_proj.weight")
            if middle and self.rank == rank and Path(path).exists():
                raise RuntimeError("injected failure")

        staged.Staged._put = staticmethod(failing)  # type: ignore[method-assign]

    def by_sparse_patches(self, patch: str, base: str) -> dict[str, float]:
        """VLLM's own sparse path, for the benchmark; seconds to decode and to load."""
        from vllm.model_executor.model_loader.checkpoint_weight_patch import (
            CheckpointWeightPatch,
            load_checkpoint_weight_patches,
        )

        began = time.perf_counter()
        patches = [
            CheckpointWeightPatch(u.name, u.shape, u.dtype, u.words.view(u.dtype), u.indices)
            for u in iter_updates(patch, base)
        ]
        decoded = time.perf_counter()
        model = self.model_runner.get_model()
        load_checkpoint_weight_patches(model, patches, validate_unique_indices=False)
        return {"decode": decoded - began, "load": time.perf_counter() - decoded}

    def memory(self) -> tuple[int, int]:
        """Memory that this process has, and the most it had since it was last asked; bytes."""
        status = Path("/proc/self/status").read_text()
        now, high = (
            int(line.split()[1]) * 1024
            for key in ("VmRSS", "VmHWM")
            for line in status.splitlines()
            if line.startswith(key)
        )
        Path("/proc/self/clear_refs").write_text("5")
        return now, high


class Plain(Packed):
    """The same, of a worker that does not pack."""


def _plain(layer: Any, remove_weight: bool) -> None:
    layer.cpu_linear = torch.nn.functional.linear


def keep_plain() -> type[Plain]:
    """Let linear weights stay what they are in this process."""
    utils.dispatch_cpu_unquantized_gemm = _plain
    return Plain


def __getattr__(name: str) -> Any:
    if name == "PlainWeights":
        return keep_plain()
    raise AttributeError(name)
