"""pull in place keeps who may read, and what is on its way is for nobody else."""

from __future__ import annotations

from pathlib import Path

from sparsediff.shipping.pull import pull
from sparsediff.shipping.ship import ship
from sparsediff.stores import open_store
from tests.support.pairs import tree
from tests.support.runs import Trainer


def modes(path: Path) -> dict[str, int]:
    return {str(p.relative_to(path)): p.stat().st_mode & 0o7777 for p in [path, *path.rglob("*")]}


def make_private(path: Path) -> None:
    path.chmod(0o750)
    for file in path.iterdir():
        file.chmod(0o600)


def test_private_checkpoint_stays_private(tmp_path: Path) -> None:
    trainer, dest = Trainer(tmp_path / "run"), tmp_path / "live"
    store = open_store(str(tmp_path / "store"), create=True)
    trainer.save_steps(1)
    ship(trainer.run, store)
    pull(store, dest, in_place=True)
    make_private(dest)
    before = modes(dest)
    trainer.save_steps(2)
    ship(trainer.run, store)
    pull(store, dest, in_place=True)
    assert tree(dest) == tree(trainer.run / "step_000002")
    assert modes(dest) == before


def test_private_checkpoint_stays_private_where_it_is_replaced_whole(tmp_path: Path) -> None:
    """A reshard cannot be done file by file."""
    trainer, dest = Trainer(tmp_path / "run"), tmp_path / "live"
    store = open_store(str(tmp_path / "store"), create=True)
    trainer.save_steps(1, shards=1)
    ship(trainer.run, store)
    pull(store, dest, in_place=True)
    make_private(dest)
    trainer.save_steps(2, shards=2)
    ship(trainer.run, store)
    pull(store, dest, in_place=True)
    assert tree(dest) == tree(trainer.run / "step_000002")
    after = modes(dest)
    assert (after["."], after["config.json"]) == (0o750, 0o600)
    home = tmp_path / ".live.sparsediff-pull"
    assert sorted(p.name for p in home.iterdir()) == ["empty", "fetched", "lock", "state.json"]
    assert modes(home)["fetched"] == 0o700
