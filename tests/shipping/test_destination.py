"""What lies at a destination is input: what was fetched, the record, links somebody made."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sparsediff import CorruptError, UsageError
from sparsediff.errors import UntrustedError
from sparsediff.shipping.catalog_json import POINTER, dump
from sparsediff.shipping.pull import preview, pull
from sparsediff.shipping.ship import ship
from sparsediff.shipping.state import default_state
from sparsediff.stores import Store, open_store
from tests.conftest import Run
from tests.support.kills import killed_at_each_point
from tests.support.pairs import tree
from tests.support.runs import Trainer, catalog_of


@pytest.fixture
def trainer(tmp_path: Path) -> Trainer:
    trainer = Trainer(tmp_path / "run", n=500)
    trainer.save_steps(1, 2, 3)
    return trainer


@pytest.fixture
def store(trainer: Trainer, tmp_path: Path) -> Store:
    store = open_store(str(tmp_path / "store"), create=True)
    ship(trainer.run, store)
    return store


def objects(store: Store) -> list[Path]:
    return [Path(store.name, p.key) for v in catalog_of(store).versions for p in v.patches]


def shas(store: Store) -> list[str]:
    return [p.sha256 for v in catalog_of(store).versions for p in v.patches]


def zeros(path: Path, store: Store, victim: Path) -> None:
    path.write_bytes(bytes(objects(store)[-1].stat().st_size))


def another_patch(path: Path, store: Store, victim: Path) -> None:
    shutil.copy(objects(store)[1], path)


def a_directory(path: Path, store: Store, victim: Path) -> None:
    (path / "deep").mkdir(parents=True)


def a_link(path: Path, store: Store, victim: Path) -> None:
    path.symlink_to(victim)


def a_hard_link(path: Path, store: Store, victim: Path) -> None:
    os.link(victim, path)


THINGS: list[Callable[[Path, Store, Path], None]] = [
    zeros,
    another_patch,
    a_directory,
    a_link,
    a_hard_link,
]


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("suffixes", [(".sdiff",), (".part", ".chunks"), (".part",), (".chunks",)])
@pytest.mark.parametrize("thing", THINGS)
def test_what_lies_in_fetched_is_not_believed(
    thing: Callable[[Path, Store, Path], None],
    suffixes: tuple[str, ...],
    in_place: bool,
    trainer: Trainer,
    store: Store,
    tmp_path: Path,
) -> None:
    dest, victim = tmp_path / "dest", tmp_path / "victim"
    victim.write_bytes(b"0\n" * 50)
    pull(store, dest, version="2", in_place=in_place)
    home = tmp_path / ".dest.sparsediff-pull" if in_place else dest / ".sparsediff"
    for suffix in suffixes:
        if suffix == ".chunks" and len(suffixes) == 2:
            (home / "fetched" / f"{shas(store)[-1]}.chunks").write_bytes(b"0\n")
        else:
            thing(home / "fetched" / f"{shas(store)[-1]}{suffix}", store, victim)
    notes: list[str] = []
    pull(store, dest, in_place=in_place, note=notes.append)
    assert notes == []
    assert tree(dest if in_place else dest / "current") == tree(trainer.run / "step_000003")
    assert victim.read_bytes() == b"0\n" * 50
    assert list((home / "fetched").iterdir()) == []


def test_update_that_begun_is_not_continued_with_other_patches(
    trainer: Trainer, store: Store, tmp_path: Path
) -> None:
    dest = tmp_path / "dest"
    pull(store, dest, version="2", in_place=True)
    home = tmp_path / ".dest.sparsediff-pull"
    record = json.loads((home / "state.json").read_text())
    record["updating"] = {"version": 3, "patches": [shas(store)[2]]}
    (home / "state.json").write_text(json.dumps(record))
    another_patch(home / "fetched" / f"{shas(store)[2]}.sdiff", store, tmp_path)
    pull(store, dest, in_place=True)
    assert tree(dest) == tree(trainer.run / "step_000003")


def test_store_is_blamed_for_its_own_bytes(store: Store, tmp_path: Path) -> None:
    data = bytearray(objects(store)[0].read_bytes())
    data[-1] ^= 1
    objects(store)[0].write_bytes(data)
    notes: list[str] = []
    with pytest.raises(CorruptError, match="no intact way"):
        pull(store, tmp_path / "dest", note=notes.append)
    assert len(notes) == 1
    assert "does not match its SHA-256" in notes[0]


LINKS = [".sparsediff", ".sparsediff/fetched", ".sparsediff/empty", "versions"]


@pytest.mark.parametrize("name", LINKS)
@pytest.mark.parametrize("dangling", [False, True])
def test_linked_directories_are_refused(
    name: str, dangling: bool, store: Store, tmp_path: Path, cli: Run
) -> None:
    dest, victim = tmp_path / "dest", tmp_path / "victim"
    pull(store, dest, version="1")
    shutil.rmtree(dest / name)
    if not dangling:
        victim.mkdir()
        (victim / "mine").write_text("x")
    (dest / name).symlink_to(victim)
    before = tree(victim) if not dangling else None
    code, _, err = cli("pull", store.name, dest)
    assert (code, err.count("\n")) == (2, 1)
    assert f"{dest / name}: " in err
    assert "is a link" in err
    assert before == (tree(victim) if not dangling else None)
    assert dangling is not victim.exists()


@pytest.mark.parametrize("target", ["/{victim}/step_000003", "{victim}", "versions/../step_000003"])
def test_current_that_leads_elsewhere_is_replaced(
    target: str, trainer: Trainer, store: Store, tmp_path: Path
) -> None:
    dest, victim = tmp_path / "dest", tmp_path / "victim"
    (victim / "step_000003").mkdir(parents=True)
    pull(store, dest)
    (dest / "current").unlink()
    (dest / "current").symlink_to(target.format(victim=victim))
    pull(store, dest)
    assert os.readlink(dest / "current") == "versions/step_000003"
    assert (victim / "step_000003").is_dir()


def test_version_replaced_by_a_link_is_not_shown(
    trainer: Trainer, store: Store, tmp_path: Path
) -> None:
    dest, victim = tmp_path / "dest", tmp_path / "victim"
    victim.mkdir()
    pull(store, dest)
    shutil.rmtree(dest / "versions/step_000003")
    (dest / "versions/step_000003").symlink_to(victim)
    pull(store, dest)
    assert tree(dest / "current") == tree(trainer.run / "step_000003")
    assert list(victim.iterdir()) == []


WRONG: list[Any] = [True, 1.5, -1, 0, 2**63, "", "x", "../../victim", "/etc", [], [1], [None],
                    ["../../victim"], {}, {"a": "b"}, {"1": 1}, {"1": "../../victim"},
                    {"01": "x"}, {"1": "a/b"}, {"1": ".."}, {"1": "a\x00b"},
                    {"version": 1, "patches": ["../x"]}]  # fmt: skip


FIELDS = ["id", "versions", "stale", "building", "version", "updating", "told", "store", "newest",
          "rewind"]  # fmt: skip


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("name", FIELDS)
def test_record_of_pull_with_anything_in_any_field(
    name: str, in_place: bool, store: Store, tmp_path: Path, cli: Run
) -> None:
    dest, victim = tmp_path / "dest", tmp_path / "victim"
    victim.write_text("mine")
    flags = ["--in-place"] if in_place else []
    pull(store, dest, version="1", in_place=in_place)
    record = tmp_path / ".dest.sparsediff-pull" if in_place else dest / ".sparsediff"
    record /= "state.json"
    good = record.read_text()
    for value in WRONG:
        record.write_text(json.dumps(json.loads(good) | {name: value}))
        code, _, err = cli("pull", store.name, dest, *flags)
        assert code in (0, 11), (value, err)
        assert "Traceback" not in err
        if code:
            assert err.count("\n") == 1
            assert f"{record}: the record of earlier runs is damaged; move" in err
            assert f", expected {name}" in err
        assert victim.read_text() == "mine"
        record.write_text(good)


@pytest.mark.parametrize("name", ["store", "id", "kept", "squash_from", "pending"])
def test_record_of_ship_with_anything_in_any_field(
    name: str, trainer: Trainer, store: Store, cli: Run
) -> None:
    record = default_state(trainer.run) / "state.json"
    good = record.read_text()
    for value in [*WRONG, {"id": "x"}, {"id": "0" * 32, "version": 1, "sha256": [1]}]:
        record.write_text(json.dumps(json.loads(good) | {name: value}))
        code, _, err = cli("ship", trainer.run, store.name)
        assert code in (0, 11), (value, err)
        if code:
            assert err.count("\n") == 1
            assert f"{record}: the record of earlier runs is damaged; move it away" in err


CONTENTS = {
    "empty": b"",
    "truncated": b'{"id": "ab',
    "binary": bytes(range(256)),
    "deep": b"[" * 1_000_000,
    "long number": b'{"version": ' + b"9" * 10_000 + b"}",
}


def make_unreadable(record: Path, what: str) -> None:
    if what in CONTENTS:
        record.write_bytes(CONTENTS[what])
    elif what == "huge":
        os.truncate(record, 1 << 40)
    else:
        record.rename(record.with_name("x"))
        if what == "directory":
            record.mkdir()
        elif what == "pipe":
            os.mkfifo(record)
        else:
            record.symlink_to("/proc/self/mem" if what == "memory" else "x")


@pytest.mark.parametrize("what", [*CONTENTS, "huge", "directory", "pipe", "link", "memory"])
def test_record_that_cannot_be_read(
    what: str, trainer: Trainer, store: Store, tmp_path: Path, cli: Run
) -> None:
    dest = tmp_path / "dest"
    pull(store, dest)
    for record, command in (
        (dest / ".sparsediff/state.json", ("pull", store.name, dest)),
        (default_state(trainer.run) / "state.json", ("ship", trainer.run, store.name)),
    ):
        make_unreadable(record, what)
        code, _, err = cli(*command)
        assert code in (2, 11)
        assert err.count("\n") == 1
        assert f"{record}: the record of earlier runs" in err
        assert "move it away" in err
        record.rename(tmp_path / f"away-{command[0]}")
        assert cli(*command)[0] == 0
    assert tree(dest / "current") == tree(trainer.run / "step_000003")


def test_ship_does_not_clean_through_a_link(trainer: Trainer, store: Store, tmp_path: Path) -> None:
    kept, victim = default_state(trainer.run) / "kept", tmp_path / "victim"
    victim.mkdir()
    (victim / "mine").write_text("x")
    shutil.rmtree(kept)
    kept.symlink_to(victim)
    with pytest.raises(UsageError, match="is a link"):
        ship(trainer.run, store)
    assert tree(victim) == {"mine": b"x"}


def test_first_pull_in_place_that_is_killed_is_completed(
    trainer: Trainer, store: Store, tmp_path: Path
) -> None:
    dest, home = tmp_path / "dest", tmp_path / ".dest.sparsediff-pull"

    def prepare() -> None:
        shutil.rmtree(dest, ignore_errors=True)
        shutil.rmtree(home, ignore_errors=True)

    def act() -> None:
        pull(store, dest, in_place=True, jobs=1, streams=1)

    for point in killed_at_each_point(prepare, act, tmp_path / "log", tmp_path):
        act()
        assert tree(dest) == tree(trainer.run / "step_000003"), point


@pytest.mark.parametrize("in_place", [False, True])
def test_a_first_pull_that_brought_nothing_binds_the_destination_to_no_store(
    in_place: bool, store: Store, tmp_path: Path
) -> None:
    dest = tmp_path / "dest"
    for patch in (tmp_path / "store/versions").rglob("*.sdiff"):
        patch.write_bytes(bytes(patch.stat().st_size))
    with pytest.raises(CorruptError, match="no intact way"):
        pull(store, dest, in_place=in_place)
    other, elsewhere = another(tmp_path)
    assert_bound(dest, elsewhere, other, store, in_place=in_place)


def another(tmp_path: Path) -> tuple[Path, Store]:
    """A checkpoint of another run, and a store that holds it."""
    other = Trainer(tmp_path / "other")
    elsewhere = open_store(str(tmp_path / "elsewhere"), create=True)
    (saved,) = other.save_steps(7)
    ship(other.run, elsewhere)
    return saved, elsewhere


def assert_bound(dest: Path, to: Store, saved: Path, old: Store, *, in_place: bool) -> None:
    """A destination takes what a store has, and from then on nothing of another one."""
    result = pull(to, dest, in_place=in_place)
    assert result.path is not None
    assert tree(result.path) == tree(saved)
    versions = [] if in_place else [p.name for p in (dest / "versions").iterdir()]
    assert [name for name in versions if name.startswith("step")] in ([], [saved.name])
    with pytest.raises(UntrustedError, match="another history"):
        pull(old, dest, in_place=in_place)


@pytest.mark.parametrize("in_place", [False, True])
def test_a_first_pull_that_cannot_rebuild_binds_the_destination_to_no_store(
    in_place: bool, store: Store, tmp_path: Path
) -> None:
    """What was fetched is what the pointer says, and leads to something else than it says."""
    dest, catalog = tmp_path / "dest", catalog_of(store)
    versions = []
    for version in catalog.versions:
        for patch in version.patches:
            file = Path(store.name, patch.key)
            data = file.read_bytes()[:-1] + bytes([file.read_bytes()[-1] ^ 1])
            file.write_bytes(data)
            rest = replace(patch, sha256=hashlib.sha256(data).hexdigest())
            versions.append(replace(version, patches=(rest,)))
    assert store.swap(POINTER, dump(replace(catalog, versions=versions)), store.tag(POINTER))
    for _ in range(2):
        with pytest.raises(CorruptError, match="no intact way"):
            pull(store, dest, in_place=in_place)
        assert in_place or (dest / ".sparsediff/state.json").exists()
    other, elsewhere = another(tmp_path)
    assert preview(elsewhere, dest, in_place=in_place).start is None
    assert_bound(dest, elsewhere, other, store, in_place=in_place)


def test_a_first_pull_that_is_killed_before_a_version_is_whole_binds_to_no_store(
    store: Store, tmp_path: Path
) -> None:
    other, elsewhere = another(tmp_path)
    dest, bound = tmp_path / "dest", []

    def prepare() -> None:
        shutil.rmtree(dest, ignore_errors=True)

    def act() -> None:
        pull(store, dest, jobs=1, streams=1)

    for _ in killed_at_each_point(prepare, act, tmp_path / "log", tmp_path):
        record = dest / ".sparsediff/state.json"
        whole = record.exists() and json.loads(record.read_text())["versions"] != {}
        bound.append(whole)
        if whole:
            with pytest.raises(UntrustedError, match="another history"):
                pull(elsewhere, dest)
        else:
            assert_bound(dest, elsewhere, other, store, in_place=False)
    assert bound == sorted(bound)
    assert set(bound) == {False, True}
