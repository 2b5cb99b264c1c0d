"""Nothing waits in silence: what was not shipped is said, measured, and in time an error."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from sparsediff.shipping.look import REASONS, look
from sparsediff.shipping.policy import Policy
from sparsediff.shipping.pull import pull
from sparsediff.shipping.ship import ship
from sparsediff.shipping.state import default_state, load_seen
from sparsediff.stores import Store
from tests.conftest import Run
from tests.support.pairs import tree
from tests.support.runs import Trainer, catalog_of, settle

HOUR = 3600.0


def by_reason(file: Path, name: str) -> dict[str, float]:
    return {
        sample.labels["reason"]: sample.value
        for family in text_string_to_metric_families(file.read_text())
        for sample in family.samples
        if sample.name == f"sparsediff_ship_{name}_checkpoints"
    }


def cut(path: Path) -> None:
    """Make a checkpoint incomplete, without touching it."""
    shard = max(path.glob("*.safetensors"))
    then = shard.stat().st_mtime
    os.truncate(shard, shard.stat().st_size - 1)
    os.utime(shard, (then, then))


def test_a_checkpoint_that_stays_incomplete_becomes_an_error(
    trainer: Trainer, tmp_path: Path, cli: Run
) -> None:
    store, metrics = tmp_path / "store", tmp_path / "m.prom"
    trainer.save_steps(1)
    command = ("ship", trainer.run, store, "--metrics-file", metrics)
    assert cli(*command)[0] == 0
    assert (
        by_reason(metrics, "waiting") == by_reason(metrics, "stalled") == dict.fromkeys(REASONS, 0)
    )
    cut(trainer.save("step_000002", age=HOUR / 2))
    code, out, err = cli(*command)
    assert (code, err) == (0, "")
    assert "nothing new to ship, the store is at step_000001; step_000002 waits: " in out
    assert by_reason(metrics, "waiting")["incomplete"] == 1
    assert by_reason(metrics, "stalled")["incomplete"] == 0
    code, out, err = cli(*command, "-q", "--stalled-after", "15min")
    assert (code, out) == (13, "")
    assert f"{trainer.run}: step_000002 has waited for 30 min" in err
    assert err.count("\n") == 1
    assert by_reason(metrics, "stalled")["incomplete"] == 1
    # What can be shipped is shipped all the same.
    trainer.save_steps(3)
    code, out, err = cli(*command, "--stalled-after", "15min")
    assert code == 13
    assert "shipped step_000003" in out
    assert cli(*command, "-q", "--stalled-after", "15min")[0] == 0, "a later one is there"


def test_waiting_is_remembered_while_files_are_touched(
    trainer: Trainer, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer.save_steps(1)
    ship(trainer.run, store)
    path = trainer.save("step_000002")
    cut(path)
    (first,) = ship(trainer.run, store).waiting
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 2 * HOUR)
    settle(path, age=0.0)
    (later,) = ship(trainer.run, store).waiting
    assert later.since <= now
    assert later.since == pytest.approx(load_seen(default_state(trainer.run)).first["step_000002"])
    assert first.since < later.since


def test_a_name_that_cannot_travel_says_why(trainer: Trainer, tmp_path: Path, cli: Run) -> None:
    path = trainer.save("step_000001", age=2 * HOUR)
    (path / "a\\b").write_text("x")
    settle(path, age=2 * HOUR)
    code, _, err = cli("ship", trainer.run, tmp_path / "store", "-q")
    assert code == 13
    assert "cannot be carried to another machine: character 2 is a backslash" in err


def test_a_step_written_again_is_shipped_again(
    trainer: Trainer, store: Store, tmp_path: Path
) -> None:
    (path,) = trainer.save_steps(1)
    ship(trainer.run, store)
    shutil.rmtree(path)
    trainer.step()
    trainer.save(path.name)
    notes: list[str] = []
    (shipped,) = ship(trainer.run, store, note=notes.append).shipped
    assert shipped.version.name == "step_000001-000002"
    assert [p.base for p in shipped.version.patches] == [1]
    assert "was written again after it was shipped" in notes[0]
    pull(store, tmp_path / "dest")
    assert tree(tmp_path / "dest/current") == tree(path)
    assert ship(trainer.run, store).shipped == []


def test_a_step_that_was_only_touched_is_not(trainer: Trainer, store: Store) -> None:
    (path,) = trainer.save_steps(1)
    ship(trainer.run, store)
    before = catalog_of(store)
    settle(path, age=30.0)
    result = ship(trainer.run, store)
    assert (result.shipped, result.waiting) == ([], [])
    after = catalog_of(store)
    assert [v.version for v in after.versions] == [1]
    assert after == before
    seen = load_seen(default_state(trainer.run))
    assert look(trainer.run, after, Policy(), seen).due == []  # nor compared once more
    trainer.save_steps(2)
    assert [s.version.name for s in ship(trainer.run, store).shipped] == ["step_000002"]


def test_results_written_into_an_old_checkpoint_are_no_training_taken_back(
    trainer: Trainer, store: Store
) -> None:
    old, _ = trainer.save_steps(1, 2)
    ship(trainer.run, store)
    (old / "eval_results.json").write_text("{}")
    ahead = time.time() + 60
    os.utime(old / "eval_results.json", (ahead, ahead))
    os.utime(old, (ahead, ahead))
    assert ship(trainer.run, store).waiting == []
    shard = next(old.glob("*.safetensors"))
    os.utime(shard, (ahead, ahead))
    assert [w.reason for w in ship(trainer.run, store).waiting] == ["taken-back"]


def test_other_sequences_are_named(trainer: Trainer, tmp_path: Path, cli: Run) -> None:
    trainer.save_steps(1)
    trainer.save("best-7")
    trainer.save("step_000001-merged-2")
    code, out, _ = cli("ship", trainer.run, tmp_path / "store")
    assert code == 0
    assert "shipped step_000001:" in out
    assert "; of another sequence: best-7, step_000001-merged-2" in out
    code, out, _ = cli("ship", trainer.run, tmp_path / "store", "--log-json")
    assert json.loads(out)["passed_over"] == ["best-7", "step_000001-merged-2"]
