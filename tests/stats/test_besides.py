"""Bits per change are those of the words, whatever else a checkpoint holds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from sparsediff.stats import checkpoint_stats
from tests.conftest import Run
from tests.support.pairs import RNG, words, write_safetensors


def pair(place: Path, besides: int) -> tuple[Path, Path]:
    """Two checkpoints with the same change, and ``besides`` bytes of another file that differs."""
    before = RNG(0).integers(0, 1 << 16, 5000).astype(np.uint16)
    after = before.copy()
    after[::50] ^= 1
    for seed, (name, array) in enumerate({"a": before, "b": after}.items()):
        write_safetensors(place / name / "m.safetensors", {"w": words("BF16", array)})
        (place / name / "vocabulary.txt").write_bytes(RNG(seed).bytes(besides))
    return place / "a", place / "b"


def test_files_beside_the_tensors_do_not_count(tmp_path: Path, cli: Run) -> None:
    small = checkpoint_stats(*pair(tmp_path / "small", 0)).total
    a, b = pair(tmp_path / "large", 100_000)
    large = checkpoint_stats(a, b).total
    assert large.patch_bytes > small.patch_bytes + 90_000
    assert large.bits_per_changed == small.bits_per_changed
    assert small.n_changed == 100
    assert small.bits_per_changed == 8 * small.payload_bytes / 100
    made = json.loads(cli("make", a, b, "-o", tmp_path / "p.sdiff", "--json")[1])
    assert made["bits_per_changed"] == small.bits_per_changed
