"""apply --files: a machine that holds a share of a checkpoint rebuilds its share."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsediff import apply_patch, make_patch, open_patch
from sparsediff.apply.chain import narrow
from sparsediff.disk.selection import Selection
from sparsediff.errors import CorruptError, UnsupportedError, UsageError, WrongBaseError
from sparsediff.patch.container import pack
from tests.conftest import Run
from tests.support.kills import killed_at_each_point
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
    before = tree(steps[0])
    nothing = cli("apply", steps[0], patches[0], "--files", "*.bin", "--in-place")
    refused(nothing, EXIT["usage"], "none of the target's files matches --files", "*.bin")
    assert tree(steps[0]) == before
    one, other = (step / "model-1.safetensors" for step in steps[:2])
    make_patch(one, other, tmp_path / "one.sdiff")
    with pytest.raises(UsageError, match="leads to one file"):
        apply_patch(one, tmp_path / "one.sdiff", out, files=["*"])
    assert not out.exists()


SHARE = {"model-1.safetensors", "model-2.safetensors"}


def make_base(steps: list[Path], place: Path) -> Path:
    """A share of the first step."""
    place.mkdir()
    for name in ("model-1.safetensors", "model-2.safetensors"):
        shutil.copy(steps[0] / name, place)
    return place


def test_share_in_place_is_brought_along_a_chain(
    steps: list[Path], patches: list[Path], tmp_path: Path
) -> None:
    base = make_base(steps, tmp_path / "share")
    (base / "notes.txt").write_text("of somebody else")
    wanted = share_of(steps[2], SHARE) | {"notes.txt": b"of somebody else"}
    result = apply_patch(base, patches, in_place=True, files=["model-[12]*"])
    assert tree(base) == wanted
    assert result.target_bytes == sum(p.stat().st_size for p in base.glob("model-*"))
    again = apply_patch(base, patches, in_place=True, files=["model-[12]*"])
    assert (tree(base), again.written_bytes) == (wanted, 0)


def test_share_in_place_that_needs_another_file_is_left_alone(
    steps: list[Path], patches: list[Path], tmp_path: Path
) -> None:
    before = tree(steps[0])
    with pytest.raises(UnsupportedError, match=r"takes data from another file.*model-0"):
        apply_patch(steps[0], patches, in_place=True, files=["model-3*"])
    assert tree(steps[0]) == before


def test_share_in_place_loses_files_that_are_gone_from_the_target(
    steps: list[Path], tmp_path: Path
) -> None:
    (steps[0] / "model-1-extra.json").write_text("{}")
    (steps[0] / "other.json").write_text("{}")
    make_patch(steps[0], steps[1], tmp_path / "p")
    apply_patch(steps[0], tmp_path / "p", in_place=True, files=["model-1*"])
    names = {"model-1-extra.json", "other.json"} & set(os.listdir(steps[0]))
    assert names == {"other.json"}
    assert (steps[0] / "model-1.safetensors").read_bytes() == (
        steps[1] / "model-1.safetensors"
    ).read_bytes()


def test_wrong_share_in_place_is_left_alone_and_named(
    steps: list[Path], patches: list[Path], tmp_path: Path
) -> None:
    base = make_base(steps, tmp_path / "share")
    data = bytearray((base / "model-2.safetensors").read_bytes())
    data[-1] ^= 1
    (base / "model-2.safetensors").write_bytes(data)
    before = tree(base)
    with pytest.raises(WrongBaseError, match=r"model-2\.safetensors"):
        apply_patch(base, patches, in_place=True, files=["model-[12]*"])
    assert tree(base) == before


def test_share_in_place_that_is_killed_is_finished_by_the_next_run(
    steps: list[Path], patches: list[Path], tmp_path: Path
) -> None:
    base = tmp_path / "share"
    wanted = share_of(steps[2], SHARE)

    def prepare() -> None:
        shutil.rmtree(base, ignore_errors=True)
        make_base(steps, base)

    def act() -> None:
        apply_patch(base, patches, in_place=True, files=["model-[12]*"], jobs=1)

    points = 0
    for point in killed_at_each_point(prepare, act, tmp_path / "log", tmp_path):
        act()
        assert tree(base) == wanted, point
        assert not [n for n in os.listdir(base) if "sparsediff" in n], point
        points += 1
    assert points > 5


def test_damage_outside_the_share_is_no_matter_and_inside_is_found(
    steps: list[Path], tmp_path: Path
) -> None:
    make_patch(steps[0], steps[1], tmp_path / "p")
    with open_patch(tmp_path / "p") as patch:
        at = patch.n_bytes - sum(patch.sizes.values())
        places = {}
        for name, size in patch.sizes.items():
            places[name] = at
            at += size
        tensors = patch.manifest.tensors
        inside = next(
            f"bucket.{i}" for i, b in enumerate(patch.manifest.buckets)
            if tensors[b.tensors[0]].name == "w1" and b.digest
        )  # fmt: skip
    data = (tmp_path / "p").read_bytes()
    for name, place in places.items():
        broken = bytearray(data)
        broken[place] ^= 1
        (tmp_path / "broken").write_bytes(broken)
        out = tmp_path / f"out-{name}"
        if name == inside:
            with pytest.raises(CorruptError, match=inside):
                apply_patch(steps[0], tmp_path / "broken", out, files=["model-1*"])
            assert not out.exists()
        elif name.startswith("bucket"):
            apply_patch(steps[0], tmp_path / "broken", out, files=["model-1*"])
            assert tree(out) == share_of(steps[1], {"model-1.safetensors"})


@given(st.data())
@settings(max_examples=25, deadline=None)
def test_any_share_is_what_it_is_in_the_whole(data: st.DataObject) -> None:
    """Whatever moves, comes or goes: the share of the target, and a patch that is one by itself."""
    with tempfile.TemporaryDirectory() as room:
        sides = [Path(room) / "a", Path(room) / "b"]
        for side in sides:
            side.mkdir()
            for f in data.draw(st.lists(st.sampled_from("abcd"), unique=True, min_size=1)):
                names = data.draw(st.lists(st.sampled_from("uvw"), unique=True))
                dtype = data.draw(st.sampled_from(["F32", "U16"]))
                words = {}
                for n in names:
                    array = (np.arange(50) + ord(n)).astype({"F32": "<f4", "U16": "<u2"}[dtype])
                    array[data.draw(st.integers(0, 49))] += 1
                    words[n] = (dtype, (50,), array.tobytes())
                if names:
                    write_safetensors(side / f"{f}.safetensors", words)
                else:
                    (side / f"{f}.txt").write_bytes(f.encode())
        patch = Path(room) / "p"
        make_patch(
            sides[0], sides[1], patch, bucket_words=data.draw(st.sampled_from([30, 1 << 24]))
        )
        names = sorted(os.listdir(sides[1]))
        chosen = data.draw(st.lists(st.sampled_from(names), unique=True, min_size=1))
        apply_patch(sides[0], patch, Path(room) / "out", files=chosen)
        assert tree(Path(room) / "out") == share_of(sides[1], set(chosen))
        with open_patch(patch) as opened:
            narrow([opened], Selection(tuple(chosen)))
            head = pack(opened.manifest, opened.sizes)
            own = head + b"".join(bytes(p) for _, p in opened.payloads())
        (Path(room) / "own").write_bytes(own)
        apply_patch(sides[0], Path(room) / "own", Path(room) / "out2")
        assert tree(Path(room) / "out2") == share_of(sides[1], set(chosen))
