"""apply --files: a machine that holds a share of a checkpoint rebuilds its share."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from sparsediff import apply_patch, make_patch
from sparsediff.errors import UsageError, WrongBaseError
from tests.conftest import Run
from tests.support.pairs import training_pair, tree, write_safetensors
from tests.support.refusals import EXIT, refused


@pytest.fixture
def steps(tmp_path: Path) -> list[Path]:
    """Three steps of four shards; in the last, a tensor has moved to another shard."""
    made = []
    for step in range(3):
        place = tmp_path / f"step_{step}"
        for shard in range(4):
            tensors = {f"w{shard}": training_pair(3000, 1e-5, seed=shard)[min(step, 1)]}
            if shard == (3 if step == 2 else 0):
                tensors["moved"] = training_pair(2000, seed=9)[0]
            write_safetensors(place / f"model-{shard}.safetensors", tensors)
        (place / "config.json").write_text(json.dumps({"step": step}))
        made.append(place)
    return made


@pytest.fixture
def patches(steps: list[Path], tmp_path: Path) -> list[Path]:
    """From each step to the next."""
    for i in (0, 1):
        make_patch(steps[i], steps[i + 1], tmp_path / f"{i}.sdiff")
    return [tmp_path / "0.sdiff", tmp_path / "1.sdiff"]


def share_of(place: Path, names: set[str]) -> dict[str, bytes]:
    return {name: data for name, data in tree(place).items() if name in names}


def test_share_is_rebuilt_from_a_share(
    steps: list[Path], patches: list[Path], tmp_path: Path
) -> None:
    base = tmp_path / "share"
    base.mkdir()
    for name in ("model-1.safetensors", "model-2.safetensors"):
        shutil.copy(steps[0] / name, base)
    result = apply_patch(base, patches[0], tmp_path / "out", files=["model-[12]*"])
    wanted = share_of(steps[1], {"model-1.safetensors", "model-2.safetensors"})
    assert tree(tmp_path / "out") == wanted
    assert result.target_bytes == sum(map(len, wanted.values()))


def test_chain_rebuilds_on_the_way_what_the_share_comes_from(
    steps: list[Path], patches: list[Path], tmp_path: Path
) -> None:
    base = tmp_path / "share"
    base.mkdir()
    for name in ("model-0.safetensors", "model-3.safetensors"):  # where the tensor was before
        shutil.copy(steps[0] / name, base)
    apply_patch(base, patches, tmp_path / "out", files=["model-3*"])
    assert tree(tmp_path / "out") == share_of(steps[2], {"model-3.safetensors"})


def test_file_that_the_share_comes_from_and_is_missing_is_named(
    steps: list[Path], patches: list[Path], tmp_path: Path
) -> None:
    (steps[0] / "model-0.safetensors").unlink()
    with pytest.raises(WrongBaseError, match=r"model-0\.safetensors"):
        apply_patch(steps[0], patches, tmp_path / "out", files=["model-3*"])
    assert not (tmp_path / "out").exists()


def test_on_the_command_line(
    cli: Run, steps: list[Path], patches: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    code, text, _ = cli(
        "apply", steps[0], patches[0], "--files", "*.json", "--files", "model-0*", "-o", out
    )
    assert code == 0
    assert "verified, from 1 patch" in text
    assert tree(out) == share_of(steps[1], {"config.json", "model-0.safetensors"})


def test_what_cannot_be_a_share_is_refused(
    cli: Run, steps: list[Path], patches: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    nothing = cli("apply", steps[0], patches[0], "--files", "*.bin", "-o", out)
    refused(nothing, EXIT["usage"], "none of the target's files matches --files", "*.bin")
    code, _, err = cli("apply", steps[0], patches[0], "--files", "*.bin", "--in-place")
    assert code == EXIT["usage"]
    assert "--files writes a share to -o OUT" in err
    one, other = (step / "model-1.safetensors" for step in steps[:2])
    make_patch(one, other, tmp_path / "one.sdiff")
    with pytest.raises(UsageError, match="leads to one file"):
        apply_patch(one, tmp_path / "one.sdiff", out, files=["*"])
    assert not out.exists()
