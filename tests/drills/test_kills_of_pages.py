"""kill -9 at every point of what writes pages, lists and parts: nothing is torn, nothing stays."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from sparsediff.shipping import sealing
from sparsediff.shipping.catalog_json import POINTER
from sparsediff.shipping.check import check
from sparsediff.shipping.objects import keys_of
from sparsediff.shipping.policy import Policy
from sparsediff.shipping.prune import prune
from sparsediff.shipping.ship import ship
from sparsediff.stores import Store, open_store
from tests.support.kills import killed_at_each_point
from tests.support.pairs import tree
from tests.support.parted import publish_in_parts
from tests.support.runs import Trainer, assert_sound, catalog_of

pytestmark = pytest.mark.slow  # test_kills does this by default, to a store without pages


class Place:
    """A store with pages of pages, to be put back after each kill."""

    def __init__(self, room: Path) -> None:
        self.room, self.live, self.saved = room, room / "live", room / "saved"
        self.trainer = Trainer(self.live / "run", n=100)
        self.paths = self.trainer.save_steps(*range(1, 10))
        (self.live / "parts").mkdir()
        publish_in_parts(self.store, [None], self.paths[0], self.scratch(), n_parts=2)
        self.ship()
        self.save()

    @property
    def store(self) -> Store:
        return open_store(str(self.live / "store"), create=True)

    def ship(self) -> None:
        ship(
            self.live / "run", self.store, Policy(anchor_every=4), adopt=True, jobs=1, streams=1,
            state_directory=self.live / "state",
        )  # fmt: skip

    def scratch(self) -> Path:
        shutil.rmtree(self.live / "parts", ignore_errors=True)
        (self.live / "parts").mkdir()
        return self.live / "parts"

    def save(self) -> None:
        shutil.rmtree(self.saved, ignore_errors=True)
        shutil.copytree(self.live, self.saved, symlinks=True, copy_function=os.link)

    def restore(self) -> None:
        shutil.rmtree(self.live)
        shutil.copytree(self.saved, self.live, symlinks=True, copy_function=os.link)

    def assert_clean(self, names: list[str]) -> None:
        """These versions can be had, and but for orphans nothing else is there."""
        store = self.store
        assert [v.name for v in catalog_of(store).versions] == names
        check(store, now=time.time() + 10, grace=1.0, repair=True)
        found = check(store, now=time.time())
        assert (found.broken, found.unreachable, found.orphans, found.young) == ({}, [], [], [])
        catalog = catalog_of(store)
        assert {o.key for o in store.list("")} == keys_of(store, catalog) | {POINTER}
        assert list(store.leftovers()) == []


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setattr(sealing, "FAN", 2)
    monkeypatch.setattr(sealing, "_PUTS", 1)  # at once: else the points come in another order
    return Place(tmp_path / "room")


def names_of(place: Place) -> list[str]:
    return [v.name for v in catalog_of(place.store).versions]


def test_ship(place: Place, tmp_path: Path) -> None:
    place.paths += place.trainer.save_steps(10)
    place.save()
    before = names_of(place)
    points = []
    for point in killed_at_each_point(place.restore, place.ship, tmp_path / "log", place.live):
        points.append(point)
        assert names_of(place) in (before, [*before, "step_000010"])
        assert list(catalog_of(place.store).versions)
        place.ship()
        place.assert_clean([*before, "step_000010"])
    assert ", ".join(points).count("put 0000000") >= 6, "pages were put, of several depths"


def test_prune(place: Place, tmp_path: Path) -> None:
    def act() -> None:
        prune(place.store, now=time.time() + 100, keep=3, grace=0.0, streams=1)

    points = []
    for point in killed_at_each_point(place.restore, act, tmp_path / "log", place.live):
        points.append(point)
        assert check(place.store, now=time.time()).broken == {}
        act()
        act()
        kept = names_of(place)
        assert catalog_of(place.store).dropped == ()
        place.assert_clean(kept)
        assert len(kept) < 6
        directories = [p for p in (place.live / "store").rglob("*") if p.is_dir()]
        assert all(any(p.iterdir()) for p in directories), point
    assert any("rmdir" in p for p in points)
    assert any("before delete dropped-" in p for p in points)


def test_publishing_in_parts(place: Place, tmp_path: Path) -> None:
    (path,) = place.trainer.save_steps(10)
    place.save()
    before = names_of(place)

    def act() -> None:
        publish_in_parts(place.store, [place.paths[-1]], path, place.scratch(), n_parts=1)

    for point in killed_at_each_point(place.restore, act, tmp_path / "log", place.live):
        if names_of(place) == before:
            act()
        place.assert_clean([*before, path.name])
        assert point
    originals = {p.name: tree(p) for p in [*place.paths, path]}
    assert_sound(place.store, originals, tmp_path / "pulled")
