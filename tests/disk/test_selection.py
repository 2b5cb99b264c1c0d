"""Files left out by pattern: which, in a patch and in a store, and that a receiver is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sparsediff.disk.selection import Selection
from tests.conftest import Run
from tests.support.pairs import tree
from tests.support.refusals import refused
from tests.support.runs import settle


@pytest.mark.parametrize(
    ("pattern", "held"),
    [
        ("optimizer*", {"optimizer.pt", "rank_0/optimizer.bin", "optimizer_states/a/b"}),
        ("optimizer.pt", {"optimizer.pt"}),
        ("rank_0", {"rank_0/optimizer.bin", "rank_0/model.bin"}),
        ("rank_0/", {"rank_0/optimizer.bin", "rank_0/model.bin"}),
        ("rank_0/o*", {"rank_0/optimizer.bin"}),
        ("*.bin", {"rank_0/optimizer.bin", "rank_0/model.bin"}),
        ("[xy]*", set()),
    ],
)
def test_a_pattern_holds_for_names_their_last_parts_and_directories(
    pattern: str, held: set[str]
) -> None:
    names = {
        "model.pt",
        "optimizer.pt",
        "rank_0/optimizer.bin",
        "rank_0/model.bin",
        "optimizer_states/a/b",
    }
    assert {n for n in names if Selection(include=(pattern,)).takes(n)} == held
    assert {n for n in names if not Selection(exclude=(pattern,)).takes(n)} == held
    assert not any(Selection((pattern,), (pattern,)).takes(n) for n in names)
    assert all(Selection().takes(n) for n in names)


def _with_optimizer(*checkpoints: Path) -> None:
    for i, path in enumerate(checkpoints):
        (path / "optimizer.pt").write_bytes(bytes([i + 1]) * 1000)


def test_make_carries_what_was_asked_for(
    base: Path, target: Path, tmp_path: Path, cli: Run
) -> None:
    weights = tree(target)
    _with_optimizer(base, target)
    patch, out = tmp_path / "p.sdiff", tmp_path / "out"
    code, text, _ = cli("make", base, target, "-o", patch, "--exclude", "optimizer*")
    assert code == 0
    assert ", 1 file left out (1 kB)," in text
    assert cli("apply", base, patch, "-o", out, "-q")[0] == 0
    assert tree(out) == weights
    # Nor is what was left out demanded of the base.
    (base / "optimizer.pt").unlink()
    assert cli("apply", base, patch, "-o", out, "-q", "-f")[0] == 0
    code, text, _ = cli("make", base, target, "-o", patch, "-f", "--include", "opt*", "--json")
    assert code == 0
    assert set(json.loads(text)["left_out"]) == set(weights)


def test_make_refuses_a_choice_of_nothing(
    base: Path, target: Path, tmp_path: Path, cli: Run
) -> None:
    patch = tmp_path / "p.sdiff"
    refused(cli("make", base, target, "-o", patch, "--include", "nothing"), 2, "leave no file")
    file = next(target.glob("*.safetensors"))
    message = "--include and --exclude choose among those of a directory"
    refused(cli("make", file, file, "-o", patch, "--exclude", "x"), 2, message)
    assert not patch.exists()


def test_a_version_says_what_of_it_was_not_shipped(
    base: Path, target: Path, tmp_path: Path, cli: Run
) -> None:
    weights = tree(target)
    _with_optimizer(base, target)
    run, store, dest = tmp_path / "run", tmp_path / "store", tmp_path / "dest"
    run.mkdir()
    for place in (base, target):
        settle(place)
    base.rename(run / "step_000001")
    assert cli("ship", run, store, "-q")[0] == 0
    assert "left_out" not in (store / "latest.json").read_text()
    target.rename(run / "step_000002")
    code, out, _ = cli("ship", run, store, "--exclude", "optimizer*")
    assert code == 0
    assert "1 file left out" in out
    (version,) = [
        v for v in json.loads((store / "latest.json").read_text())["versions"] if "left_out" in v
    ]
    assert version["left_out"] == {
        "include": [],
        "exclude": ["optimizer*"],
        "n_files": 1,
        "n_bytes": 1000,
    }
    code, out, _ = cli("pull", store, dest)
    assert code == 0
    assert "without 1 file (1 kB) not shipped" in out
    assert tree(dest / "current") == weights
    code, out, _ = cli("log", store)
    assert "1 version without all files, the last of them by --exclude 'optimizer*'" in out
    assert cli("check", store, "-q")[0] == 0
    refused(cli("ship", run / "step_000002", store, "--include", "x"), 2)
