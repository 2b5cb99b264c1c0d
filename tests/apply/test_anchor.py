"""Anchors: patches from nothing, made of and applied to an empty directory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sparsediff import CorruptError, UsageError, apply_patch, make_patch, verify_patch
from tests.conftest import Run
from tests.support.pairs import model_directory, training_pair, tree, write_safetensors
from tests.support.patches import round_trip


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """A directory without files; what a killed run left in it is none of a checkpoint's."""
    (tmp_path / "empty" / "sub").mkdir(parents=True)
    (tmp_path / "empty" / ".x.sparsediff-tmp").write_text("left behind")
    return tmp_path / "empty"


@pytest.fixture
def anchor(target: Path, empty: Path, tmp_path: Path) -> Path:
    make_patch(empty, target, tmp_path / "anchor.sdiff")
    return tmp_path / "anchor.sdiff"


@pytest.mark.parametrize("bucket_words", [100, 1 << 24])
def test_directory_from_nothing(
    bucket_words: int, empty: Path, target: Path, tmp_path: Path
) -> None:
    size = round_trip(empty, target, tmp_path, bucket_words=bucket_words)
    if bucket_words > 100:
        assert size < 0.8 * sum(map(len, tree(target).values()))


def test_single_file_from_nothing(empty: Path, tmp_path: Path) -> None:
    file = write_safetensors(tmp_path / "m", {"w": training_pair()[0]}, metadata={"k": "v"})
    assert round_trip(empty, file, tmp_path) < 0.8 * file.stat().st_size


def test_chain_from_nothing(anchor: Path, empty: Path, target: Path, tmp_path: Path) -> None:
    steps = [target, *(model_directory(tmp_path / f"s{i}", lr=i * 2e-6) for i in (1, 2))]
    patches = [anchor]
    for i in range(2):
        patches.append(tmp_path / f"{i}.sdiff")
        make_patch(steps[i], steps[i + 1], patches[-1])
    apply_patch(empty, patches, tmp_path / "out")
    assert tree(tmp_path / "out") == tree(steps[2])


def test_show_and_stats(cli: Run, anchor: Path, empty: Path, target: Path) -> None:
    code, out, err = cli("show", anchor)
    assert (code, err) == (0, "")
    assert "base    0 files, 0 B\n" in out
    code, of_patch, _ = cli("stats", anchor, "--json")
    assert code == 0
    total = json.loads(of_patch)["total"]
    assert total["n_changed"] == total["n_elements"] > 0
    code, of_pair, _ = cli("stats", empty, target, "--json")
    assert (code, json.loads(of_pair)["total"]) == (0, total)


def test_in_place_onto_an_empty_directory(anchor: Path, target: Path, tmp_path: Path) -> None:
    live = tmp_path / "live"
    live.mkdir()
    apply_patch(live, anchor, in_place=True)
    assert tree(live) == tree(target)
    assert apply_patch(live, anchor, in_place=True).written_bytes == 0


def test_in_place_overwrites_no_file_of_the_same_name(
    cli: Run, anchor: Path, tmp_path: Path
) -> None:
    live = tmp_path / "live"
    live.mkdir()
    (live / "config.json").write_text("mine")
    code, _, err = cli("apply", "--in-place", live, anchor)
    assert (code, err.count("\n")) == (10, 1)
    assert "config.json" in err
    assert tree(live) == {"config.json": b"mine"}


def test_other_files_of_the_base_are_not_looked_at(
    anchor: Path, base: Path, target: Path, tmp_path: Path
) -> None:
    verify_patch(anchor, base=base, target=target)
    apply_patch(base, anchor, tmp_path / "out")
    assert tree(tmp_path / "out") == tree(target)


def test_base_that_is_a_file_or_missing(cli: Run, anchor: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for base, expected in ((tmp_path / "file", 10), (tmp_path / "no", 2)):
        code, _, err = cli("apply", base, anchor, "-o", tmp_path / "out")
        assert (code, err.count("\n")) == (expected, 1)
        assert str(base) in err
    assert not (tmp_path / "out").exists()


def test_empty_target_is_refused(empty: Path, target: Path, tmp_path: Path) -> None:
    for base in (target, empty):
        with pytest.raises(UsageError, match="holds no files"):
            make_patch(base, empty, tmp_path / "p")
    assert not (tmp_path / "p").exists()


def test_damage_is_found(anchor: Path, empty: Path, tmp_path: Path) -> None:
    data = bytearray(anchor.read_bytes())
    data[-1000] ^= 1
    anchor.write_bytes(data)
    with pytest.raises(CorruptError, match="does not match its SHA-256"):
        apply_patch(empty, anchor, tmp_path / "out")
    assert not (tmp_path / "out").exists()
