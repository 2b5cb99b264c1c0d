"""Chains longer than a process may open files: few descriptors, and shared records."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from sparsediff import WrongBaseError, apply_patch, iter_updates, make_patch, squash_patches
from sparsediff.apply import chain
from sparsediff.disk import inputs
from tests.support.pairs import bf16, step_of_training, tree, words, write_safetensors

LENGTH = 100


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files ``0`` to ``LENGTH`` and the patches between them."""
    root = tmp_path_factory.mktemp("steps")
    for i in range(LENGTH + 1):
        _, after = step_of_training(600, i * 1e-6)
        tensors = {"w": words("BF16", bf16(after)), "v": words("BF16", bf16(after[:50]))}
        write_safetensors(root / f"{i}", tensors)
        if i:
            make_patch(root / f"{i - 1}", root / f"{i}", root / f"{i:03}.sdiff", jobs=1)
    return root


@pytest.fixture
def patches(steps: Path) -> list[Path]:
    return sorted(steps.glob("*.sdiff"))


@pytest.fixture
def few_descriptors(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail a test in which more patches are open at once than a pool may hold."""
    monkeypatch.setattr(inputs, "_MAX_OPEN", 8)
    open_file, most = inputs.InputFile.open, 0

    def counting(file: inputs.InputFile) -> int:
        nonlocal most
        fd = open_file(file)
        n_open = 0
        for name in os.listdir("/proc/self/fd"):
            with suppress(OSError):  # closed meanwhile, by another thread
                n_open += os.readlink(f"/proc/self/fd/{name}").endswith(".sdiff")
        most = max(most, n_open)
        return fd

    monkeypatch.setattr(inputs.InputFile, "open", counting)
    yield
    assert 0 < most <= 8


@pytest.mark.usefixtures("few_descriptors", "nothing_left")
def test_all_verbs_hold_few_patches_open(steps: Path, patches: list[Path], tmp_path: Path) -> None:
    patches = patches[:30]
    base, target = steps / "0", steps / "30"
    apply_patch(base, patches, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == target.read_bytes()
    squash_patches(base, patches, tmp_path / "squashed")
    make_patch(base, target, tmp_path / "made")
    assert (tmp_path / "squashed").read_bytes() == (tmp_path / "made").read_bytes()
    (tmp_path / "live").write_bytes(base.read_bytes())
    apply_patch(tmp_path / "live", patches, in_place=True)
    assert (tmp_path / "live").read_bytes() == target.read_bytes()
    together, alone = (
        [(u.name, u.indices.tolist(), u.values.tolist()) for u in iter_updates(way, base)]
        for way in (patches, tmp_path / "made")
    )
    assert together == alone


def test_limit_of_the_process(steps: Path, patches: list[Path], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sparsediff", "apply", steps / "0", *patches, "-q"]
    done = subprocess.run(
        list(map(str, [*command, "-o", tmp_path / "out"])),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)),
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "out").read_bytes() == (steps / f"{LENGTH}").read_bytes()


def test_records_that_do_not_change_are_held_once(patches: list[Path]) -> None:
    with chain.open_chain(patches[:3]) as opened:
        first, *later = (patch.manifest for patch in opened)
        for manifest in later:
            assert manifest.tensors is first.tensors
            assert manifest.parts is first.parts
            assert manifest.buckets[0].tensors is first.buckets[0].tensors
            assert manifest.buckets[0].digest != first.buckets[0].digest


def test_last_patch_that_does_not_continue_is_refused_before_anything_is_written(
    steps: Path, patches: list[Path], tmp_path: Path
) -> None:
    make_patch(steps / "3", steps / "4", tmp_path / "other.sdiff", bucket_words=100)
    before = tree(tmp_path)
    for wrong in (patches[7], tmp_path / "other.sdiff"):
        with pytest.raises(WrongBaseError):
            apply_patch(steps / "0", [*patches, wrong], tmp_path / "out")
    assert tree(tmp_path) == before
