"""kill -9 at every point of ship and pull: the store and the destinations stay right."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from sparsediff.shipping.check import check
from sparsediff.shipping.pull import pull
from sparsediff.shipping.state import default_state
from sparsediff.stores import open_store
from tests.support.drill import Drill
from tests.support.kills import killed_at_each_point
from tests.support.pairs import tree
from tests.support.runs import assert_sound, catalog_of


def test_kill_ship_leaves_a_sound_store_and_the_next_run_completes_it(tmp_path: Path) -> None:
    drill = Drill(tmp_path)
    points = []
    for point in killed_at_each_point(drill.restore, drill.ship, tmp_path / "log", drill.live):
        points.append(point)
        store = open_store(drill.store)
        assert_sound(store, drill.originals, drill.scratch())
        drill.ship()
        catalog = catalog_of(store)
        assert [v.name for v in catalog.versions] == ["step_000100", "step_000200", "step_000300"]
        assert catalog.latest.step is not None, "the base was kept, so a patch could be made"
        assert_sound(store, drill.originals, drill.scratch())
        check(store, now=time.time() + 10, grace=1.0, repair=True)
        assert {o.key for o in store.list("")} == catalog.keys() | {"latest.json"}
        assert list(store.leftovers()) == []
        state = default_state(drill.run)
        left = ["empty", "kept", "lock", "seen.json", "state.json"]
        assert sorted(p.name for p in state.iterdir()) == left
        assert [p.name for p in (state / "kept").iterdir()] == ["000003"]
    names = " ".join(points)
    for what in ("put", "swap latest.json", "link", "rename"):
        assert f"before {what}" in names
        assert f"after {what}" in names


@pytest.mark.parametrize("start", ["nothing", "step_000100", "step_000200"])
def test_kill_pull_shows_readers_one_version_or_the_other(start: str, tmp_path: Path) -> None:
    drill = Drill(tmp_path)
    drill.ship()
    dest = drill.live / "dest"
    store = open_store(drill.store)
    if start != "nothing":
        pull(store, dest, version=start, jobs=1)
    before = tree(dest / "current") if start != "nothing" else {}
    drill.save()
    originals = drill.originals
    points = []
    for point in killed_at_each_point(
        drill.restore,
        lambda: pull(store, dest, jobs=1, streams=1, keep=1),
        tmp_path / "log",
        drill.live,
    ):
        points.append(point)
        assert tree(dest / "current") in (before, originals["step_000300"])
        for version in (dest / "versions").glob("step_*"):  # all of it or nothing, to the last
            assert tree(version) == originals[version.name], point
        pull(store, dest, jobs=1, streams=1, keep=1)
        assert tree(dest / "current") == originals["step_000300"]
        assert [p.name for p in (dest / "versions").iterdir()] == ["step_000300"]
        home = sorted(str(p.relative_to(dest)) for p in (dest / ".sparsediff").rglob("*"))
        assert home == [f".sparsediff/{n}" for n in ("empty", "fetched", "lock", "state.json")]
    assert any("before replace current" in p for p in points)
    assert any("after replace current" in p for p in points)


@pytest.mark.parametrize("start", ["step_000100", "step_000200"])
def test_kill_pull_in_place_is_completed(start: str, tmp_path: Path) -> None:
    drill = Drill(tmp_path)
    drill.trainer.save_steps(400, shards=1)  # the step before it reshards: not in place
    drill.ship()
    dest = drill.live / "dest"
    store = open_store(drill.store)
    originals = drill.originals
    pull(store, dest, version=start, in_place=True, jobs=1)
    drill.save()
    wanted = "step_000400" if start == "step_000100" else "step_000300"

    def act() -> None:
        pull(store, dest, version=wanted, in_place=True, jobs=1, streams=1)

    for point in killed_at_each_point(drill.restore, act, tmp_path / "log", drill.live):
        assert dest.exists(), point
        act()
        assert tree(dest) == originals[wanted], point
        left = sorted(p.name for p in (drill.live / ".dest.sparsediff-pull").iterdir())
        assert left == ["empty", "fetched", "lock", "state.json"], point
