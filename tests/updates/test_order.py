"""Tensors that grow: their words are in two buckets, of which either may come first."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from sparsediff import export_patch, iter_updates, make_patch
from sparsediff.torch import iter_updates as iter_in_torch
from tests.support.pairs import RNG, Array, words, write_safetensors

OLD = {"a": 300, "b": 200, "c": 100, "d": 50}


def steps(n_steps: int, more: int) -> list[dict[str, Array]]:
    """Tensors of which b and d grow at each step, and d alone changes nothing else."""
    found = [
        {name: RNG(i).integers(0, 1 << 16, n, np.uint16) for i, (name, n) in enumerate(OLD.items())}
    ]
    for step in range(1, n_steps):
        last, random = found[-1], RNG(10 + step)
        now = {name: words.copy() for name, words in last.items()}
        for name in "abc":
            now[name][random.random(now[name].size) < 0.3] ^= 1
        for name in "bd":
            now[name] = np.append(now[name], random.integers(0, 1 << 16, more, np.uint16))
        found.append(now)
    return found


@pytest.mark.parametrize("bucket_words", [7, 90, 120, 260, 1 << 20])
@pytest.mark.parametrize("first", ["new", "b"])
@pytest.mark.parametrize("n_steps", [2, 3])
def test_updates_of_a_tensor_follow_each_other_in_increasing_order(
    n_steps: int, first: str, bucket_words: int, tmp_path: Path
) -> None:
    states = steps(n_steps, 30)
    if first == "new":  # then a bucket of words without a base is the first
        states[1:] = [{"0": RNG(5).integers(0, 9, 40, np.uint16)} | state for state in states[1:]]
    paths = [tmp_path / f"{i}.safetensors" for i in range(n_steps)]
    for path, state in zip(paths, states, strict=True):
        write_safetensors(path, {name: words("BF16", value) for name, value in state.items()})
    patches = [tmp_path / f"{i}.sdiff" for i in range(n_steps - 1)]
    for i, patch in enumerate(patches):
        make_patch(paths[i], paths[i + 1], patch, bucket_words=bucket_words)

    order: list[str] = []
    held = {name: value.copy() for name, value in states[0].items()}
    for update in iter_updates(patches, paths[0], jobs=1):
        if update.name not in order[-1:]:
            order.append(update.name)
            last = -1
        assert last < update.indices[0]
        assert (np.diff(update.indices) > 0).all()
        last = int(update.indices[-1])
        value = held.get(update.name, np.empty(0, np.uint16))
        held[update.name] = np.resize(value, update.n_words)
        held[update.name][update.indices] = update.values
    assert len(order) == len(set(order)), order
    assert {name: value.tobytes() for name, value in held.items()} == {
        name: value.tobytes() for name, value in states[-1].items()
    }
    whole = [update.name for update in iter_in_torch(patches, paths[0], jobs=1)]
    assert sorted(whole) == sorted(set(order))
    if n_steps == 2:
        export_patch(patches[0], paths[0], tmp_path / "e.safetensors")
        for name, entry in load_file(tmp_path / "e.safetensors").items():
            if name.endswith(".indices"):
                assert (entry.diff() > 0).all(), name
