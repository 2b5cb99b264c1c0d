"""Small buckets that are read together come out, or are refused, as each by itself."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sparsediff import SparsediffError, apply_patch, make_patch, verify_patch
from sparsediff.apply.batches import batches
from sparsediff.apply.rebuild import tasks
from sparsediff.patch import words
from sparsediff.patch.container import open_patch
from tests.support.pairs import RNG, Array, Stored, tree, write_safetensors
from tests.support.pairs import words as stored

N = 300  # words of each tensor
N_TENSORS = 6
Moved = dict[tuple[int, int], list[int]]
"""By file and tensor, the words that have moved by a step."""
STEPS: list[Moved] = [{}, {(0, 2): [7, 250], (1, 5): [299]}, {(0, 2): [8, 250], (1, 0): [0]}]

pytestmark = pytest.mark.usefixtures("nothing_left")


def checkpoint(path: Path, moved: Moved) -> Path:
    """Two files of tensors of two dtypes."""
    path.mkdir()
    for file in range(2):
        tensors: dict[str, Stored] = {}
        for i in range(N_TENSORS):
            dtype, kind = ("BF16", np.uint16) if i % 3 else ("F32", np.uint32)
            data: Array = RNG(10 * file + i).integers(0, 1 << 15, N).astype(kind)
            data[moved.get((file, i), [])] += 1
            tensors[f"layers.{i}.w{file}"] = stored(dtype, data)
        write_safetensors(path / f"{file}.safetensors", tensors)
    return path


@pytest.fixture
def steps(tmp_path: Path) -> list[Path]:
    return [checkpoint(tmp_path / f"step{i}", moved) for i, moved in enumerate(STEPS)]


def patches(steps: list[Path], bucket_words: int) -> list[Path]:
    found = [steps[0].parent / f"{i}.sdiff" for i in (1, 2)]
    for patch, base, target in zip(found, steps[:2], steps[1:], strict=True):
        make_patch(base, target, patch, bucket_words=bucket_words)
    return found


@pytest.mark.parametrize("bucket_words", [1, 7, 1 << 24])
@pytest.mark.parametrize("jobs", [1, 2])
def test_rebuilt_exactly(steps: list[Path], tmp_path: Path, bucket_words: int, jobs: int) -> None:
    chain = patches(steps, bucket_words)
    for patch, base, target in zip(chain, steps[:2], steps[1:], strict=True):
        verify_patch(patch, base=base, target=target, jobs=jobs)
    apply_patch(steps[0], chain[0], tmp_path / "one", jobs=jobs)
    apply_patch(steps[0], chain, tmp_path / "both", jobs=jobs)
    shutil.copytree(steps[0], tmp_path / "live")
    apply_patch(tmp_path / "live", chain, in_place=True, jobs=jobs)
    assert tree(tmp_path / "one") == tree(steps[1])
    assert tree(tmp_path / "both") == tree(tmp_path / "live") == tree(steps[2])
    apply_patch(tmp_path / "live", chain, in_place=True, jobs=jobs)  # it knows that it is done
    with open_patch(chain[0]) as opened:
        alone, together = [*tasks([opened])], []
    with open_patch(chain[0]) as opened:
        for batch in batches([opened], tasks([opened])):
            together += [(task.file, task.bucket) for task in batch]
    assert together == [(task.file, task.bucket) for task in alone]


def test_few_batches_of_many_buckets(steps: list[Path]) -> None:
    chain = patches(steps, 1)
    with open_patch(chain[0]) as opened:
        sizes = [len(batch) for batch in batches([opened], tasks([opened]))]
    stored_buckets = 3  # of one word each, which are alone
    assert sum(sizes) == 2 * (N * N_TENSORS + 1)
    assert len(sizes) < 2 * 2 * (stored_buckets + 2)


Check = Callable[[Path, Path, Path], object]
CHECKS: dict[str, Check] = {
    "apply": lambda base, patch, out: apply_patch(base, patch, out),
    "in place": lambda base, patch, _: apply_patch(base, patch, in_place=True),
    "verify": lambda base, patch, _: verify_patch(patch, base=base),
    "target": lambda base, patch, _: verify_patch(patch, target=base),
}


@pytest.mark.parametrize("check", [*CHECKS])
@pytest.mark.parametrize("at", [0, 1111, N * N_TENSORS])
def test_damage_is_named_as_before(
    steps: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, check: str, at: int
) -> None:
    patch = patches(steps, 3)[0]
    wrong = steps[1 if check == "target" else 0] / "0.safetensors"
    data = bytearray(wrong.read_bytes())
    data[-1 - at] ^= 1
    wrong.write_bytes(data)

    def said() -> str:
        with pytest.raises(SparsediffError) as info:
            CHECKS[check](wrong.parent, patch, tmp_path / "out")
        return f"{type(info.value).__name__}: {info.value}"

    found = said()
    assert "layers." in found
    monkeypatch.setattr(words, "MAX_RUN_PARTS", 1)  # so that each is alone
    assert said() == found
