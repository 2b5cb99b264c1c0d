"""squash: one patch from a chain, the very one that make writes, and nothing left over."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from sparsediff import UnavailableError, UsageError, make_patch, squash_patches
from sparsediff.apply import chain as chain_module
from sparsediff.apply import squash
from sparsediff.disk import names, outputs
from tests.conftest import Run
from tests.support.pairs import RNG, model_directory, training_pair, tree, write_safetensors

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.fixture
def steps(tmp_path: Path) -> list[Path]:
    """Four checkpoints; the third is sharded and named otherwise than the others."""
    made = [model_directory(tmp_path / f"s{i}", lr=i * 2e-6 or None) for i in range(4)]
    os.rename(made[2] / "model-00001-of-00002.safetensors", made[2] / "first.safetensors")
    (made[3] / "config.json").unlink()
    return made


@pytest.fixture
def chain(steps: list[Path], tmp_path: Path) -> list[Path]:
    patches = [tmp_path / f"{i}.sdiff" for i in range(3)]
    for i, patch in enumerate(patches):
        make_patch(steps[i], steps[i + 1], patch)
    return patches


def direct(base: Path, target: Path) -> bytes:
    """The patch that make writes."""
    stream = io.BytesIO()
    make_patch(base, target, stream)
    return stream.getvalue()


@pytest.mark.parametrize("length", [1, 2, 3])
def test_same_bytes_as_make(
    length: int, steps: list[Path], chain: list[Path], tmp_path: Path
) -> None:
    for jobs in (1, 3):
        result = squash_patches(
            steps[0], chain[:length], tmp_path / "out", jobs=jobs, force=jobs > 1
        )
        assert (tmp_path / "out").read_bytes() == direct(steps[0], steps[length])
        assert (tmp_path / "out").stat().st_size == result.patch_bytes


def test_single_files_and_streams(tmp_path: Path) -> None:
    before, after = training_pair()
    files = [
        write_safetensors(tmp_path / name, {"w": w})
        for name, w in (("a", before), ("b", after), ("c", before))
    ]
    patches = [io.BytesIO(direct(*pair)) for pair in pairwise(files)]
    squash_patches(files[0], patches, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == direct(files[0], files[2])  # there and back


def test_anchors(steps: list[Path], chain: list[Path], tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    make_patch(tmp_path / "nothing", steps[0], tmp_path / "anchor")
    squash_patches(tmp_path / "nothing", [tmp_path / "anchor", *chain], tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == direct(tmp_path / "nothing", steps[3])


def test_command_line(cli: Run, steps: list[Path], chain: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out.sdiff"
    code, printed, err = cli("squash", steps[0], *chain[:2], "-o", out)
    assert (code, err) == (0, "")
    assert printed.startswith(f"{out}: ")
    assert "elements changed" in printed
    code, printed, err = cli("squash", steps[0], *chain[:2], "-o", out, "-f", "--json")
    assert json.loads(printed)["patch_bytes"] == out.stat().st_size


def test_progress_ends_at_its_total(tmp_path: Path) -> None:
    for name, tensor in zip("ab", training_pair(), strict=True):
        write_safetensors(tmp_path / name, {"w": tensor})
    make_patch(tmp_path / "a", tmp_path / "b", tmp_path / "p")
    told: list[tuple[int, int]] = []
    squash_patches(
        tmp_path / "a", tmp_path / "p", tmp_path / "out", progress=lambda *now: told.append(now)
    )
    assert told == sorted(told)
    assert told[-1][0] == told[-1][1] == 2 * (tmp_path / "b").stat().st_size
    assert len({total for _, total in told}) == 1


def test_refusals(cli: Run, steps: list[Path], chain: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    damaged = tmp_path / "damaged.sdiff"
    raw = bytearray(chain[1].read_bytes())
    raw[-1] ^= 1
    damaged.write_bytes(raw)
    before = tree(tmp_path)
    for code, words, args in [
        (10, ["wrong base"], [steps[3], *chain, "-o", out]),
        (10, ["does not continue", chain[0].name], [steps[0], chain[0], chain[2], "-o", out]),
        (11, [damaged.name, "SHA-256"], [steps[0], chain[0], damaged, "-o", out]),
        (2, [chain[1].name, "inputs"], [steps[0], *chain, "-o", chain[1], "-f"]),
        (2, ["inputs"], [steps[0], *chain, "-o", steps[0] / "p"]),
        (2, ["exists"], [steps[0], *chain, "-o", damaged]),
        (2, ["BASE first"], [chain[0], chain[1], "-o", out]),
        (2, ["must be a file"], [steps[0], *chain, "-o", "-"]),
        (2, ["output is empty"], [steps[0], *chain, "-o", ""]),
        (2, ["no such file"], [tmp_path / "no", *chain, "-o", out]),
        (2, ["no such file"], [steps[0], tmp_path / "no", "-o", out]),
        (2, ["does not exist"], [steps[0], *chain, "-o", tmp_path / "no" / "out"]),
    ]:
        found, printed, err = cli("squash", *args)
        assert (found, printed, err.count("\n")) == (code, "", 1), (args, err)
        assert all(word in err for word in words), err
        assert tree(tmp_path) == before
    with pytest.raises(UsageError, match="at least one patch"):
        squash_patches(steps[0], [], out)


def test_disk_full(cli: Run, tmp_path: Path) -> None:
    """The target does not fit next to the output."""
    small = tmp_path / "small"
    small.mkdir()
    for i in range(2):
        (tmp_path / f"s{i}").write_bytes(RNG(0).bytes(1 << 20) + bytes([i]))
    make_patch(tmp_path / "s0", tmp_path / "s1", tmp_path / "p")
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(small)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("cannot mount a file system here")
    try:
        code, out, err = cli("squash", tmp_path / "s0", tmp_path / "p", "-o", small / "out")
        assert (code, out, err.count("\n")) == (13, "", 1)
        assert "no space left" in err
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_second_run_is_locked(
    cli: Run, steps: list[Path], chain: list[Path], tmp_path: Path
) -> None:
    with outputs.staged_file(tmp_path / "out", force=False):
        code, _, err = cli("squash", steps[0], *chain, "-o", tmp_path / "out")
    assert (code, err.count("\n")) == (14, 1)


def test_next_run_removes_what_a_killed_one_left(
    steps: list[Path], chain: list[Path], tmp_path: Path
) -> None:
    left = names.temp_sibling(tmp_path / "out", 0)
    shutil.copytree(steps[1], left / "target")
    (left / "target" / "more").write_text("of another chain")
    (left / "patch").write_text("half a patch")
    names.temp_sibling(tmp_path / "out").write_text("stale")
    squash_patches(steps[0], chain, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == direct(steps[0], steps[3])


def test_base_that_changes_between_rebuilding_and_making(
    steps: list[Path], chain: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rebuild(*args: Any) -> None:
        original(*args)
        shutil.copy(steps[1] / "config.json", steps[0] / "config.json")

    original = chain_module.rebuild_chain
    monkeypatch.setattr(squash, "rebuild_chain", rebuild)
    with pytest.raises(UnavailableError, match="changed while it was read"):
        squash_patches(steps[0], chain, tmp_path / "out")
    assert not (tmp_path / "out").exists()
