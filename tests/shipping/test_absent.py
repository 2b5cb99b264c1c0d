"""What is given as a store, a destination or a source and is something else is called by name."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from sparsediff.shipping.pull import pull
from sparsediff.shipping.ship import ship
from sparsediff.stores import open_store
from tests.conftest import Run
from tests.support.pairs import tree
from tests.support.runs import Trainer


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A place with a run, a store and two destinations."""
    trainer = Trainer(tmp_path / "run", n=200)
    trainer.save_steps(1, 2)
    store = open_store(str(tmp_path / "store"), create=True)
    ship(trainer.run, store)
    pull(store, tmp_path / "dest")
    pull(store, tmp_path / "inplace", in_place=True)
    return tmp_path


def rest(verb: str, place: Path) -> list[object]:
    """Arguments that a verb needs after the store."""
    more: dict[str, list[object]] = {"prune": ["--keep", "1"], "pull": [place / "new"]}
    return more.get(verb, [])


@pytest.mark.parametrize("dest", ["dest", "inplace"])
@pytest.mark.parametrize("verb", ["log", "check", "prune", "pull"])
def test_destination_is_no_store(verb: str, dest: str, place: Path, cli: Run) -> None:
    arguments = rest(verb, place)
    code, out, err = cli(verb, place / dest, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"sparsediff: {place / dest}: is a destination of pull, not a store;")


@pytest.mark.parametrize("verb", ["log", "check", "prune", "pull"])
def test_lost_pointer_is_not_a_new_store(verb: str, place: Path, cli: Run) -> None:
    (place / "store/latest.json").unlink()
    arguments = rest(verb, place)
    code, out, err = cli(verb, place / "store", *arguments)
    assert (code, out) == (11, "")
    assert "latest.json: is missing, but not the objects" in err
    assert "--repair" in err


@pytest.mark.parametrize("verb", ["log", "check", "prune", "pull"])
def test_objects_of_a_first_version_may_be_on_its_way(verb: str, place: Path, cli: Run) -> None:
    """As far as anybody can see: the next look tells, or whoever runs `check --repair`."""
    trainer = Trainer(place / "another", n=200)
    trainer.save_steps(1)
    store = open_store(str(place / "first"), create=True)
    ship(trainer.run, store)
    (place / "first/latest.json").unlink()
    arguments = rest(verb, place)
    code, out, err = cli(verb, place / "first", *arguments)
    assert (code, out, err.count("\n")) == (13, "", 1)
    assert "latest.json: is missing, but not the objects of a first version" in err
    assert "--repair" in err
    assert cli("check", place / "first", "--repair")[0] == 0
    assert cli(verb, place / "first", *arguments)[0] == 0


def test_new_store_lists_nothing(tmp_path: Path, cli: Run) -> None:
    assert cli("log", tmp_path) == (0, "nothing has been shipped here yet\n", "")


@pytest.mark.parametrize("flags", [(), ("--in-place",)])
def test_pull_with_swapped_arguments(flags: tuple[str, ...], place: Path, cli: Run) -> None:
    before = tree(place)
    other = place / "other"
    shutil.copytree(place / "store", other)
    for store, dest in (("dest", "store"), ("other", "store"), ("store", "s3://bucket/prefix")):
        code, _, err = cli("pull", place / store, dest if ":" in dest else place / dest, *flags)
        assert (code, err.count("\n")) == (2, 1)
        assert "give the store first and the destination after" in err
    shutil.rmtree(other)
    assert tree(place) == before


@pytest.mark.parametrize("source", ["s3://bucket/prefix", "store"])
def test_ship_with_swapped_arguments(source: str, place: Path, cli: Run) -> None:
    before = tree(place)
    code, _, err = cli("ship", source if ":" in source else place / source, place / "run")
    assert (code, err.count("\n")) == (2, 1)
    assert "is a store, not a source of checkpoints; give the source first" in err
    assert tree(place) == before
