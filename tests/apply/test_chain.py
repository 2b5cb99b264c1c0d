"""Chains: one pass gives what step by step gives, every link is checked, every damage found."""

from __future__ import annotations

import os
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsediff import CorruptError, WrongBaseError, apply_patch, make_patch
from sparsediff.apply import chain
from sparsediff.codec.zstd import compress
from sparsediff.disk import inputs
from sparsediff.patch.container import open_patch
from sparsediff.patch.manifest import Manifest
from tests.support.pairs import (
    Stored,
    bf16,
    change_some,
    model_directory,
    step_of_training,
    training_pair,
    tree,
    words,
    write_safetensors,
)
from tests.support.patches import rewrite, tensor, tensors

pytestmark = pytest.mark.usefixtures("nothing_left")


def patches_of(steps: list[Path], *, bucket_words: int = 1 << 24) -> list[Path]:
    """Patches from each step to the next."""
    patches = []
    for i, pair in enumerate(pairwise(steps)):
        patches.append(steps[0].parent / f"{i}.sdiff")
        make_patch(*pair, patches[-1], bucket_words=bucket_words)
    return patches


def group_sizes(patches: list[Path]) -> list[int]:
    with chain.open_chain(patches) as opened:
        return [len(group) for group in chain.groups(opened)]


@pytest.fixture
def steps(tmp_path: Path) -> list[Path]:
    return [model_directory(tmp_path / f"s{i}", lr=i * 2e-6 or None) for i in range(5)]


def test_steps_of_training_go_in_one_pass(steps: list[Path], tmp_path: Path) -> None:
    patches = patches_of(steps)
    assert group_sizes(patches) == [4]
    result = apply_patch(steps[0], patches, tmp_path / "out")
    assert tree(tmp_path / "out") == tree(steps[4])
    assert result.written_bytes == result.target_bytes


def test_anchor_and_what_follows_go_in_one_pass(steps: list[Path], tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    patches = patches_of([tmp_path / "nothing", *steps])
    assert group_sizes(patches) == [5]
    apply_patch(tmp_path / "nothing", patches, tmp_path / "out")
    assert tree(tmp_path / "out") == tree(steps[4])


def test_passes_end_where_the_layout_changes(steps: list[Path], tmp_path: Path) -> None:
    os.rename(steps[2] / "model-00001-of-00002.safetensors", steps[2] / "first.safetensors")
    patches = patches_of(steps)
    assert group_sizes(patches) == [1, 1, 2]
    result = apply_patch(steps[0], patches, tmp_path / "out")
    assert tree(tmp_path / "out") == tree(steps[4])
    assert result.written_bytes == sum(len(b) for i in (1, 2, 4) for b in tree(steps[i]).values())


def test_passes_end_where_payloads_grow_large(
    steps: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patches = patches_of(steps)
    with open_patch(patches[0]) as opened:
        monkeypatch.setattr(chain, "BUCKET_BYTES", int(2.5 * max(opened.sizes.values())))
    assert group_sizes(patches) == [2, 2]
    apply_patch(steps[0], patches, tmp_path / "out")
    assert tree(tmp_path / "out") == tree(steps[4])


def test_headers_that_grow(tmp_path: Path) -> None:
    """Tensors then lie elsewhere in each step."""
    steps = []
    for i in range(4):
        _, after = step_of_training(5000, i * 1e-6)
        steps.append(tmp_path / f"s{i}")
        metadata = {"step": "many " * 10 * i}
        write_safetensors(steps[-1] / "m", {"w": words("BF16", bf16(after))}, metadata=metadata)
    patches = patches_of(steps, bucket_words=700)
    assert group_sizes(patches) == [3]
    apply_patch(steps[0], patches, tmp_path / "out")
    assert tree(tmp_path / "out") == tree(steps[3])


@given(tensors, st.data())
def test_one_pass_or_step_by_step(
    tmp_path_factory: pytest.TempPathFactory, first: dict[str, Stored], data: st.DataObject
) -> None:
    """Whatever changes from step to step, and wherever a pass ends."""
    work = tmp_path_factory.mktemp("any")
    content, steps = first, []
    for i in range(4):
        steps.append(work / f"s{i}")
        split = data.draw(st.integers(0, 2))
        for name in (f"{k}.safetensors" for k in range(2)):
            part = {t: v for k, (t, v) in enumerate(content.items()) if (k < split) == (name < "1")}
            metadata = data.draw(st.none() | st.just({"step": str(10**i)}))
            write_safetensors(steps[-1] / name, part, metadata=metadata)
        fate = data.draw(st.sampled_from(["train", "train", "train", "reorder", "add", "remove"]))
        if fate == "train":
            share = data.draw(st.sampled_from([0.0, 0.02, 1.0]))
            content = {n: (d, s, change_some(b, share, i)) for n, (d, s, b) in content.items()}
        elif fate == "reorder":
            content = dict(reversed(content.items()))
        elif fate == "add":
            content = {**content, f"added {i}": data.draw(tensor())}
        else:
            content = dict(list(content.items())[1:])
    patches = patches_of(steps, bucket_words=data.draw(st.sampled_from([1, 7, 100, 1 << 24])))
    apply_patch(steps[0], patches, work / "out")
    assert tree(work / "out") == tree(steps[3])
    with pytest.MonkeyPatch.context() as patcher:
        patcher.setattr(chain, "BUCKET_BYTES", data.draw(st.sampled_from([-1, 100, 1000])))
        apply_patch(steps[0], patches, work / "again")
    assert tree(work / "again") == tree(steps[3])
    shutil.rmtree(work)


@pytest.mark.parametrize("where", range(4))
def test_damage_in_any_patch_is_found(where: int, steps: list[Path], tmp_path: Path) -> None:
    patches = patches_of(steps)
    with open_patch(patches[where]) as opened:
        name = [n for n in opened.sizes if n.startswith("bucket")][-1]
        after = list(opened.sizes)[list(opened.sizes).index(name) + 1 :]
        end = opened.n_bytes - sum(opened.sizes[n] for n in after)
    data = bytearray(patches[where].read_bytes())
    data[end - 1] ^= 1
    patches[where].write_bytes(data)
    with pytest.raises(CorruptError, match=f"{name} does not match its SHA-256") as info:
        apply_patch(steps[0], patches, tmp_path / "out")
    assert info.value.file == str(patches[where])
    assert not (tmp_path / "out").exists()
    # The base words of that very bucket are wrong too: that comes first.
    shard = steps[0] / "model-00002-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1] + b"\x77")
    with pytest.raises(WrongBaseError, match=shard.name):
        apply_patch(steps[0], patches, tmp_path / "out")


@pytest.mark.parametrize("where", range(4))
def test_payload_that_decodes_to_something_else(
    where: int, steps: list[Path], tmp_path: Path
) -> None:
    def edit(manifest: Manifest, payloads: dict[str, bytes]) -> None:
        bucket = manifest.buckets[0]
        n_bytes = bucket.n_words * manifest.tensors[bucket.tensors[0]].dtype.word_bytes
        payloads["bucket.0"] = b"\x02" + compress(bytes(n_bytes), 1)

    patches = patches_of(steps)
    rewrite(patches[where], edit)
    with pytest.raises(CorruptError, match="words differ from the target's") as info:
        apply_patch(steps[0], patches, tmp_path / "out")
    assert info.value.file == f"{patches[where]}, bucket.0"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("where", range(4))
def test_skeleton_that_decodes_to_something_else(
    where: int, steps: list[Path], tmp_path: Path
) -> None:
    def edit(manifest: Manifest, payloads: dict[str, bytes]) -> None:
        (index,) = (i for i, f in enumerate(manifest.target_files) if f.name == "config.json")
        payloads[f"skeleton.{index}"] = compress(bytes(manifest.skeleton_size(index)), 1)

    patches = patches_of(steps)
    rewrite(patches[where], edit)
    with pytest.raises(CorruptError, match="differ from the target's") as info:
        apply_patch(steps[0], patches, tmp_path / "out")
    assert info.value.file == f"{patches[where]}, skeleton"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("other", [None, "tokenizer/vocab.txt"])
def test_skeleton_with_any_dictionary(other: str | None, steps: list[Path], tmp_path: Path) -> None:
    """The format allows it, though make takes the namesake's."""

    def edit(manifest: Manifest, payloads: dict[str, bytes]) -> None:
        names = [f.name for f in manifest.target_files]
        index = names.index("config.json")
        content = (steps[3] / "config.json").read_bytes()
        dictionary = b"" if other is None else (steps[2] / other).read_bytes()
        payloads[f"skeleton.{index}"] = compress(content, 3, dictionary)
        manifest.target_files[index].dictionary = None if other is None else names.index(other)

    patches = patches_of(steps)
    rewrite(patches[2], edit)
    assert group_sizes(patches) == ([4] if other is None else [2, 2])
    apply_patch(steps[0], patches, tmp_path / "out")
    assert tree(tmp_path / "out") == tree(steps[4])


@pytest.mark.parametrize("broken", [[0, 2], [0, 1, 3], [1, 0], [0, 0]])
def test_broken_link(broken: list[int], steps: list[Path], tmp_path: Path) -> None:
    patches = patches_of(steps)
    with pytest.raises(WrongBaseError, match=r"does not continue .*\.sdiff"):
        apply_patch(steps[0], [patches[i] for i in broken], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("bucket_words", [700, 1 << 24])
def test_broken_link_in_the_words_alone(bucket_words: int, tmp_path: Path) -> None:
    """Headers are equal. Buckets cut alike are compared beforehand, others when they are read."""
    steps = []
    for i, seed in enumerate((0, 0, 1, 1)):
        _, after = step_of_training(5000, i * 1e-6, seed)
        steps.append(write_safetensors(tmp_path / f"s{i}", {"w": words("BF16", bf16(after))}))
    make_patch(steps[0], steps[1], tmp_path / "p")
    make_patch(steps[2], steps[3], tmp_path / "q", bucket_words=bucket_words)
    problem = "words the patch was made from" if bucket_words == 700 else "does not continue"
    with pytest.raises(WrongBaseError, match=problem):
        apply_patch(steps[0], [tmp_path / "p", tmp_path / "q"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_only_what_no_patch_changes_is_cloned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after = training_pair(3000)
    versions = {"never": "aaa", "first": "abb", "last": "aab", "both": "aba"}
    steps = [tmp_path / f"s{i}" for i in range(3)]
    for name, states in versions.items():
        for step, state in zip(steps, states, strict=True):
            write_safetensors(step / name, {"w": before if state == "a" else after})
    cloned = []

    def clone(source: inputs.InputFile, path: Path) -> bool:  # as if blocks could be shared
        shutil.copyfile(source.path, path)
        cloned.append(path.name)
        return True

    monkeypatch.setattr(chain, "clone", clone)
    patches = patches_of(steps)
    assert group_sizes(patches) == [2]
    apply_patch(steps[0], patches, tmp_path / "out")
    assert tree(tmp_path / "out") == tree(steps[2])
    assert cloned == ["never"]
