"""What a patch says of the size of a target is compared before anything is written."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import click
import numpy as np
import pytest

from sparsediff import apply_patch, make_patch, squash_patches
from sparsediff.apply import in_place
from sparsediff.cli.common import Size
from sparsediff.disk.names import n_entries
from sparsediff.errors import UnavailableError
from tests.conftest import Run
from tests.patch.rewriting import Parts
from tests.support.pairs import Stored, tree, write_safetensors
from tests.support.refusals import EXIT, refused
from tests.support.room import Room

pytestmark = pytest.mark.usefixtures("nothing_left")
TB, BLOCK = 10**12, 4096


def weights(n: int, seed: int) -> Stored:
    return "U8", (n,), np.random.default_rng(seed).bytes(n)


@pytest.fixture
def steps(tmp_path: Path) -> list[Path]:
    """Three checkpoints of two files, of which the second never changes."""
    found = []
    for i in range(3):
        directory = tmp_path / f"s{i}"
        directory.mkdir()
        write_safetensors(directory / "a.safetensors", {"w": weights(4000, i)})
        write_safetensors(directory / "b.safetensors", {"w": weights(9000, 9)})
        found.append(directory)
    return found


@pytest.fixture
def chain(steps: list[Path], tmp_path: Path) -> list[Path]:
    patches = [tmp_path / "0.sdiff", tmp_path / "1.sdiff"]
    for i, patch in enumerate(patches):
        make_patch(steps[i], steps[i + 1], patch)
    return patches


def test_a_size_that_nothing_stands_for_is_compared_with_the_limit(
    cli: Run, tmp_path: Path
) -> None:
    """A skeleton is said to have 100 MiB more than it has."""
    base = tmp_path / "base"
    write_safetensors(base, {"w": weights(64, 0)})
    target = write_safetensors(tmp_path / "target", {"w": weights(64, 1)})
    make_patch(base, target, tmp_path / "p")
    parts = Parts.of((tmp_path / "p").read_bytes())
    parts.manifest["target"]["size"][0] += 100 << 20
    (tmp_path / "p").write_bytes(parts.patch())
    result = cli("apply", base, tmp_path / "p", "-o", tmp_path / "out", "--max-bytes", "1MB")
    refused(result, EXIT["corrupt"], str(tmp_path / "p"), "--max-bytes", "at most 1000000 bytes")
    assert result[2].endswith(" bytes, with 4096 for each file and directory\n")
    assert not (tmp_path / "out").exists()


def test_a_disk_without_room_is_left_alone(
    steps: list[Path], chain: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Run
) -> None:
    """What changes is 4000 bytes and a header; the file that stays may become a clone."""
    n_bytes = (steps[0] / "a.safetensors").stat().st_size
    before = tree(steps[0])
    lines: dict[int, list[tuple[object, ...]]] = {
        1: [("apply", "--in-place", steps[0], *chain)],
        2: [(verb, steps[0], *chain, "-o", tmp_path / "o") for verb in ("apply", "squash")],
    }
    for n, line in [(n, line) for n, found in lines.items() for line in found]:
        needed = n_bytes + BLOCK * n
        monkeypatch.setattr(os, "statvfs", lambda _, free=needed - 1: Room(free))
        words = ("no space left on device", f"expected {needed} bytes", f"found {needed - 1} bytes")
        refused(cli(*line), EXIT["unavailable"], *words)
        monkeypatch.setattr(os, "statvfs", lambda _, n=n - 1: Room(TB, n))
        words = ("too few free inodes", f"expected {n},", f"found {n - 1}")
        refused(cli(*line), EXIT["unavailable"], *words)
    assert tree(steps[0]) == before
    assert not (tmp_path / "o").exists()
    monkeypatch.setattr(os, "statvfs", lambda _: Room(n_bytes + 2 * BLOCK, 2))
    apply_patch(steps[0], chain, tmp_path / "o")
    squash_patches(steps[0], chain, tmp_path / "squashed")
    monkeypatch.setattr(os, "statvfs", lambda _: Room(n_bytes + BLOCK, 1))
    apply_patch(steps[0], chain, in_place=True)
    assert tree(tmp_path / "o") == tree(steps[0]) == tree(steps[2])


def test_a_file_of_updates_that_has_no_room_is_not_begun(
    steps: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Run
) -> None:
    files = [step / "a.safetensors" for step in steps[:2]]
    make_patch(files[0], files[1], tmp_path / "p")
    words = ("export", files[0], tmp_path / "p", "-o", tmp_path / "o")
    assert cli(*words)[0] == 0
    n_bytes = (tmp_path / "o").stat().st_size + BLOCK
    (tmp_path / "o").unlink()
    monkeypatch.setattr(os, "statvfs", lambda _: Room(n_bytes - 1))
    refused(cli(*words), EXIT["unavailable"], "no space left on device", f"{n_bytes} bytes")
    assert not (tmp_path / "o").exists()
    monkeypatch.setattr(os, "statvfs", lambda _: Room(n_bytes))
    assert cli(*words)[0] == 0


def test_a_version_for_slime_that_has_no_room_is_not_written(
    steps: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Run
) -> None:
    files = [step / "a.safetensors" for step in steps[:2]]
    make_patch(files[0], files[1], tmp_path / "p")
    out = tmp_path / "weight_v000001"
    words = ("export", files[0], tmp_path / "p", "-o", out, "--layout", "slime")
    assert cli(*words)[0] == 0
    needed = sum(p.stat().st_size for p in out.glob("*.safetensors")) + 2 * BLOCK
    shutil.rmtree(out)
    monkeypatch.setattr(os, "statvfs", lambda _: Room(needed - 1))
    refused(cli(*words), EXIT["unavailable"], "no space left on device", f"{needed} bytes")
    assert not out.exists()
    monkeypatch.setattr(os, "statvfs", lambda _: Room(needed))
    assert cli(*words)[0] == 0


def test_files_that_grow_in_place_need_what_is_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, n in (("s", 1000), ("t", 3000)):
        (tmp_path / name).mkdir()
        for file in "abc":
            write_safetensors(tmp_path / name / file, {"w": weights(n, ord(file))})
    sizes = [(tmp_path / name / "a").stat().st_size for name in "st"]
    make_patch(tmp_path / "s", tmp_path / "t", tmp_path / "p")
    need = 2 * (sizes[1] - sizes[0]) + sizes[1] + BLOCK  # two have grown, the third is written
    monkeypatch.setattr(os, "statvfs", lambda _: Room(need - 1))
    with pytest.raises(UnavailableError, match=f"expected {need} bytes"):
        apply_patch(tmp_path / "s", tmp_path / "p", in_place=True)
    monkeypatch.setattr(os, "statvfs", lambda _: Room(need))
    apply_patch(tmp_path / "s", tmp_path / "p", in_place=True)
    assert tree(tmp_path / "s") == tree(tmp_path / "t")


def test_a_disk_that_does_not_tell_its_size_is_tried(
    steps: list[Path], chain: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Room, "f_blocks", 0)
    monkeypatch.setattr(os, "statvfs", lambda _: Room(0))
    apply_patch(steps[0], chain, tmp_path / "o")
    assert tree(tmp_path / "o") == tree(steps[2])


def test_every_target_of_a_chain_is_compared_with_the_limit(
    steps: list[Path], chain: list[Path], tmp_path: Path, cli: Run
) -> None:
    n_bytes = sum(p.stat().st_size + BLOCK for p in steps[0].iterdir())
    limit = ("--max-bytes", f"{n_bytes - 1}B")
    for how in (("-o", tmp_path / "o"), ("--in-place",)):
        result = cli("apply", steps[0], *chain, *how, *limit)
        refused(result, EXIT["corrupt"], "0.sdiff", f"found {n_bytes} bytes")
    shutil.copytree(steps[0], tmp_path / "copy")
    assert (
        cli("apply", "--in-place", tmp_path / "copy", *chain, "--max-bytes", f"{n_bytes}B")[0] == 0
    )
    assert cli("apply", steps[0], *chain, "-o", tmp_path / "o", "--files", "a*", *limit)[0] == 0


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [("0B", 0), ("500MB", 5 * 10**8), ("1.5TB", 3 * TB // 2), ("40 GB", 4 * 10**10)],
)
def test_sizes(text: str, n_bytes: int) -> None:
    assert Size().convert(text, None, None) == n_bytes


@pytest.mark.parametrize("text", ["7", "-1GB", "1GiB", "GB", "", "1e3B"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(click.BadParameter):
        Size().convert(text, None, None)


def test_files_without_bytes_and_directories_take_blocks(tmp_path: Path, cli: Run) -> None:
    """Thirty files, of which each has two directories of its own below one."""
    names = [f"d/{i}/e/f" for i in range(30)]
    for name in names:
        (tmp_path / "t" / name).parent.mkdir(parents=True)
        (tmp_path / "t" / name).touch()
    (tmp_path / "b").mkdir()
    patch = tmp_path / "p"
    make_patch(tmp_path / "b", tmp_path / "t", patch)
    assert n_entries(names) == 91
    n_bytes = 91 * BLOCK
    limit = ("--max-bytes", f"{n_bytes - 1}B")
    words = ("--max-bytes", f"at most {n_bytes - 1} bytes", f"found {n_bytes} bytes")
    for line in (
        ("apply", tmp_path / "b", patch, "-o", tmp_path / "o"),
        ("apply", "--in-place", tmp_path / "b", patch),
        ("squash", tmp_path / "b", patch, "-o", tmp_path / "o"),
        ("export", tmp_path / "b", patch, "-o", tmp_path / "o"),
        ("export", tmp_path / "b", patch, "-o", tmp_path / "weight_v000001", "--layout", "slime"),
    ):
        refused(cli(*line, *limit), EXIT["corrupt"], str(patch), *words)
    assert not [*(tmp_path / "b").iterdir()]
    assert not {"o", "weight_v000001"} & {p.name for p in tmp_path.iterdir()}
    apply_patch(tmp_path / "b", patch, tmp_path / "o", max_bytes=n_bytes)


def test_directories_are_counted_once() -> None:
    assert n_entries([]) == 0
    assert n_entries([""]) == n_entries(["a"]) == 1
    assert n_entries(["a/b", "a/c", "a-b/c", "b", "a/d/e"]) == 8


def test_what_is_removed_in_place_is_synced_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many files a patch takes away, and of however many there is nothing any more."""
    for side, n in (("b", 60), ("t", 1)):
        (tmp_path / side).mkdir()
        for i in range(n):
            (tmp_path / side / f"f{i}").touch()
    make_patch(tmp_path / "b", tmp_path / "t", tmp_path / "p")
    for i in range(1, 30):
        (tmp_path / "b" / f"f{i}").unlink()
    synced: list[Path] = []
    monkeypatch.setattr(in_place, "sync", synced.append)
    apply_patch(tmp_path / "b", tmp_path / "p", in_place=True)
    assert tree(tmp_path / "b") == tree(tmp_path / "t")
    assert synced == [tmp_path / "b"]
