"""A chain in place: every file is written once, from whichever of the chain's states it is in."""

from __future__ import annotations

import os
import shutil
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsediff import WrongBaseError, apply_patch, make_patch
from sparsediff.apply import chain, in_place
from sparsediff.cli import run
from tests.support.kills import killed_at_each_point
from tests.support.pairs import bf16, model_directory, step_of_training, tree, words
from tests.support.pairs import write_safetensors as write_tensors

Content = dict[str, bytes]


def write(root: Path, files: Content) -> Path:
    """A directory of these files."""
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def chain_of(root: Path, states: list[Content]) -> list[Path]:
    """Patches between states in a row."""
    steps = [write(root / f"s{i}", files) for i, files in enumerate(states)]
    patches = [root / f"{i}.sdiff" for i in range(len(states) - 1)]
    for (a, b), patch in zip(pairwise(steps), patches, strict=True):
        make_patch(a, b, patch, jobs=1)
    return patches


def tensors_at(tmp: Path, name: str, step: int) -> bytes:
    """A file with a tensor of its own, after so many steps of training."""
    _, after = step_of_training(400 + len(name), step * 1e-6, seed=sum(name.encode()))
    return write_tensors(tmp / "t", {name: words("BF16", bf16(after))}).read_bytes()


@pytest.fixture
def steps(tmp_path: Path) -> list[Path]:
    return [model_directory(tmp_path / f"s{i}", lr=i * 1e-6 or None) for i in range(5)]


@pytest.fixture
def patches(steps: list[Path]) -> list[Path]:
    found = [steps[0].parent / f"{i}.sdiff" for i in range(4)]
    for (a, b), patch in zip(pairwise(steps), found, strict=True):
        make_patch(a, b, patch)
    return found


def test_each_file_is_written_once(steps: list[Path], patches: list[Path], tmp_path: Path) -> None:
    live = tmp_path / "live"
    shutil.copytree(steps[0], live)
    changed = [n for n, b in tree(steps[0]).items() if tree(steps[4])[n] != b]
    result = apply_patch(live, patches, in_place=True)
    assert tree(live) == tree(steps[4])
    assert result.written_bytes == sum((live / name).stat().st_size for name in changed)


def test_files_in_any_mixture_of_states(
    steps: list[Path], patches: list[Path], tmp_path: Path
) -> None:
    """As runs leave them that were killed, with chains of other lengths."""
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    for first, second in product((0, 2, 4), repeat=2):
        live = tmp_path / "live"
        shutil.copytree(steps[0], live)
        for name, step in zip(shards, (first, second), strict=True):
            shutil.copyfile(steps[step] / name, live / name)
        apply_patch(live, patches, in_place=True)
        assert tree(live) == tree(steps[4])
        shutil.rmtree(live)


def test_file_in_no_state_leaves_all_alone(
    steps: list[Path], patches: list[Path], tmp_path: Path
) -> None:
    live = tmp_path / "live"
    shutil.copytree(steps[2], live)
    shard = live / "model-00002-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1] + b"\x77")
    before = tree(live)
    with pytest.raises(WrongBaseError, match=shard.name):
        apply_patch(live, patches, in_place=True)
    assert tree(live) == before


@pytest.mark.parametrize("kind", ["file", "directory", "empty directory"])
def test_what_is_in_the_way_leaves_all_alone(kind: str, tmp_path: Path) -> None:
    new = "n/f" if kind == "file" else "n"
    patches = chain_of(tmp_path, [{"m": b"A"}, {"m": b"B"}, {"m": b"C", new: b"new"}])
    live = tmp_path / "s0"
    if kind == "file":
        (live / "n").write_text("mine")
    else:
        (live / "n").mkdir()
    if kind == "directory":
        (live / "n" / "own").write_text("mine")
    before = tree(live)
    with pytest.raises(WrongBaseError, match="should be a"):
        apply_patch(live, patches, in_place=True)
    assert tree(live) == before


SLOW = [pytest.param(o, marks=pytest.mark.slow) for o in (["d", None, "d/f"], ["x", None, "x"])]


@pytest.mark.parametrize("order", [["d/f", None, "d"], *SLOW])
def test_kill_at_any_point_is_finished_by_another_run(
    order: list[str | None], tmp_path: Path
) -> None:
    """Weights go on through it, and a file goes that comes back as something else."""
    states: list[Content] = []
    for i, name in enumerate([*order, order[-1]]):
        states.append({n: tensors_at(tmp_path, n, i) for n in ("a", "z")})
        if name:
            states[-1][name] = f"{name}{i}".encode()
    patches = chain_of(tmp_path, states)
    live = tmp_path / "live"
    arguments = ["apply", "--in-place", str(live), *map(str, patches), "-q", "-j", "1"]
    possible = {content for files in states for content in files.values()}
    points = 0

    def prepare() -> None:
        write(live, states[0])

    for point in killed_at_each_point(prepare, lambda: run(arguments), tmp_path / "log", tmp_path):
        points += 1
        seen = {n: b for n, b in tree(live).items() if not os.path.basename(n).startswith(".")}
        assert possible.issuperset(seen.values()), point
        assert run(arguments) == 0, point
        assert tree(live) == states[-1], point
    assert points > 5


@settings(max_examples=20)
@given(st.data())
def test_any_chain_stopped_anywhere(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Files change, come, go and come back; the run stops, and another has a longer chain."""
    work = tmp_path_factory.mktemp("any")
    names = ["a", "b/bb", "b/bbb"]
    n_states = data.draw(st.integers(2, 4))
    states: list[Content] = []
    for _ in range(n_states):
        kinds = {n: data.draw(st.sampled_from(["none", "text", "0", "1", "2"])) for n in names}
        states.append({"always": data.draw(st.binary(max_size=3))})
        for name, kind in kinds.items():
            if kind == "text":
                states[-1][name] = data.draw(st.binary(max_size=4))
            elif kind != "none":
                states[-1][name] = tensors_at(work, name, int(kind))
    patches = chain_of(work, states)
    live = write(work / "live", states[0])
    first = data.draw(st.integers(1, len(patches)))
    stop_after, done = data.draw(st.integers(0, 6)), 0
    originals = {name: getattr(in_place, name) for name in ("_replace", "_remove")}

    def counting(name: str) -> Any:
        def call(*args: Any) -> None:
            nonlocal done
            if done == stop_after:
                raise KeyboardInterrupt
            done += 1
            originals[name](*args)

        return call

    with pytest.MonkeyPatch.context() as patcher:
        for name in originals:
            patcher.setattr(in_place, name, counting(name))
        patcher.setattr(chain, "BUCKET_BYTES", data.draw(st.sampled_from([-1, 1 << 25])))
        try:
            apply_patch(live, patches[:first], in_place=True)
        except KeyboardInterrupt:
            pass
        else:
            assert tree(live) == states[first]
    apply_patch(live, patches, in_place=True)
    assert tree(live) == states[-1]
    shutil.rmtree(work)
