"""A tensor may be called "": it is no file of unknown format, and is updated like any other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

import sparsediff
from sparsediff import WrongBaseError
from sparsediff import torch as live
from sparsediff.checkpoint.formats import opaque

Arrays = dict[str, np.ndarray]


@pytest.fixture
def pair() -> tuple[Arrays, Arrays]:
    before = {"": np.arange(64, dtype=np.float32), "x": np.zeros(8, np.float32)}
    return before, {"": before[""] + (np.arange(64) % 9 == 0), "x": before["x"]}


@pytest.fixture
def patch(pair: tuple[Arrays, Arrays], tmp_path: Path) -> Path:
    for name, arrays in zip("ab", pair, strict=True):
        save_file(arrays, tmp_path / f"{name}.safetensors")
    a, b, patch = (tmp_path / n for n in ("a.safetensors", "b.safetensors", "p.sdiff"))
    sparsediff.make_patch(a, b, patch)
    return patch


def test_its_updates_are_listed(pair: tuple[Arrays, Arrays], patch: Path) -> None:
    for base in (patch.with_name("a.safetensors"), pair[0]):
        (update,) = sparsediff.iter_updates(patch, base)
        assert (update.name, update.n_based) == ("", 64)
        assert update.indices.tolist() == list(range(0, 64, 9))
        assert update.values.view(np.float32).tolist() == pair[1][""][::9].tolist()
        assert sparsediff.removed_tensors(patch, base) == []


def test_it_is_exported(pair: tuple[Arrays, Arrays], patch: Path, tmp_path: Path) -> None:
    sparsediff.export_patch(patch, tmp_path / "a.safetensors", tmp_path / "e.safetensors")
    exported = load_file(tmp_path / "e.safetensors")
    assert exported[".indices"].tolist() == list(range(0, 64, 9))
    assert exported[".values"].tolist() == pair[1][""][::9].tolist()


@pytest.mark.parametrize("verify_result", [True, False])
def test_it_changes_live(
    pair: tuple[Arrays, Arrays], patch: Path, tmp_path: Path, verify_result: bool
) -> None:
    before, after = ({n: torch.from_numpy(a) for n, a in arrays.items()} for arrays in pair)
    live.make_patch(before, after, tmp_path / "memory.sdiff")
    for made in (patch, tmp_path / "memory.sdiff"):
        state = {name: t.clone() for name, t in before.items()}
        result = live.apply_to_state_dict(made, state, verify_result=verify_result)
        assert (result.changed, result.unreached) == ([""], [])
        assert torch.equal(state[""], after[""])
    del state[""]
    with pytest.raises(WrongBaseError, match=r"tensor ''.*missing"):
        live.apply_to_state_dict(patch, state)


def test_it_is_counted_and_shown(patch: Path) -> None:
    stats = sparsediff.patch_stats(patch)
    assert [(t.label, t.opaque, t.n_changed) for t in stats.tensors] == [
        ('""', False, 8),
        ("x", False, 0),
    ]
    assert stats.total.n_elements == 72


def test_it_is_not_mistaken_for_the_bytes_of_a_file(tmp_path: Path) -> None:
    """In the same place of base and target, a large file of no known format and a tensor ""."""
    size = opaque.MAX_SKELETON + 1
    noise = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    a, b = tmp_path / "a", tmp_path / "b"
    for path in (a, b):
        path.mkdir()
    (a / "f").write_bytes(noise.tobytes())
    save_file({"": noise}, b / "f")
    for base, target in ((a, b), (b, a)):
        patch = tmp_path / f"{base.name}.sdiff"
        sparsediff.make_patch(base, target, patch)
        sparsediff.apply_patch(base, patch, tmp_path / f"{base.name}.out")
        written = (tmp_path / f"{base.name}.out" / "f").read_bytes()
        assert written == (target / "f").read_bytes()
    updates = list(sparsediff.iter_updates(tmp_path / "a.sdiff", a))
    assert {(u.name, u.n_based) for u in updates} == {("", 0)}
    assert sum(u.values.size for u in updates) == size
    assert list(sparsediff.iter_updates(tmp_path / "b.sdiff", b)) == []
    assert sparsediff.removed_tensors(tmp_path / "b.sdiff", b) == [""]
