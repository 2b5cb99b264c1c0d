"""Checkpoints that are written again, touched, cleaned up or passed over."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from sparsediff.shipping.catalog import Version
from sparsediff.shipping.kept import Kept
from sparsediff.shipping.policy import Policy
from sparsediff.shipping.ship import ShipResult, ship
from sparsediff.shipping.source import Rule
from sparsediff.shipping.state import default_state
from sparsediff.stores import Store
from tests.support.pairs import tree
from tests.support.runs import Trainer, assert_sound, settle


def names(result: ShipResult) -> list[str]:
    return [s.version.name for s in result.shipped]


def touch(path: Path) -> None:
    """Give files other times, though none so new that they are looked at twice."""
    for file in path.iterdir():
        then = file.stat().st_mtime - 60
        os.utime(file, (then, then))


@pytest.fixture
def retrained(tmp_path: Path) -> Trainer:
    """The same training with another outcome."""
    return Trainer(tmp_path / "retrained", seed=1)


def test_newest_written_again_is_shipped_again(
    trainer: Trainer, retrained: Trainer, store: Store, tmp_path: Path
) -> None:
    first, second = trainer.save_steps(1, 2)
    originals = {p.name: tree(p) for p in (first, second)}
    ship(trainer.run, store)
    shutil.rmtree(second)
    shutil.copytree(retrained.save_steps(2)[0], second)
    settle(second)
    notes: list[str] = []
    assert names(ship(trainer.run, store, note=notes.append)) == ["step_000002-000003"]
    assert "step_000002: was written again" in notes[-1]
    assert ship(trainer.run, store, note=notes.append).shipped == []
    assert len(notes) == 1
    assert_sound(store, originals | {"step_000002-000003": tree(second)}, tmp_path)


def test_in_place_and_without_a_trace_in_its_directory(trainer: Trainer, store: Store) -> None:
    """The directory looks as before; and another step is there meanwhile."""
    (first,) = trainer.save_steps(1)
    ship(trainer.run, store)
    before = first.stat().st_mtime_ns
    (first / "config.json").write_text("{}")
    assert first.stat().st_mtime_ns == before
    touch(first)
    trainer.save_steps(2)
    assert names(ship(trainer.run, store)) == ["step_000001-000002", "step_000002"]


@pytest.mark.parametrize("state", ["kept", "lost"])
def test_touched_files_are_no_new_version(state: str, trainer: Trainer, store: Store) -> None:
    (first,) = trainer.save_steps(1)
    ship(trainer.run, store)
    for _ in range(2):
        touch(first)
        if state == "lost":
            shutil.rmtree(default_state(trainer.run))
        for _ in range(2):
            result = ship(trainer.run, store)
            assert (result.shipped, result.waiting) == ([], [])
        kept = default_state(trainer.run) / "kept"
        assert sorted(os.listdir(kept)) == ["000001"]
    trainer.save_steps(2)
    (shipped,) = ship(trainer.run, store).shipped
    assert shipped.version.step is not None, "the snapshot was forgotten"


def test_touched_single_checkpoint_is_no_new_version(trainer: Trainer, store: Store) -> None:
    path = trainer.save("latest")
    ship(path, store)
    touch(path)
    assert ship(path, store).shipped == []
    trainer.step()
    trainer.save("latest")
    assert names(ship(path, store)) == ["latest-000002"]


def test_content_that_comes_back_is_shipped(trainer: Trainer, store: Store, tmp_path: Path) -> None:
    """By renaming, so that the files are those of a version before the latest."""
    for age, name in enumerate(("a", "b"), 60):
        trainer.step()
        trainer.save(f"../{name}", age=age)
    link = tmp_path / "latest"
    for i, name in enumerate(("a", "b", "a", "b"), 1):
        link.unlink(missing_ok=True)
        link.symlink_to(name)
        assert names(ship(link, store)) == [f"latest-{i:06}"]


def test_step_that_is_being_deleted_is_not_shipped_again(trainer: Trainer, store: Store) -> None:
    (first,) = trainer.save_steps(1)
    ship(trainer.run, store)
    (first / "config.json").unlink()
    notes: list[str] = []
    for _ in range(2):
        result = ship(trainer.run, store, note=notes.append)
        assert (result.shipped, result.waiting) == ([], [])
    assert len(notes) == 1
    assert "config.json is gone since it was shipped" in notes[0]
    (first / "config.json").write_text("{}")
    settle(first)
    assert names(ship(trainer.run, store)) == ["step_000001-000002"]


def test_rewind_of_what_was_shipped_already_does_nothing(trainer: Trainer, store: Store) -> None:
    (first,) = trainer.save_steps(1)
    ship(trainer.run, store)
    touch(first)
    assert ship(trainer.run, store, Policy(rewind=True)).shipped == []


def test_one_that_is_passed_over_is_noted(trainer: Trainer, store: Store) -> None:
    _, second, _ = trainer.save_steps(1, 2, 3)
    shutil.rmtree(trainer.run / "step_000003")
    ship(trainer.run, store)
    next(second.glob("*.safetensors")).unlink()
    shutil.move(second, trainer.run / "step_000004")
    trainer.save_steps(5)
    notes: list[str] = []
    result = ship(trainer.run, store, note=notes.append)
    assert names(result) == ["step_000005"]
    assert len(notes) == 1
    assert "step_000004 is passed over: shards of" in notes[0]


def test_what_the_store_has_is_not_called_incomplete(trainer: Trainer, store: Store) -> None:
    """The rule changed since: what was shipped has no marker."""
    trainer.save_steps(1)
    ship(trainer.run, store)
    result = ship(trainer.run, store, Policy(Rule(marker="DONE")))
    assert result.waiting == []


def test_a_file_of_the_far_future_does_not_spoil_the_record(trainer: Trainer, store: Store) -> None:
    trainer.save_steps(1)
    path = trainer.save("step_000002")
    next(path.glob("*.safetensors")).unlink()
    os.utime(path / "config.json", (2e11, 2e11))
    for _ in range(2):
        result = ship(trainer.run, store)
        assert result.look is not None
        assert 0 < result.look.seen.newest <= time.time()
        assert [w.name for w in result.waiting] == ["step_000002"]


def test_two_shippers_of_two_copies_compare_once(
    trainer: Trainer, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has fingerprints of its own; neither reads a checkpoint in every run."""
    trainer.save_steps(1, 2)
    ship(trainer.run, store)
    copy = tmp_path / "copy" / trainer.run.name
    shutil.copytree(trainer.run, copy)
    monkeypatch.setattr("platform.node", lambda: "elsewhere")
    compared = []
    holds = Kept.holds

    def counted(self: Kept, version: Version, place: Path) -> bool:
        compared.append(version.name)
        return holds(self, version, place)

    monkeypatch.setattr(Kept, "holds", counted)
    for _ in range(2):
        for run in (copy, trainer.run):
            assert ship(run, store).shipped == []
    assert compared == ["step_000002"]
