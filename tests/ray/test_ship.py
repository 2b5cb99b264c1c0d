"""ship on a cluster of Ray: the versions that one machine ships, whatever happens to the nodes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

import sparsediff.ray
from sparsediff.errors import CorruptError, UnavailableError
from sparsediff.shipping.policy import Policy
from sparsediff.shipping.ship import ship
from sparsediff.stores import open_store
from tests.conftest import Run
from tests.support.clusters import one_node_lost
from tests.support.pairs import tree
from tests.support.refusals import EXIT, refused
from tests.support.runs import Trainer, assert_sound, catalog_of


def patches_in(store: Path) -> list[bytes]:
    return sorted(p.read_bytes() for p in store.rglob("*.sdiff"))


def test_versions_are_those_of_one_machine(cluster: Any, tmp_path: Path) -> None:
    """Anchors, patches and shortcuts."""
    trainer = Trainer(tmp_path / "run")
    steps = trainer.save_steps(1, 2, 3)
    policy = Policy(squash_every=2)
    seen: list[tuple[int, int]] = []
    store = open_store(str(tmp_path / "store"), create=True)
    result = sparsediff.ray.ship(
        trainer.run,
        store,
        policy,
        address=cluster.address,
        parts=3,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert [s.version.name for s in result.shipped] == [s.name for s in steps]
    assert seen
    assert_sound(store, {s.name: tree(s) for s in steps}, tmp_path / "scratch")
    shutil.rmtree(tmp_path / ".run.sparsediff-ship")
    ship(trainer.run, open_store(str(tmp_path / "other"), create=True), policy)
    assert patches_in(tmp_path / "store") == patches_in(tmp_path / "other")
    assert len(patches_in(tmp_path / "store")) == 4


def test_on_the_command_line(cluster: Any, cli: Run, tmp_path: Path) -> None:
    trainer = Trainer(tmp_path / "run")
    trainer.save_steps(1)
    arguments = "ship", trainer.run, tmp_path / "store", "--ray"
    code, out, err = cli(*arguments, cluster.address)
    assert (code, err) == (0, "")
    assert "shipped step_000001" in out
    code, out, _ = cli(*arguments, "nowhere")  # there is nothing to make
    assert code == 0
    assert "nothing new to ship" in out
    trainer.save_steps(2)
    refused(cli(*arguments, "nowhere"), EXIT["unavailable"], "no Ray cluster at nowhere")
    assert cli(*arguments, cluster.address, "-j", 1)[0] == EXIT["usage"]
    assert cli(*arguments, cluster.address)[0] == 0


def test_error_on_a_node_publishes_nothing(cluster: Any, tmp_path: Path) -> None:
    trainer = Trainer(tmp_path / "run")
    trainer.save_steps(1)
    store = open_store(str(tmp_path / "store"), create=True)
    state = tmp_path / ".run.sparsediff-ship"

    def damage(done: int, total: int) -> None:
        for kept in state.rglob("*.safetensors"):
            os.truncate(kept, 100)

    # A part that begins now finds the file cut, one that is reading it finds it changed.
    with pytest.raises((CorruptError, UnavailableError), match="model-0000"):
        sparsediff.ray.ship(trainer.run, store, address=cluster.address, parts=12, progress=damage)
    assert patches_in(tmp_path / "store") == []
    assert [p.name for p in state.iterdir() if ".parts" in p.name] == []


def test_lost_node_costs_only_its_parts(cluster: Any, tmp_path: Path) -> None:
    trainer = Trainer(tmp_path / "run", n=1 << 21)
    steps = trainer.save_steps(1, 2)
    notes: list[str] = []
    store = open_store(str(tmp_path / "store"), create=True)
    with one_node_lost(cluster):
        sparsediff.ray.ship(
            trainer.run, store, address=cluster.address, parts=12, note=notes.append
        )
    assert len(notes) == 1
    assert "was lost with its worker or node" in notes[0]
    assert [v.name for v in catalog_of(store).versions] == [s.name for s in steps]
    assert_sound(store, {s.name: tree(s) for s in steps}, tmp_path / "scratch")


def test_what_a_killed_run_left_is_removed(cluster: Any, tmp_path: Path) -> None:
    trainer = Trainer(tmp_path / "run")
    trainer.save_steps(1)
    store = open_store(str(tmp_path / "store"), create=True)
    ship(trainer.run, store)
    left = tmp_path / ".run.sparsediff-ship" / "..from-000001.sdiff.parts.sparsediff-tmp"
    left.mkdir()
    (left / "part 1 of 2").touch()
    trainer.save_steps(2)
    ship(trainer.run, store)
    assert not left.exists()
