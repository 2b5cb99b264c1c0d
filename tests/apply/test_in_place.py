"""apply --in-place: file by file, resumable, refusing before anything is touched."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from sparsediff import UnsupportedError, WrongBaseError, apply_patch, make_patch
from sparsediff.apply import in_place
from tests.conftest import Run
from tests.support.pairs import model_directory, training_pair, tree, write_safetensors


@pytest.fixture
def patch(base: Path, target: Path, tmp_path: Path) -> Path:
    (target / "config.json").unlink()
    (target / "sub").mkdir()
    (target / "sub" / "added.txt").write_text("new file")
    (base / "old").mkdir()
    (base / "old" / "removed.txt").write_text("goes away")
    make_patch(base, target, tmp_path / "p.sdiff")
    return tmp_path / "p.sdiff"


def test_directory_is_updated(base: Path, target: Path, patch: Path) -> None:
    inode = (base / "tokenizer" / "vocab.txt").stat().st_ino
    apply_patch(base, patch, in_place=True)
    assert tree(base) == tree(target)
    assert not (base / "old").exists()
    assert (base / "tokenizer" / "vocab.txt").stat().st_ino == inode  # unchanged: not rewritten


def test_again_does_nothing(base: Path, target: Path, patch: Path) -> None:
    apply_patch(base, patch, in_place=True)
    result = apply_patch(base, patch, in_place=True)
    assert result.written_bytes == 0
    assert tree(base) == tree(target)


def test_single_file_is_updated(tmp_path: Path) -> None:
    before, after = training_pair()
    a = write_safetensors(tmp_path / "a", {"w": before})
    b = write_safetensors(tmp_path / "b", {"w": after})
    make_patch(a, b, tmp_path / "p")
    apply_patch(a, tmp_path / "p", in_place=True)
    assert a.read_bytes() == b.read_bytes()


@pytest.mark.parametrize("stop_after", range(5))
def test_interrupted_run_is_finished_by_another(
    stop_after: int,
    base: Path,
    target: Path,
    patch: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    replace, done = in_place._replace, 0

    def stop(*args: Any) -> None:
        nonlocal done
        if done == stop_after:
            raise KeyboardInterrupt
        done += 1
        replace(*args)

    monkeypatch.setattr(in_place, "_replace", stop)
    try:
        apply_patch(base, patch, in_place=True)
    except KeyboardInterrupt:
        assert tree(base) != tree(target)
    monkeypatch.undo()
    apply_patch(base, patch, in_place=True)
    assert tree(base) == tree(target)


def test_interrupted_chain_is_finished_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = [model_directory(tmp_path / f"s{i}", lr=i * 1e-6 or None) for i in range(4)]
    patches = [tmp_path / f"{i}.sdiff" for i in range(3)]
    for i, p in enumerate(patches):
        make_patch(steps[i], steps[i + 1], p)
    replace = in_place._replace
    for stop_after in range(4):  # each of three files is written once
        live, done = tmp_path / "live", 0
        shutil.copytree(steps[0], live)

        def stop(*args: Any, after: int = stop_after) -> None:
            nonlocal done
            if done == after:
                raise KeyboardInterrupt
            done += 1
            replace(*args)

        monkeypatch.setattr(in_place, "_replace", stop)
        with pytest.raises(KeyboardInterrupt) if stop_after < 3 else _nothing():
            apply_patch(live, patches, in_place=True)
        monkeypatch.undo()
        apply_patch(live, patches, in_place=True)
        assert tree(live) == tree(steps[3])
        shutil.rmtree(live)


def _nothing() -> Any:
    from contextlib import nullcontext

    return nullcontext()


def test_wrong_last_shard_leaves_all_alone(base: Path, patch: Path) -> None:
    shard = base / "model-00002-of-00002.safetensors"
    raw = bytearray(shard.read_bytes())
    raw[-1] ^= 1
    shard.write_bytes(raw)
    before = tree(base)
    with pytest.raises(WrongBaseError, match=shard.name):
        apply_patch(base, patch, in_place=True)
    assert tree(base) == before


@pytest.mark.parametrize("what", ["added", "removed"])
def test_unexpected_file_is_not_overwritten_or_removed(what: str, base: Path, patch: Path) -> None:
    if what == "added":
        (base / "sub").mkdir()
        (base / "sub" / "added.txt").write_text("somebody else's")
    else:
        (base / "old" / "removed.txt").write_text("not what the patch knows")
    before = tree(base)
    with pytest.raises(WrongBaseError):
        apply_patch(base, patch, in_place=True)
    assert tree(base) == before


def test_files_the_patch_does_not_know_stay(base: Path, patch: Path) -> None:
    (base / "notes.txt").write_text("mine")
    (base / "old" / "notes.txt").write_text("mine too")
    apply_patch(base, patch, in_place=True)
    assert (base / "notes.txt").read_text() == "mine"
    assert (base / "old" / "notes.txt").read_text() == "mine too"


def test_reshard_is_refused_before_anything_is_touched(
    cli: Run, base: Path, tmp_path: Path
) -> None:
    target = tmp_path / "t"
    shutil.copytree(base, target)
    os.rename(target / "model-00001-of-00002.safetensors", target / "first.safetensors")
    make_patch(base, target, tmp_path / "p")
    before = tree(base)
    code, _, err = cli("apply", base, tmp_path / "p", "--in-place")
    assert (code, err.count("\n")) == (12, 1)
    assert "first.safetensors" in err
    assert tree(base) == before


def test_links_are_replaced_never_written_through(
    base: Path, target: Path, patch: Path, tmp_path: Path
) -> None:
    shard = base / "model-00001-of-00002.safetensors"
    blob = tmp_path / "blob"
    shutil.move(shard, blob)
    shard.symlink_to(blob)
    kept = blob.read_bytes()
    apply_patch(base, patch, in_place=True)
    assert blob.read_bytes() == kept
    assert not shard.is_symlink()
    assert tree(base) == tree(target)


def test_linked_directory_is_refused(base: Path, tmp_path: Path) -> None:
    target = tmp_path / "t"
    shutil.copytree(base, target)
    (target / "tokenizer" / "vocab.txt").write_text("other")
    make_patch(base, target, tmp_path / "p")
    shutil.move(base / "tokenizer", tmp_path / "elsewhere")
    (base / "tokenizer").symlink_to(tmp_path / "elsewhere")
    before = tree(base)
    with pytest.raises(UnsupportedError, match="linked directory"):
        apply_patch(base, tmp_path / "p", in_place=True)
    assert tree(base) == before


def chain_that_removes(tmp_path: Path) -> tuple[list[Path], list[Path]]:
    steps = []
    for i, files in enumerate(({"m": b"A", "x/y": b"X"}, {"m": b"A"}, {"m": b"B", "x/y": b"Y"})):
        steps.append(tmp_path / f"c{i}")
        for name, content in files.items():
            (steps[-1] / name).parent.mkdir(parents=True, exist_ok=True)
            (steps[-1] / name).write_bytes(content)
    patches = [tmp_path / "0.sdiff", tmp_path / "1.sdiff"]
    for i, p in enumerate(patches):
        make_patch(steps[i], steps[i + 1], p)
    return steps, patches


def test_chain_removes_what_its_first_patch_removes(tmp_path: Path) -> None:
    steps, patches = chain_that_removes(tmp_path)
    live = tmp_path / "live"
    shutil.copytree(steps[0], live)
    apply_patch(live, patches, in_place=True)
    assert tree(live) == tree(steps[2])
    # m is the same in the first two steps: a run that starts at the second patch must not forget x.
    make_patch(steps[1], steps[1], tmp_path / "same.sdiff")
    shutil.rmtree(live)
    shutil.copytree(steps[0], live)
    apply_patch(live, [patches[0], tmp_path / "same.sdiff"], in_place=True)
    assert tree(live) == tree(steps[1])


@pytest.mark.parametrize("order", [["d", None, "d/f"], ["d/f", None, "d"]])
def test_chain_over_removed_and_readded_names_survives_any_stop(
    order: list[str | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped before every single replacement and removal in turn, then run again."""
    steps = []
    for i, name in enumerate([*order, order[-1]]):
        step = tmp_path / f"s{i}"
        files = {"Y": f"y{i}", "Z": f"z{i}"} | ({name: f"{name}{i}"} if name else {})
        for file, content in files.items():
            (step / file).parent.mkdir(parents=True, exist_ok=True)
            (step / file).write_text(content)
        steps.append(step)
    patches = [tmp_path / f"{i}.sdiff" for i in range(3)]
    for i, p in enumerate(patches):
        make_patch(steps[i], steps[i + 1], p)
    originals = {name: getattr(in_place, name) for name in ("_replace", "_remove")}
    for stop_after in range(20):
        live, done = tmp_path / "live", 0
        shutil.copytree(steps[0], live)

        def counting(name: str, after: int) -> Any:
            def call(*args: Any) -> None:
                nonlocal done
                if done == after:
                    raise KeyboardInterrupt
                done += 1
                originals[name](*args)

            return call

        for name in originals:
            monkeypatch.setattr(in_place, name, counting(name, stop_after))
        try:
            apply_patch(live, patches, in_place=True)
            finished = True
        except KeyboardInterrupt:
            finished = False
        monkeypatch.undo()
        for _ in range(2):  # the second time there is nothing left to do
            apply_patch(live, patches, in_place=True)
            assert tree(live) == tree(steps[3])
        shutil.rmtree(live)
        if finished:
            return
    pytest.fail("never ran to the end")


def test_file_a_later_patch_adds_is_not_overwritten(tmp_path: Path) -> None:
    for i, files in enumerate(({"m": "A"}, {"m": "B"}, {"m": "B", "N": "new"})):
        (tmp_path / f"s{i}").mkdir()
        for name, content in files.items():
            (tmp_path / f"s{i}" / name).write_text(content)
    patches = [tmp_path / "0.sdiff", tmp_path / "1.sdiff"]
    for i, p in enumerate(patches):
        make_patch(tmp_path / f"s{i}", tmp_path / f"s{i + 1}", p)
    live = tmp_path / "s0"
    (live / "N").write_text("mine")
    with pytest.raises(WrongBaseError, match="should not exist yet"):
        apply_patch(live, patches, in_place=True)
    assert tree(live) == {"m": b"A", "N": b"mine"}


def test_in_place_and_replacing_exclude_each_other(
    cli: Run, base: Path, target: Path, tmp_path: Path
) -> None:
    make_patch(target, base, tmp_path / "back.sdiff")
    with in_place._locked(base):
        code, _, err = cli("apply", target, tmp_path / "back.sdiff", "-o", base, "-f")
    assert (code, err.count("\n")) == (14, 1)


def test_single_file_stays_locked_over_a_chain(cli: Run, tmp_path: Path) -> None:
    before, after = training_pair()
    a = write_safetensors(tmp_path / "a", {"w": before})
    make_patch(a, write_safetensors(tmp_path / "b", {"w": after}), tmp_path / "p")
    with in_place._locked(a):
        shutil.copy(a, tmp_path / "copy")
        os.replace(tmp_path / "copy", a)  # as after the first patch of a chain
        assert cli("apply", "--in-place", a, tmp_path / "p")[0] == 14
    assert not [p for p in tmp_path.iterdir() if "sparsediff-tmp" in p.name]


def test_file_that_becomes_a_directory_is_refused(cli: Run, tmp_path: Path) -> None:
    for side, names in (("a", ["m", "x"]), ("b", ["m", "x/y"])):
        for name in names:
            (tmp_path / side / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / side / name).write_text(side + name)
    for old, new in (("a", "b"), ("b", "a")):
        make_patch(tmp_path / old, tmp_path / new, tmp_path / "p", force=True)
        before = tree(tmp_path / old)
        code, _, err = cli("apply", "--in-place", tmp_path / old, tmp_path / "p")
        assert (code, err.count("\n")) == (12, 1), err
        assert tree(tmp_path / old) == before


def test_damage_at_the_end_of_a_patch_leaves_all_alone(cli: Run, base: Path, patch: Path) -> None:
    raw = bytearray(patch.read_bytes())
    raw[-1] ^= 1
    patch.write_bytes(raw)
    before = tree(base)
    assert cli("apply", "--in-place", base, patch)[0] == 11
    assert tree(base) == before


def test_longest_file_name(tmp_path: Path) -> None:
    name = "ü" * 127
    for side in ("a", "b"):
        (tmp_path / side).mkdir()
        (tmp_path / side / name).write_text(side)
    make_patch(tmp_path / "a", tmp_path / "b", tmp_path / name)
    apply_patch(tmp_path / "a", tmp_path / name, in_place=True)
    assert (tmp_path / "a" / name).read_text() == "b"


def test_file_added_to_a_directory_of_one_file(tmp_path: Path) -> None:
    for side, k in (("a", 0), ("b", 1)):
        write_safetensors(tmp_path / side / "m.safetensors", {"w": training_pair(500)[k]})
    (tmp_path / "b" / "config.json").write_text("{}")
    make_patch(tmp_path / "a", tmp_path / "b", tmp_path / "p")
    apply_patch(tmp_path / "a", tmp_path / "p", in_place=True)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_second_run_is_locked(cli: Run, base: Path, patch: Path) -> None:
    with in_place._locked(base):
        code, _, err = cli("apply", base, patch, "--in-place")
    assert code == 14
    assert err.count("\n") == 1
