"""A patch in parts, put by several machines, is a patch like any other."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from sparsediff.errors import CorruptError, UnsupportedError
from sparsediff.shipping.catalog import Version
from sparsediff.shipping.catalog_json import POINTER, dump
from sparsediff.shipping.check import check
from sparsediff.shipping.parts import parts_of, put_part, read_parts
from sparsediff.shipping.prune import prune
from sparsediff.shipping.pull import pull
from sparsediff.shipping.ship import ship
from sparsediff.stores import Store, open_store
from tests.conftest import Run
from tests.support.kills import killed_at_each_point
from tests.support.pairs import tree
from tests.support.parted import publish_in_parts
from tests.support.processes import use
from tests.support.runs import Trainer, assert_sound, catalog_of, shown


@pytest.fixture(params=["directory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """An empty store of each kind."""
    if request.param == "directory":
        return open_store(str(tmp_path / "store"), create=True)
    return open_store(use(request.getfixturevalue("seaweed"), monkeypatch))


@pytest.fixture
def local(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"), create=True)


def fill(store: Store, trainer: Trainer, room: Path, n: int = 3) -> list[Path]:
    """Versions in parts: the first from nothing, the third both ways, others as steps."""
    saved = trainer.save_steps(*range(1, n + 1))
    for i, path in enumerate(saved):
        bases: list[Path | None] = [None] if i == 0 else [saved[i - 1]]
        if i == 2:
            bases.append(None)
        (room / f"{i}").mkdir(parents=True)
        assert publish_in_parts(store, bases, path, room / f"{i}", n_parts=3 + i) is not None
    return saved


def part_keys(store: Store, version: Version) -> set[str]:
    return {part.key for patch in version.patches for part in parts_of(store, patch)}


def keys(store: Store) -> set[str]:
    return {o.key for o in store.list("")}


def test_it_is_pulled_checked_and_shipped_on(
    store: Store, trainer: Trainer, tmp_path: Path, cli: Run
) -> None:
    saved = fill(store, trainer, tmp_path / "room")
    originals = {p.name: tree(p) for p in saved}
    assert_sound(store, originals, tmp_path / "pulled")
    dest = tmp_path / "dest"
    result = pull(store, dest, version="step_000002", jobs=1)
    assert result.fetched_bytes == sum(p.n_bytes for p in result.patches) > 0
    assert shown(pull(store, dest, jobs=1)) == "step_000003"
    assert tree(dest / "current") == originals["step_000003"]
    found = check(store, now=time.time())
    assert (found.is_sound, found.orphans, found.young) == (True, [], [])
    latest = catalog_of(store).latest
    assert latest.patches[0].list_bytes is not None
    parts = parts_of(store, latest.patches[0])
    whole = read_parts(store, parts, 0, latest.patches[0].n_bytes)
    assert whole[:4] == read_parts(store, parts, 0, 4)
    assert whole[9:-9] == read_parts(store, parts, 9, len(whole) - 18)
    assert cli("log", store.name)[0] == 0
    # An ordinary shipper goes on from there.
    trainer.save_steps(4)
    assert [s.version.version for s in ship(trainer.run, store, adopt=True).shipped] == [4]
    assert shown(pull(store, dest, jobs=1)) == "step_000004"


def test_what_dead_ranks_left_is_orphans(local: Store, trainer: Trainer, tmp_path: Path) -> None:
    fill(local, trainer, tmp_path / "room", n=1)
    before = keys(local)
    (tmp_path / "piece").write_bytes(b"of a rank whose leader died")
    put_part(local, 2, tmp_path / "piece")
    young = check(local, now=time.time(), repair=True)
    assert (len(young.young), young.orphans, young.is_sound) == (1, [], True)
    assert check(local, now=time.time() + 10, grace=5, repair=True).is_sound
    assert keys(local) == before


def test_prune_deletes_the_parts_and_no_others(
    store: Store, trainer: Trainer, tmp_path: Path
) -> None:
    saved = fill(store, trainer, tmp_path / "room")
    catalog = catalog_of(store)
    kept = part_keys(store, replace(catalog.latest, patches=catalog.latest.patches[1:]))
    gone = set().union(*(part_keys(store, v) for v in catalog.versions)) - kept
    prune(store, now=time.time(), keep=1, grace=0.0)
    assert gone
    assert keys(store) & gone == set()
    assert keys(store) == catalog_of(store).keys() | kept | {POINTER}
    assert_sound(store, {saved[2].name: tree(saved[2])}, tmp_path / "pulled")
    assert check(store, now=time.time()).orphans == []


def test_a_damaged_part_is_gone_around_found_and_repaired(
    local: Store, trainer: Trainer, tmp_path: Path
) -> None:
    saved = fill(local, trainer, tmp_path / "room")
    step, anchor = catalog_of(local).latest.patches
    assert anchor.base is None
    part = max(parts_of(local, step), key=lambda p: p.n_bytes)
    dest = tmp_path / "dest"
    pull(local, dest, version="step_000002", jobs=1)
    file = tmp_path / "store" / part.key
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    for damaged in (bytes(data), bytes(data[:-1]), None):
        if damaged is None:
            file.unlink()
        else:
            file.write_bytes(damaged)
        found = check(local, now=time.time())
        assert set(found.broken) == {step.key}
        assert part.key in found.broken[step.key]
    result = pull(local, dest, jobs=1)
    assert part.key in result.notes[0]
    assert [p.key for p in result.patches] == [anchor.key]
    assert tree(dest / "current") == tree(saved[2])
    check(local, now=time.time() + 10, grace=5, repair=True)
    assert [p.key for p in catalog_of(local).latest.patches] == [anchor.key]
    assert check(local, now=time.time()).is_sound
    (tmp_path / "store" / anchor.key).write_bytes(b"{}")
    assert set(check(local, now=time.time()).broken) == {anchor.key}
    with pytest.raises(CorruptError):
        pull(local, tmp_path / "other", version="step_000003", jobs=1)


def test_a_lost_pointer_is_made_again(local: Store, trainer: Trainer, tmp_path: Path) -> None:
    saved = fill(local, trainer, tmp_path / "room")
    before = catalog_of(local)
    local.delete(POINTER)
    found = check(local, now=time.time(), repair=True)
    assert found.has_new_pointer
    after = catalog_of(local)
    assert after.layout == 2
    assert [set(v.patches) for v in after.versions] == [set(v.patches) for v in before.versions]
    assert_sound(local, {p.name: tree(p) for p in saved}, tmp_path / "pulled")


def test_a_pointer_that_contradicts_itself_is_made_again(
    local: Store, trainer: Trainer, tmp_path: Path
) -> None:
    saved = fill(local, trainer, tmp_path / "room")
    before = catalog_of(local)
    step, anchor = before.latest.patches
    wrong = replace(before.latest, patches=(step, anchor, replace(step, n_bytes=1)))
    assert local.swap(POINTER, dump(before.published(wrong)), local.tag(POINTER))
    with pytest.raises(CorruptError, match="different things of this object"):
        check(local, now=time.time())
    assert check(local, now=time.time(), repair=True).has_new_pointer
    assert [set(v.patches) for v in catalog_of(local).versions] == [
        set(v.patches) for v in before.versions
    ]
    assert_sound(local, {p.name: tree(p) for p in saved}, tmp_path / "pulled")


@pytest.mark.parametrize("in_place", [False, True])
def test_a_pull_that_is_killed_is_completed(
    in_place: bool, local: Store, trainer: Trainer, tmp_path: Path
) -> None:
    saved = fill(local, trainer, tmp_path / "room", n=2)
    dest = tmp_path / "dest"

    def prepare() -> None:
        for entry in [dest, tmp_path / ".dest.sparsediff-pull"]:
            if entry.exists():
                os.rename(entry, tmp_path / f"old-{time.monotonic_ns()}")
        pull(local, dest, version="step_000001", in_place=in_place, jobs=1)

    def act() -> None:
        pull(local, dest, in_place=in_place, jobs=1, streams=1)

    n = 0
    for point in killed_at_each_point(prepare, act, tmp_path / "log", tmp_path):
        act()
        assert tree(dest if in_place else dest / "current") == tree(saved[1]), point
        n += 1
    assert n > 10


def test_a_store_of_layout_1_takes_no_parts(local: Store, trainer: Trainer, tmp_path: Path) -> None:
    (path,) = trainer.save_steps(1)
    ship(trainer.run, local)
    assert local.swap(POINTER, dump(replace(catalog_of(local), layout=1)), local.tag(POINTER))
    (tmp_path / "room").mkdir()
    with pytest.raises(UnsupportedError, match="layout 1"):
        publish_in_parts(local, [path], path, tmp_path / "room")
    assert len(catalog_of(local).versions) == 1


def test_of_two_writers_one_publishes(local: Store, trainer: Trainer, tmp_path: Path) -> None:
    from sparsediff.shipping.pointer import publish_version

    fill(local, trainer, tmp_path / "room", n=1)
    before = catalog_of(local)
    second = replace(before.latest, version=2, name="b")
    assert publish_version(local, None, before.latest) is None
    assert publish_version(local, before, second) is not None
    assert publish_version(local, before, replace(second, name="c")) is None
    assert [v.name for v in catalog_of(local).versions] == ["step_000001", "b"]
