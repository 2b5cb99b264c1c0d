"""Series to report on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sparsediff import SeriesStats, series_stats
from tests.support.pairs import Array, bf16, words, write_safetensors

HOSTILE = [
    "<script>pwned=1</script>",
    "</script><img src=x onerror=pwned=1>",
    "{{ 7*7 }} & \"'`${pwned=1}",
]


def checkpoint(masters: dict[str, Array]) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    return {name: words("BF16", bf16(w)) for name, w in masters.items()}


@pytest.fixture(scope="session")
def series(tmp_path_factory: pytest.TempPathFactory) -> SeriesStats:
    """Four steps of a small mixture of experts, three of whose tensors have hostile names."""
    rng = np.random.default_rng(3)
    names = ["model.embed_tokens.weight"]
    for i in range(3):
        layer = f"model.layers.{i}"
        names += [f"{layer}.self_attn.q_proj.weight", f"{layer}.mlp.gate.weight"]
        names += [f"{layer}.mlp.experts.{k}.up_proj.weight" for k in range(4)]
    names += [*HOSTILE, "model.norm.weight"]
    masters: dict[str, Array] = {
        n: (rng.standard_normal(3000) * 0.02).astype(np.float32) for n in names
    }
    masters["model.norm.weight"][:] = 1
    place = tmp_path_factory.mktemp("series")
    paths: list[Path] = []
    for step in range(5):
        paths.append(write_safetensors(place / f"step_{step:03}.safetensors", checkpoint(masters)))
        masters = {
            n: (w - 3e-6 * np.sign(rng.standard_normal(w.size))).astype(np.float32)
            for n, w in masters.items()
        }
    return series_stats(paths, patches=True)
