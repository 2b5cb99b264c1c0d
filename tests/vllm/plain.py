"""For workers of vLLM in tests: weights as on a GPU, their digests, and a rank that fails.

Given as ``--worker-extension-cls``, so it is imported in each worker before the model is.
On CPUs vLLM packs linear weights and drops them; ``Plain`` leaves them as they are.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from vllm.model_executor.layers import utils

from sparsediff.torch import staged


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
            middle = words is part.new and part.tensors[0][0].endswith("norm.weight")
            if middle and self.rank == rank and Path(path).exists():
                raise RuntimeError("injected failure")

        staged.Staged._put = staticmethod(failing)  # type: ignore[method-assign]


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
