"""make --part and merge: whichever way the work is cut, the patch is that of one machine."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsediff import Share, make_part, make_patch, merge_parts
from sparsediff.errors import CorruptError, UnavailableError, UsageError
from sparsediff.make.shares import cut
from tests.conftest import Run
from tests.fuzz.of_patches import part_with, results
from tests.support.costs import cost
from tests.support.pairs import (
    RNG,
    Stored,
    change_some,
    safetensors_bytes,
    training_pair,
    write_safetensors,
)
from tests.support.refusals import EXIT, refused


def parts_of(
    base: Path, target: Path, count: int, where: Path, bucket_words: int = 1 << 24
) -> list[Path]:
    """All parts of the patch from ``base`` to ``target``."""
    paths = [where / f"{i}.part" for i in range(1, count + 1)]
    for i, path in enumerate(paths, 1):
        make_part(base, target, Share(i, count), path, bucket_words=bucket_words)
    return paths


def one_machine(base: Path, target: Path, where: Path, bucket_words: int = 1 << 24) -> bytes:
    """The patch that `make_patch` writes."""
    make_patch(base, target, where / "whole.sdiff", bucket_words=bucket_words)
    return (where / "whole.sdiff").read_bytes()


@st.composite
def pairs(draw: st.DrawFn) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Files of a base and a target: tensors grow, move, come and go; opaque files too."""
    seed = draw(st.integers(0, 1 << 30))
    before: dict[str, bytes] = {"config.json": b'{"a": 1}'}
    after: dict[str, bytes] = {"config.json": draw(st.sampled_from([b'{"a": 1}', b'{"a": 2}']))}
    for f in range(draw(st.integers(1, 3))):
        old: dict[str, Stored] = {}
        new: dict[str, Stored] = {}
        for t in range(draw(st.integers(0, 4))):
            n = draw(st.integers(0, 3000))
            a, b = training_pair(n, 3e-5, seed + t)
            old[f"t{t}"] = a
            kind = draw(st.sampled_from(["same", "step", "new", "gone", "longer"]))
            if kind == "step":
                new[f"t{t}"] = b
            elif kind == "same":
                new[f"t{t}"] = a
            elif kind == "new":
                new[f"t{t}"] = "F32", (n,), RNG(seed).bytes(4 * n)
            elif kind == "longer":
                new[f"t{t}"] = "BF16", (n + 500,), b[2] + RNG(seed).bytes(1000)
        before[f"model-{f}.safetensors"] = safetensors_bytes(old)
        after[f"model-{f}.safetensors"] = safetensors_bytes(new)
    if draw(st.booleans()):
        before["tokenizer.bin"] = RNG(seed).bytes(5000)
        after["tokenizer.bin"] = change_some(before["tokenizer.bin"], 0.01)
    if draw(st.booleans()):
        before = {}  # an anchor
    return before, after


@settings(max_examples=25)
@given(files=pairs(), count=st.integers(1, 15), bucket_words=st.sampled_from([64, 1000, 1 << 24]))
def test_every_cut_gives_the_patch_of_one_machine(
    files: tuple[dict[str, bytes], dict[str, bytes]],
    count: int,
    bucket_words: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    root = tmp_path_factory.mktemp("cut")
    for side, content in zip(("base", "target"), files, strict=True):
        (root / side).mkdir()
        for name, data in content.items():
            (root / side / name).write_bytes(data)
    sides = root / "base", root / "target"
    whole = one_machine(*sides, root, bucket_words=bucket_words)
    paths = parts_of(*sides, count, root, bucket_words=bucket_words)
    merge_parts(paths[::-1], root / "merged.sdiff")
    assert (root / "merged.sdiff").read_bytes() == whole


def test_choice_of_coding_does_not_depend_on_the_share(tmp_path: Path) -> None:
    # Large checkpoints are coded while they pass, small ones are held: a share of a large one
    # is small.
    base, target = tmp_path / "a", tmp_path / "b"
    a, b = training_pair(20 << 20, 3e-6)
    write_safetensors(base, {f"t{i}": a for i in range(1)} | {"u": ("F32", (9,), bytes(36))})
    write_safetensors(target, {f"t{i}": b for i in range(1)} | {"u": ("F32", (9,), bytes(36))})
    whole = one_machine(base, target, tmp_path)
    merge_parts(parts_of(base, target, 9, tmp_path), tmp_path / "merged")
    assert (tmp_path / "merged").read_bytes() == whole


def test_shares_are_disjoint_whole_and_alike(base: Path, target: Path) -> None:
    manifest = make_patch(base, target, None).manifest
    (whole,) = cut(manifest)
    for count in (1, 2, 7, 1000):
        assert [task for share in cut(manifest, count) for task in share] == whole


def test_on_the_command_line(
    cli: Run, base: Path, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = one_machine(base, target, tmp_path)
    monkeypatch.chdir(tmp_path)
    for i in (1, 2, 3):
        assert f"part {i}/3" in cli("make", base, target, "--part", f"{i}/3")[1]
    code, _, _ = cli("merge", *(f"target.{i}-of-3.part" for i in (3, 1, 2)), "-o", "t.sdiff")
    assert code == 0
    assert (tmp_path / "t.sdiff").read_bytes() == whole
    _, out, _ = cli("make", base, target, "--part", "1/3", "-o", "x.part", "--json")
    assert json.loads(out)["part"] == "1/3"


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "a/b", "-1/3", "1/0", "1/99999999"])
def test_part_that_there_is_not(text: str, cli: Run, base: Path, target: Path) -> None:
    refused(cli("make", base, target, "--part", text, "-o", "p"), EXIT["usage"], "part")


def test_missing_part_is_named(base: Path, target: Path, tmp_path: Path) -> None:
    paths = parts_of(base, target, 5, tmp_path)
    with pytest.raises(UsageError, match="missing of this patch: part 2/5, 4/5"):
        merge_parts([paths[0], paths[2], paths[4]], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_part_that_is_given_twice_is_named(base: Path, target: Path, tmp_path: Path) -> None:
    paths = parts_of(base, target, 2, tmp_path)
    with pytest.raises(UsageError, match=r"is part 1/2, and so is .*1\.part"):
        merge_parts([paths[0], paths[1], paths[0]], tmp_path / "out")


@pytest.mark.parametrize("other", ["target", "count"])
def test_part_of_another_patch_is_named(
    other: str, base: Path, target: Path, tmp_path: Path
) -> None:
    paths = parts_of(base, target, 2, tmp_path)
    if other == "target":
        make_part(base, base, Share(2, 2), paths[1], force=True)
    else:
        make_part(base, target, Share(2, 3), paths[1], force=True)
    with pytest.raises(UsageError, match="was made from another base or target") as caught:
        merge_parts(paths, tmp_path / "out")
    assert caught.value.file == str(paths[1])


def test_file_that_changed_between_two_parts_is_named(tmp_path: Path) -> None:
    base, target = tmp_path / "a", tmp_path / "b"
    before, after = training_pair(20_000)
    write_safetensors(base, {"w": before})
    write_safetensors(target, {"w": after})
    paths = [tmp_path / "1", tmp_path / "2"]
    make_part(base, target, Share(1, 2), paths[0], bucket_words=1000)
    write_safetensors(target, {"w": training_pair(20_000, seed=1)[1]})
    os.utime(target, ns=(1, 1))
    make_part(base, target, Share(2, 2), paths[1], bucket_words=1000)
    with pytest.raises(UnavailableError, match="target has another time of change"):
        merge_parts(paths, tmp_path / "out")


def test_damage_anywhere_is_found(base: Path, target: Path, tmp_path: Path) -> None:
    paths = parts_of(base, target, 2, tmp_path)
    intact = paths[0].read_bytes()
    places = RNG(0).integers(0, len(intact), 60)
    for place in (*places, 0, 8, len(intact) - 1):
        damaged = bytearray(intact)
        damaged[place] ^= 0x41
        paths[0].write_bytes(damaged)
        with pytest.raises((CorruptError, UsageError)):
            merge_parts(paths, tmp_path / "out")
    for size in (0, 7, 100, len(intact) // 2, len(intact) - 1):
        paths[0].write_bytes(intact[:size])
        with pytest.raises(CorruptError):
            merge_parts(paths, tmp_path / "out")
    paths[0].write_bytes(intact + b"x")
    with pytest.raises(CorruptError):
        merge_parts(paths, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("share", [b"[0,2]", b"[3,2]", b"[1,0]", b"[1,4294967296]"])
def test_a_part_that_there_is_not_is_damage_of_the_file(share: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.part").write_bytes(
        part_with(results()[0].replace(b'[1,2],"read"', share + b',"read"'))
    )
    with pytest.raises(CorruptError, match="results of the part are malformed"):
        merge_parts([tmp_path / "a.part"], tmp_path / "out")


def test_part_is_no_patch_and_a_patch_no_part(
    cli: Run, base: Path, target: Path, patch: Path, tmp_path: Path
) -> None:
    (part,) = parts_of(base, target, 1, tmp_path)
    refused(cli("apply", base, part, "-o", tmp_path / "out"), EXIT["usage"], "a patch; merge makes")
    refused(cli("merge", patch, "-o", tmp_path / "out"), EXIT["corrupt"], "not a part of a patch")
    refused(cli("merge", tmp_path / "no", "-o", "out"), EXIT["usage"], "no such file")


@pytest.mark.parametrize("item", [b"[],", b"999,", b"{},"])
def test_a_small_part_takes_little_memory(item: bytes, tmp_path: Path) -> None:
    path = tmp_path / "1.part"
    path.write_bytes(part_with(b'{"a":[' + item * (((1 << 26) - 64) // len(item)) + b"0]}"))
    assert path.stat().st_size < 10_000
    found = cost("merge", path, "-o", tmp_path / "p")
    assert found.code == EXIT["corrupt"], found.err
    assert "malformed (too many values" in found.err
    assert found.peak_bytes < 300 << 20


def test_a_plan_is_paid_for_too(tmp_path: Path) -> None:
    text = b'{"a":[' + b"999," * ((1 << 23) - 64) + b"0]}"
    (tmp_path / "1.part").write_bytes(part_with(results()[0], text))
    found = cost("merge", tmp_path / "1.part", "-o", tmp_path / "p")
    assert found.code == EXIT["corrupt"], found.err
    assert "malformed manifest" in found.err
    assert found.peak_bytes < 300 << 20
