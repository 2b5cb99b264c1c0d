"""ship: what is published, as what, and what is kept for it."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparsediff import CorruptError, LockedError, UnavailableError, UsageError
from sparsediff.disk.inputs import InputFile, OpenFiles
from sparsediff.disk.locks import locked
from sparsediff.shipping import snapshot
from sparsediff.shipping.catalog import Catalog, Version
from sparsediff.shipping.catalog_json import POINTER, dump, parse
from sparsediff.shipping.check import check
from sparsediff.shipping.kept import Kept
from sparsediff.shipping.policy import Policy
from sparsediff.shipping.prune import prune
from sparsediff.shipping.pull import pull
from sparsediff.shipping.ship import ShipResult, ship
from sparsediff.shipping.source import Rule
from sparsediff.shipping.state import default_state
from sparsediff.stores import Store, open_store
from tests.conftest import Run
from tests.support.pairs import RNG, tree, words, write_safetensors
from tests.support.runs import Trainer, assert_sound, catalog_of, settle, shown


def kinds(version: Version) -> list[str]:
    return [
        "anchor" if p.base is None else "patch" if p is version.step else f"from {p.base}"
        for p in version.patches
    ]


def shipped_kinds(result: ShipResult) -> list[list[str]]:
    return [kinds(s.version) for s in result.shipped]


def test_versions_come_out_as_they_went_in(trainer: Trainer, store: Store, tmp_path: Path) -> None:
    paths = trainer.save_steps(100, 200)
    result = ship(trainer.run, store)
    assert [s.version.name for s in result.shipped] == ["step_000100", "step_000200"]
    assert shipped_kinds(result) == [["anchor"], ["patch"]]
    assert result.shipped[1].version.patch_bytes < 0.05 * result.shipped[1].version.n_bytes
    assert ship(trainer.run, store).shipped == []
    paths += trainer.save_steps(300, shards=3)
    paths += trainer.save_steps(400, shards=1)
    assert shipped_kinds(ship(trainer.run, store)) == [["patch"], ["patch"]]
    assert_sound(store, {p.name: tree(p) for p in paths}, tmp_path)


def test_what_was_shipped_may_go(trainer: Trainer, store: Store, tmp_path: Path) -> None:
    (first,) = trainer.save_steps(100)
    ship(trainer.run, store)
    shutil.rmtree(first)
    (second,) = trainer.save_steps(200)
    original = tree(second)
    assert shipped_kinds(ship(trainer.run, store)) == [["patch"]]
    shutil.rmtree(second)
    pull(store, tmp_path / "dest")
    assert tree(tmp_path / "dest/current") == original
    kept = list((default_state(trainer.run) / "kept").iterdir())
    assert [p.name for p in kept] == ["000002"]


def test_trainer_deletes_what_is_being_read(
    trainer: Trainer, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where files are kept as hard links, that changes their ctime."""
    paths = trainer.save_steps(100)
    ship(trainer.run, store)
    paths += trainer.save_steps(200)
    originals = {p.name: tree(p) for p in paths}
    read = OpenFiles.read

    def late(self: OpenFiles, file: InputFile, offset: int, buffer: Any) -> None:
        if "kept" in file.path.parts:
            for path in paths:
                shutil.rmtree(path, ignore_errors=True)
        read(self, file, offset, buffer)

    monkeypatch.setattr(OpenFiles, "read", late)
    assert shipped_kinds(ship(trainer.run, store)) == [["patch"]]
    assert not any(p.exists() for p in paths)
    monkeypatch.undo()
    assert_sound(store, originals, tmp_path)


def test_numbers_below_the_last_are_left_alone_until_told(
    trainer: Trainer, store: Store, tmp_path: Path
) -> None:
    trainer.save_steps(100, 200, 300)
    ship(trainer.run, store)
    for number in (200, 300):
        shutil.rmtree(trainer.run / f"step_{number:06}")
    trainer.step()
    again = trainer.save("step_000200", age=-5.0)  # training went back and is here again
    result = ship(trainer.run, store)
    assert result.shipped == []
    (waiting,) = result.waiting
    assert (waiting.name, waiting.reason) == ("step_000200", "taken-back")
    assert "`rewind=True`" in waiting.why
    result = ship(trainer.run, store, Policy(rewind=True))
    assert [s.version.name for s in result.shipped] == ["step_000200-000004"]
    assert shipped_kinds(result) == [["patch"]]
    pull(store, tmp_path / "dest")
    assert tree(tmp_path / "dest/current") == tree(again)
    assert ship(trainer.run, store, Policy(rewind=True)).shipped == []
    trainer.save_steps(300)
    assert [s.version.name for s in ship(trainer.run, store).shipped] == ["step_000300-000005"]


def test_newest_skips_those_between(trainer: Trainer, store: Store) -> None:
    trainer.save_steps(100, 200, 300)
    policy = Policy(newest=True)
    assert [s.version.name for s in ship(trainer.run, store, policy).shipped] == ["step_000300"]
    trainer.save_steps(400, 500)
    assert [s.version.name for s in ship(trainer.run, store, policy).shipped] == ["step_000500"]


def test_incomplete_waits(trainer: Trainer, store: Store) -> None:
    trainer.save_steps(100)
    path = trainer.save_steps(200)[0]
    policy = Policy(rule=Rule(marker="DONE"))
    result = ship(trainer.run, store, policy)
    assert sorted(w.name for w in result.waiting) == ["step_000100", "step_000200"]
    assert {w.why for w in result.waiting} == {"marker DONE is missing"}
    assert result.catalog is None
    (path / "DONE").touch()
    settle(path)
    assert [s.version.name for s in ship(trainer.run, store, policy).shipped] == ["step_000200"]


def test_one_overwritten_directory(trainer: Trainer, store: Store, tmp_path: Path) -> None:
    originals = {}
    for i in range(3):
        trainer.step()
        path = trainer.save("latest")
        (shipped,) = ship(path, store).shipped
        originals[shipped.version.name] = tree(path)
        assert kinds(shipped.version) == (["patch"] if i else ["anchor"])
        assert ship(path, store).shipped == []
    assert list(originals) == ["latest-000001", "latest-000002", "latest-000003"]
    assert_sound(store, originals, tmp_path)


def test_one_overwritten_file(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    base = RNG(0).integers(0, 1 << 16, 5000).astype(np.uint16)
    originals = {}
    for i in range(2):
        base[i * 10 : i * 10 + 10] += 1
        write_safetensors(file, {"w": words("BF16", base)})
        settle(file)
        (shipped,) = ship(file, store).shipped
        originals[shipped.version.name] = tree(file)
    assert list(originals) == ["model-000001.safetensors", "model-000002.safetensors"]
    assert kinds(shipped.version) == ["patch"]
    assert_sound(store, originals, tmp_path / "dest")
    assert (tmp_path / "dest/model-000002.safetensors/current").resolve().is_file()


# Anchors and shortcuts


def test_anchor_every(trainer: Trainer, store: Store) -> None:
    trainer.save_steps(*range(1, 8))
    found = shipped_kinds(ship(trainer.run, store, Policy(anchor_every=3)))
    both = ["patch", "anchor"]
    assert found == [["anchor"], ["patch"], ["patch"], both, ["patch"], ["patch"], both]


def test_anchor_when_the_chain_is_long(trainer: Trainer, store: Store) -> None:
    trainer.save_steps(*range(1, 7))
    policy = Policy(anchor_weight=1e9, longest_chain=2)
    anchors = [s.version.anchor is not None for s in ship(trainer.run, store, policy).shipped]
    assert anchors == [True, False, False, True, False, False]
    assert 2 < Policy().longest_chain <= 1000


def test_anchor_when_the_chain_outweighs_it(trainer: Trainer, store: Store) -> None:
    trainer.save_steps(*range(1, 12))
    versions = [s.version for s in ship(trainer.run, store, Policy(anchor_weight=0.1)).shipped]
    assert versions[0].anchor is not None
    chain, anchors = 0, 0
    for version in versions[1:]:
        assert version.step is not None
        chain += version.step.n_bytes
        assert (version.anchor is not None) == (chain > 0.1 * versions[0].anchor.n_bytes)
        if version.anchor is not None:
            chain, anchors = 0, anchors + 1
    assert 1 <= anchors < 10


def test_anchor_when_the_patch_does_not_pay(store: Store, tmp_path: Path) -> None:
    for i in range(2):
        path = tmp_path / "run" / f"step_{i}"
        write_safetensors(path / "m.safetensors", {"w": ("U8", (50_000,), RNG(i).bytes(50_000))})
        settle(path)
    assert shipped_kinds(ship(tmp_path / "run", store)) == [["anchor"], ["anchor"]]


def test_shortcuts(trainer: Trainer, store: Store, tmp_path: Path) -> None:
    policy = Policy(squash_every=3)
    originals = {}
    for i in range(1, 9):
        (path,) = trainer.save_steps(i)
        originals[path.name] = tree(path)
        ship(trainer.run, store, policy)
        shutil.rmtree(path)
    found = [kinds(v) for v in catalog_of(store).versions]
    p = ["patch"]
    assert found == [["anchor"], p, p, ["patch", "from 1"], p, p, ["patch", "from 4"], p]
    pull(store, tmp_path / "dest", version="step_000001")
    result = pull(store, tmp_path / "dest")
    assert [p.base for p in result.patches] == [1, 4, 7]
    assert tree(tmp_path / "dest/current") == originals["step_000008"]
    state = default_state(trainer.run)
    assert sorted(p.name for p in (state / "kept").iterdir()) == ["000007", "000008"]
    (path,) = trainer.save_steps(9)
    ship(trainer.run, store)  # without shortcuts their base is not kept
    assert [p.name for p in (state / "kept").iterdir()] == ["000009"]


def test_shortcut_is_as_small_as_a_direct_patch(trainer: Trainer, store: Store) -> None:
    trainer.save_steps(1, 2, 3)
    version = ship(trainer.run, store, Policy(squash_every=2)).shipped[-1].version
    (shortcut,) = [p for p in version.patches if p.base == 1]
    steps = sum(v.step.n_bytes for v in catalog_of(store).versions if v.step)
    assert shortcut.n_bytes < steps


# What can go wrong


def test_another_run_at_work(trainer: Trainer, store: Store, cli: Run) -> None:
    trainer.save_steps(1)
    home = default_state(trainer.run)
    home.mkdir()
    with locked(home / "lock", os.O_RDWR | os.O_CREAT):
        with pytest.raises(LockedError):
            ship(trainer.run, store)
        assert cli("ship", trainer.run, store.name) == (14, "", "")
    assert cli("ship", trainer.run, store.name)[0] == 0


def test_lost_state_costs_an_anchor(trainer: Trainer, store: Store, tmp_path: Path) -> None:
    trainer.save_steps(1)
    ship(trainer.run, store)
    shutil.rmtree(default_state(trainer.run))
    paths = trainer.save_steps(2)
    assert shipped_kinds(ship(trainer.run, store)) == [["anchor"]]
    record = default_state(trainer.run) / "state.json"
    record.write_text("{damaged")
    paths += trainer.save_steps(3)
    with pytest.raises(CorruptError, match="move it away"):
        ship(trainer.run, store)
    record.unlink()  # as the message says
    assert shipped_kinds(ship(trainer.run, store)) == [["anchor"]]
    assert_sound(store, {p.name: tree(p) for p in trainer.run.iterdir()}, tmp_path)


def test_kept_checkpoint_modified_in_place_is_no_base(
    trainer: Trainer, store: Store, tmp_path: Path
) -> None:
    (first,) = trainer.save_steps(1)
    original = tree(first)
    ship(trainer.run, store)
    shard = next(first.glob("*.safetensors"))
    with open(shard, "r+b") as f:  # under the hard link too, where it is one
        f.seek(-2, os.SEEK_END)
        f.write(b"xx")
    for file in (default_state(trainer.run) / "kept").rglob(shard.name):
        if not file.samefile(shard):  # a reflink or copy: modify it as well
            file.write_bytes(shard.read_bytes())
    (second,) = trainer.save_steps(2)
    notes: list[str] = []
    shipped = shipped_kinds(ship(trainer.run, store, note=notes.append))
    assert "modified" in notes[0]
    originals = {"step_000001": original, "step_000002": tree(second)}
    if len(shipped) == 2:  # what was altered is the trainer's own, so it is shipped again
        originals["step_000001-000002"] = tree(first)
        assert shipped == [["anchor"], ["patch"]]
        assert "was written again" in notes[1]
    else:
        assert shipped == [["anchor"]]
    assert_sound(store, originals, tmp_path)


def test_base_modified_while_the_patch_is_made_is_not_published(
    trainer: Trainer, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer.save_steps(1)
    ship(trainer.run, store)
    trainer.save_steps(2)
    check_kept = Kept.check

    def late(self: Kept, version: int) -> None:
        file = next(self.place(version).glob("*.safetensors"))
        data = file.read_bytes()
        file.unlink()  # the trainer's, where it is a hard link, stays as it is
        file.write_bytes(data)
        check_kept(self, version)

    monkeypatch.setattr(Kept, "check", late)
    with pytest.raises(CorruptError, match="modified"):
        ship(trainer.run, store)
    monkeypatch.undo()
    assert len(catalog_of(store).versions) == 1
    assert shipped_kinds(ship(trainer.run, store)) == [["anchor"]]


def test_checkpoint_that_changes_while_it_is_kept(
    trainer: Trainer, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = trainer.save_steps(1)
    keep = snapshot.keep

    def late(*args: object, **kwargs: object) -> str:
        how = keep(*args, **kwargs)  # type: ignore[arg-type]
        (path / "late.json").write_text("{}")
        return how

    monkeypatch.setattr(snapshot, "keep", late)
    with pytest.raises(UnavailableError, match="changed while it was read"):
        ship(trainer.run, store)
    monkeypatch.undo()
    settle(path)
    (shipped,) = ship(trainer.run, store).shipped
    assert shipped.version.n_bytes == sum(map(len, tree(path).values()))


def test_checkpoint_pruned_between_listing_and_reading(
    trainer: Trainer, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = trainer.save_steps(1, 2)
    keep = snapshot.keep

    def late(path: Path, *args: object, **kwargs: object) -> str:
        if path == first:
            shutil.rmtree(path)
        return keep(path, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(snapshot, "keep", late)
    notes: list[str] = []
    result = ship(trainer.run, store, note=notes.append)
    assert [s.version.name for s in result.shipped] == ["step_000002"]
    assert notes == [f"{first}: gone before it could be shipped"]


def test_source_that_is_none(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        ship(tmp_path / "missing", store)
    (tmp_path / "run").mkdir()
    with pytest.raises(UnavailableError, match="no checkpoint here"):
        ship(tmp_path / "run", store)


def test_store_that_was_unmounted(trainer: Trainer, store: Store) -> None:
    trainer.save_steps(1)
    ship(trainer.run, store)
    shutil.rmtree(store.name)
    os.mkdir(store.name)
    trainer.save_steps(2)
    with pytest.raises(UnavailableError, match="is it mounted") as info:
        ship(trainer.run, store)
    assert os.listdir(store.name) == []
    assert "`rewind=True`" in str(info.value)
    assert shipped_kinds(ship(trainer.run, store, Policy(rewind=True))) == [["anchor"], ["patch"]]


def test_clocks_do_not_order_versions(
    trainer: Trainer, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    for i, jump in enumerate((0, 10**8, -(10**8), 3600), 1):
        (path,) = trainer.save_steps(i)
        monkeypatch.setattr(time, "time", lambda jump=jump: now + jump)
        ship(trainer.run, store)
        result = pull(store, tmp_path / "dest")
        assert shown(result) == path.name
    assert [v.version for v in catalog_of(store).versions] == [1, 2, 3, 4]


def test_shipper_that_loses_the_race(
    trainer: Trainer, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two shippers of one run: each swap but the first fails, and no version is torn or lost."""
    paths = trainer.save_steps(1, 2, 3)
    other = tmp_path / "other-state"
    swap = type(store).swap
    notes: list[str] = []

    def slow(self: Store, key: str, data: bytes, expected: str | None) -> bool:
        monkeypatch.undo()  # the other publishes just before us
        ship(trainer.run, open_store(store.name), state_directory=other)
        return swap(self, key, data, expected)

    monkeypatch.setattr(type(store), "swap", slow)
    result = ship(trainer.run, store, note=notes.append)
    assert result.shipped == []
    assert notes == [f"{store.name}: another shipper published meanwhile"]
    assert [v.name for v in catalog_of(store).versions] == [p.name for p in paths]
    assert_sound(store, {p.name: tree(p) for p in paths}, tmp_path / "scratch")
    trainer.save_steps(4)
    ship(trainer.run, store)
    trainer.save_steps(5)
    ship(trainer.run, store, state_directory=other)
    assert [v.number for v in catalog_of(store).versions] == [1, 2, 3, 4, 5]
    assert_sound(store, {p.name: tree(p) for p in trainer.run.iterdir()}, tmp_path / "again")


def test_other_shipper_who_published_the_same_spares_an_anchor(
    trainer: Trainer, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer.save_steps(1)
    swap = type(store).swap

    def slow(self: Store, key: str, data: bytes, expected: str | None) -> bool:
        monkeypatch.undo()
        won = swap(self, key, data, expected)  # the same record, as it were from elsewhere
        assert won
        return swap(self, key, data, expected)

    monkeypatch.setattr(type(store), "swap", slow)
    ship(trainer.run, store)
    trainer.save_steps(2)
    assert shipped_kinds(ship(trainer.run, store)) == [["patch"]]


def test_damaged_pointer_is_refused(trainer: Trainer, store: Store, cli: Run) -> None:
    trainer.save_steps(1)
    ship(trainer.run, store)
    pointer = Path(store.name, POINTER)
    whole = pointer.read_bytes()
    trainer.save_steps(2)
    for data in (
        b"",
        b"{}",
        whole[:-20],
        whole.replace(b'"n_bytes": ', b'"n_bytes": 1', 1),
        b"[1]",
    ):
        pointer.write_bytes(data)
        for command in (
            ("ship", trainer.run, store.name),
            ("pull", store.name, trainer.run / "../dest"),
            ("log", store.name),
            ("check", store.name),
            ("prune", store.name, "--keep", "1"),
        ):
            code, out, err = cli(*command)
            assert (code, out) == (11, ""), (command, err)
            assert err.startswith(f"sparsediff: {store.name}/{POINTER}: "), err
            assert err.count("\n") == 1
        assert pointer.read_bytes() == data
    later = dump(parse(whole)).replace(b'"layout": 2', b'"layout": 3')
    pointer.write_bytes(later)
    code, _, err = cli("log", store.name)
    assert code == 12
    assert "layout" in err


@pytest.mark.parametrize("name", ["../evil", "/etc/x", "a/b", "", ".", "..", "a\0b", "a\\b"])
def test_hostile_names_are_refused(name: str, trainer: Trainer, store: Store) -> None:
    trainer.save_steps(1)
    ship(trainer.run, store)
    catalog = catalog_of(store)
    version = catalog.versions[0]
    hostile = Version(**{f: getattr(version, f) for f in Version.__slots__} | {"name": name})
    with pytest.raises(CorruptError):
        parse(dump(Catalog(catalog.id, (hostile,))))


def test_orphans_of_a_lost_race_are_removed(trainer: Trainer, store: Store) -> None:
    trainer.save_steps(1)
    ship(trainer.run, store)
    stray = Path(store.name, "versions/000002-x/anchor-0123456789abcdef.sdiff")
    stray.parent.mkdir()
    stray.write_bytes(b"stray")
    check(store, now=time.time() - 5, repair=True)  # the store's clock may be ahead
    young = check(store, now=time.time(), repair=True)
    assert [s.n_bytes for s in young.young] == [5]
    assert stray.exists()
    old = check(store, now=time.time() + 2 * 86400, repair=True)
    assert old.is_sound
    assert len(old.removed) == 1
    assert not stray.exists()


def test_prune_at_the_same_time_is_no_race_lost(
    trainer: Trainer, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer.save_steps(1, 2, 3)
    ship(trainer.run, store, Policy(anchor_every=1))
    trainer.save_steps(4)
    swap = type(store).swap

    def slow(self: Store, key: str, data: bytes, expected: str | None) -> bool:
        monkeypatch.undo()
        assert len(prune(self, now=time.time(), keep=1).versions) == 2
        return swap(self, key, data, expected)

    monkeypatch.setattr(type(store), "swap", slow)
    notes: list[str] = []
    result = ship(trainer.run, store, note=notes.append)
    assert (shipped_kinds(result), notes) == ([["patch"]], [])
    assert [v.version for v in catalog_of(store).versions] == [3, 4]
