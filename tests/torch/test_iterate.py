"""Updates in tensors are the updates of `sparsediff.iter_updates`, one for each tensor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import sparsediff
from sparsediff import UnsupportedError, make_patch
from sparsediff.torch import in_memory, iter_updates
from tests.support.engine import checkpoint, save, step
from tests.support.pairs import change_some, write_safetensors


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.int64, torch.uint8])
def test_one_update_for_each_tensor(dtype: torch.dtype, tmp_path: Path) -> None:
    before = checkpoint(dtype)
    after = step(before, 0.3, 1)
    grown = torch.cat([after["norm.weight"], after["norm.weight"]])
    after = step(after, 0.1, 2) | {"norm.weight": grown, "new": grown.clone()}
    paths = [save(before, tmp_path / "a"), save(step(before, 0.3, 1), tmp_path / "b")]
    paths.append(save(after, tmp_path / "c"))
    patches = []
    for i in (0, 1):
        patches.append(tmp_path / f"{i}.sdiff")
        make_patch(paths[i], paths[i + 1], patches[-1], bucket_words=100)
    plain = list(sparsediff.iter_updates(patches, paths[0]))
    found = list(iter_updates(patches, paths[0]))
    assert [u.name for u in found] == list(dict.fromkeys(u.name for u in plain))
    assert len(found) <= len(plain)
    for update in found:
        assert update.dtype == dtype
        own = [u for u in plain if u.name == update.name]
        assert update.indices.tolist() == np.concatenate([u.indices for u in own]).tolist()
        bits = update.words.dtype
        assert torch.equal(update.words, after[update.name].view(-1).view(bits)[update.indices])
        assert torch.equal(update.words.view(update.dtype).view(bits), update.words)
        based = update.indices[update.indices < update.n_based]
        old = before.get(update.name, after[update.name]).view(-1).view(bits)
        assert torch.equal(update.base_words, old[based])
    named = {u.name: u for u in found}
    assert named["new"].n_based == 0
    assert named["norm.weight"].n_based == 16
    in_tensors = list(iter_updates(patches[0], in_memory(before)))
    assert {u.name for u in in_tensors} <= set(named)


def test_a_dtype_that_torch_has_not(tmp_path: Path) -> None:
    data = bytes(96)
    a = write_safetensors(tmp_path / "a", {"x": ("F6_E2M3", (128,), data)})
    b = write_safetensors(tmp_path / "b", {"x": ("F6_E2M3", (128,), change_some(data, 0.2))})
    make_patch(a, b, tmp_path / "p")
    with pytest.raises(UnsupportedError, match="PyTorch has no such dtype"):
        list(iter_updates(tmp_path / "p", a))
