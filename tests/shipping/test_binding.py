"""A store holds the checkpoints of one run."""

from __future__ import annotations

import json
import platform
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest

from sparsediff import UsageError
from sparsediff.shipping.catalog_json import POINTER, dump
from sparsediff.shipping.check import check
from sparsediff.shipping.pull import pull
from sparsediff.shipping.ship import ship
from sparsediff.shipping.state import default_state
from sparsediff.stores import Store, open_store
from tests.conftest import Run
from tests.support.pairs import tree
from tests.support.runs import Trainer, catalog_of


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"), create=True)


@pytest.fixture
def trainer(tmp_path: Path, store: Store) -> Trainer:
    trainer = Trainer(tmp_path / "run")
    trainer.save_steps(1)
    ship(trainer.run, store)
    return trainer


def names(store: Store) -> list[str]:
    return [v.name for v in catalog_of(store).versions]


@pytest.mark.parametrize("name", ["other", "elsewhere/run"])
@pytest.mark.parametrize("shipped_before", [False, True])
def test_another_run_is_refused(
    name: str, shipped_before: bool, trainer: Trainer, store: Store, tmp_path: Path, cli: Run
) -> None:
    other = Trainer(tmp_path / name, seed=1)
    other.save_steps(2)
    if shipped_before:
        ship(other.run, open_store(str(tmp_path / "its-own"), create=True))
    before = Path(store.name, POINTER).read_bytes()
    code, out, err = cli("ship", other.run, store.name)
    assert (code, out) == (2, "")
    assert err.startswith(f"sparsediff: {store.name}: holds the checkpoints of another run, run")
    assert "--adopt" in err
    assert Path(store.name, POINTER).read_bytes() == before


def test_another_run_may_continue_a_store(trainer: Trainer, store: Store, tmp_path: Path) -> None:
    other = Trainer(tmp_path / "other", seed=1)
    (path,) = other.save_steps(2)
    notes: list[str] = []
    (shipped,) = ship(other.run, store, adopt=True, note=notes.append).shipped
    assert notes == [f"{store.name}: held the run run, and goes on with other"]
    assert [p.base for p in shipped.version.patches] == [None]
    pull(store, tmp_path / "dest")
    assert tree(tmp_path / "dest/current") == tree(path)
    assert ship(other.run, store).shipped == []  # once is enough
    trainer.save_steps(3)
    with pytest.raises(UsageError, match="another run, other"):
        ship(trainer.run, store)


def test_adopted_with_nothing_to_ship(trainer: Trainer, store: Store, tmp_path: Path) -> None:
    other = Trainer(tmp_path / "other", seed=1)
    for name in ("step_000001", "step_000000"):
        shutil.copytree(trainer.run / "step_000001", other.run / name)
    assert ship(other.run, store, adopt=True).shipped == []
    ship(other.run, store)


@pytest.mark.parametrize("moved", [False, True])
def test_run_whose_state_is_lost_on_another_machine(
    moved: bool, trainer: Trainer, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(default_state(trainer.run))
    monkeypatch.setattr(platform, "node", lambda: "elsewhere")
    run = trainer.run
    if moved:
        (tmp_path / "mnt").mkdir()
        run = trainer.run.rename(tmp_path / "mnt/run")
        trainer.run = run
    notes: list[str] = []
    ship(run, store, note=notes.append)
    assert len(notes) == 1
    assert "holds the run run of another machine" in notes[0]
    ship(run, store, note=notes.append)
    assert len(notes) == 1, "noted once"
    trainer.save_steps(2)
    ship(run, store)
    assert names(store) == ["step_000001", "step_000002"]


def test_run_that_moved_with_its_state(trainer: Trainer, store: Store, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    default_state(trainer.run).rename(tmp_path / "there/.run.sparsediff-ship")
    trainer.run = trainer.run.rename(tmp_path / "there/run")
    trainer.save_steps(2)
    (shipped,) = ship(trainer.run, store).shipped
    assert [p.base for p in shipped.version.patches] == [1]


def test_state_of_one_run_given_to_another(trainer: Trainer, store: Store, tmp_path: Path) -> None:
    other = Trainer(tmp_path / "other", seed=1)
    other.save_steps(2)
    with pytest.raises(UsageError, match="another run"):
        ship(other.run, store, state_directory=default_state(trainer.run))


def test_second_state_of_the_same_run(trainer: Trainer, store: Store, tmp_path: Path) -> None:
    notes: list[str] = []
    for number in (2, 3, 4):
        trainer.save_steps(number)
        ship(trainer.run, store, state_directory=tmp_path / f"state{number % 2}", note=notes.append)
    assert (len(names(store)), notes) == (4, [])


def test_store_of_an_earlier_release_is_bound_by_the_next_version(
    trainer: Trainer, store: Store, tmp_path: Path
) -> None:
    unbound = dump(replace(catalog_of(store), run=None))
    assert "run" not in json.loads(unbound)
    assert store.swap(POINTER, unbound, store.tag(POINTER))
    trainer.save_steps(2)
    ship(trainer.run, store)
    other = Trainer(tmp_path / "other", seed=1)
    other.save_steps(3)
    with pytest.raises(UsageError, match="another run"):
        ship(other.run, store)


def test_pointer_made_anew_is_bound_again(trainer: Trainer, store: Store) -> None:
    Path(store.name, POINTER).unlink()
    check(store, now=time.time(), repair=True)
    assert catalog_of(store).run is None
    trainer.save_steps(2)
    ship(trainer.run, store)
    bound = catalog_of(store).run
    assert bound is not None
    assert bound.name == "run"
