"""A chain continues: what a patch starts from is what the one before led to."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest

from sparsediff import UnavailableError
from sparsediff.shipping import kept
from sparsediff.shipping.catalog_json import POINTER, dump
from sparsediff.shipping.check import check
from sparsediff.shipping.policy import Policy
from sparsediff.shipping.pull import pull
from sparsediff.shipping.ship import ship
from sparsediff.shipping.state import default_state
from sparsediff.stores import Store, open_store
from tests.conftest import Run
from tests.support.pairs import tree
from tests.support.runs import Trainer, assert_sound, catalog_of, shown


def altered(trainer: Trainer, pattern: str = "*.safetensors", at: int = -2) -> None:
    """Write into what was kept last, and put the times back."""
    kept_at = max((default_state(trainer.run) / "kept").iterdir()) / trainer.run.name
    file = min(kept_at.rglob(pattern))
    status = file.stat()
    with open(file, "r+b") as f:
        f.seek(at, os.SEEK_END if at < 0 else os.SEEK_SET)
        f.write(b"\xff\xfe")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def broken(trainer: Trainer, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ship versions 1 to 4 with a break between 1 and 2, as a shipper that does not look would."""
    trainer.save_steps(1)
    ship(trainer.run, store)
    altered(trainer)
    trainer.save_steps(2, 3, 4)
    with monkeypatch.context() as patched:
        patched.setattr(kept.Kept, "is_as_shipped", lambda *_: True)
        assert len(ship(trainer.run, store).shipped) == 3


@pytest.mark.parametrize("shards", [2, 1])
@pytest.mark.parametrize(
    ("pattern", "at"), [("*.safetensors", -2), ("*.safetensors", 3), ("config.json", 0)]
)
def test_altered_with_its_times_put_back(
    pattern: str, at: int, shards: int, trainer: Trainer, store: Store, tmp_path: Path
) -> None:
    """In words, in a header that then makes no sense, in a file beside; cut alike or not."""
    paths = trainer.save_steps(1)
    originals = {p.name: tree(p) for p in paths}
    ship(trainer.run, store)
    altered(trainer, pattern, at)
    later = trainer.save_steps(2, shards=shards)
    notes: list[str] = []
    (second,) = ship(trainer.run, store, note=notes.append).shipped
    assert [p.base for p in second.version.patches] == [None]
    assert len(notes) == 1
    assert "is not what was shipped" in notes[0]
    later += trainer.save_steps(3, shards=shards)
    (third,) = ship(trainer.run, store).shipped
    assert [p.base for p in third.version.patches] == [2]
    assert_sound(store, originals | {p.name: tree(p) for p in later}, tmp_path / "scratch")


def test_base_of_a_shortcut_that_was_altered(
    trainer: Trainer, store: Store, tmp_path: Path
) -> None:
    policy = Policy(squash_every=3)
    paths = trainer.save_steps(1)
    originals = {p.name: tree(p) for p in paths}
    ship(trainer.run, store, policy)
    altered(trainer)
    paths = trainer.save_steps(2, 3, 4)
    ship(trainer.run, store, policy)
    assert_sound(store, originals | {p.name: tree(p) for p in paths}, tmp_path / "scratch")


def test_tensors_that_move_between_files_are_compared_by_reading(
    trainer: Trainer, store: Store, tmp_path: Path
) -> None:
    trainer.save_steps(1)
    ship(trainer.run, store)
    trainer.save_steps(2, shards=4)
    (second,) = ship(trainer.run, store).shipped
    assert [p.base for p in second.version.patches] == [1]
    found = check(store, now=time.time())
    assert found.is_sound
    assert found.unproven == [second.version.patches[0].key]
    assert_sound(store, {p.name: tree(p) for p in trainer.run.iterdir()}, tmp_path / "scratch")


def test_state_of_an_earlier_release_is_compared_with_the_store(
    trainer: Trainer, store: Store
) -> None:
    trainer.save_steps(1)
    ship(trainer.run, store)
    (description,) = default_state(trainer.run).glob("kept/*/*.manifest")
    description.unlink()
    trainer.save_steps(2)
    (second,) = ship(trainer.run, store).shipped
    assert [p.base for p in second.version.patches] == [1]
    default_state(trainer.run).joinpath("kept/000002/run.manifest").write_bytes(b"damaged")
    altered(trainer)
    trainer.save_steps(3)
    (third,) = ship(trainer.run, store).shipped
    assert [p.base for p in third.version.patches] == [None]


def test_check_follows_the_checksums(
    trainer: Trainer, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(trainer, store, monkeypatch)
    found = check(store, now=time.time())
    assert not found.is_sound
    step = catalog_of(store).versions[1].step
    assert step is not None
    assert found.broken == {step.key: "was not made from version 1 as it was shipped"}
    assert (found.unreachable, found.lost) == ([2, 3, 4], [])


def test_a_way_to_something_else_is_broken(trainer: Trainer, store: Store, tmp_path: Path) -> None:
    """Two patches lead to one version; what can be had first says what the version is."""
    trainer.save_steps(1, 2)
    ship(trainer.run, store)
    other = Trainer(tmp_path / "other", seed=1)
    other.save_steps(1)
    elsewhere = open_store(str(tmp_path / "elsewhere"), create=True)
    ship(other.run, elsewhere)
    (foreign,) = catalog_of(elsewhere).latest.patches
    store.put(foreign.key, Path(elsewhere.name, foreign.key))
    catalog = catalog_of(store)
    first, second = catalog.versions
    mixed = replace(second, patches=(*second.patches, foreign))
    assert store.swap(POINTER, dump(replace(catalog, versions=(first, mixed))), store.tag(POINTER))
    found = check(store, now=time.time())
    assert list(found.broken) == [foreign.key]
    assert found.unreachable == []


def test_repair_leads_back_to_a_store_that_works(
    trainer: Trainer, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(trainer, store, monkeypatch)
    assert not check(store, now=time.time(), repair=True).is_sound
    found = check(store, now=time.time())
    assert found.is_sound
    assert (found.unreachable, found.lost) == ([4], [4])
    notes: list[str] = []
    result = pull(store, tmp_path / "dest", note=notes.append)
    assert shown(result) == "step_000001"
    assert notes == [
        f"{store.name}: step_000004 is lost until the next ship; step_000001 is the newest there is"
    ]
    assert ship(trainer.run, store).shipped == []  # the same version is whole again
    found = check(store, now=time.time())
    assert found.is_sound
    assert found.unreachable == []
    assert shown(pull(store, tmp_path / "dest")) == "step_000004"
    assert tree(tmp_path / "dest/current") == tree(trainer.run / "step_000004")


@pytest.mark.parametrize("how", ["altered", "unreadable", "gone"])
def test_latest_version_lost_and_nothing_kept_of_it(
    how: str,
    trainer: Trainer,
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The checkpoint is in the run still, and is shipped again, as another version."""
    broken(trainer, store, monkeypatch)
    check(store, now=time.time(), repair=True)
    if how == "gone":
        shutil.rmtree(default_state(trainer.run))
    else:
        shutil.copytree(trainer.run / "step_000004", tmp_path / "intact", copy_function=shutil.copy)
        altered(trainer, at=-2 if how == "altered" else 3)
        shutil.rmtree(trainer.run / "step_000004")  # where it shares files with what was kept
        shutil.move(tmp_path / "intact", trainer.run / "step_000004")
    notes: list[str] = []
    (shipped,) = ship(trainer.run, store, note=notes.append).shipped
    assert ("not what was shipped" in "".join(notes)) == (how != "gone")
    assert shipped.version.name == "step_000004-000005"
    assert shown(pull(store, tmp_path / "dest")) == "step_000004-000005"
    assert tree(tmp_path / "dest/current") == tree(trainer.run / "step_000004")
    assert ship(trainer.run, store).shipped == []
    assert check(store, now=time.time()).is_sound
    check(store, now=time.time(), repair=True)
    assert [v.version for v in catalog_of(store).versions] == [1, 5]


def test_a_new_pointer_leaves_out_what_is_damaged_and_says_so(
    trainer: Trainer, store: Store, tmp_path: Path, cli: Run
) -> None:
    trainer.save_steps(1, 2, 3)
    ship(trainer.run, store)
    last = catalog_of(store).latest.patches[0].key
    (tmp_path / "store" / last).write_bytes(b"{}")
    store.delete(POINTER)
    code, out, err = cli("check", store.name, "--repair", "--grace", "0s")
    assert code == 11
    assert err == f"sparsediff: {store.name}/{last}: object does not match the digest in its name\n"
    assert out.startswith("2 of 2 versions can be had, ")
    assert out.endswith("made a new pointer, which begins a new history; 1 removed\n")
    assert cli("check", store.name)[0] == 0
    assert shown(pull(store, tmp_path / "dest")) == "step_000002"


def test_nobody_is_taken_back_by_a_repair(trainer: Trainer, store: Store, tmp_path: Path) -> None:
    trainer.save_steps(1, 2, 3)
    ship(trainer.run, store)
    pull(store, tmp_path / "dest")
    pull(store, tmp_path / "middle", version="step_000002")
    for version in catalog_of(store).versions[1:]:
        for patch in version.patches:
            store.delete(patch.key)
    check(store, now=time.time(), repair=True)
    assert shown(pull(store, tmp_path / "dest")) == "step_000003"
    with pytest.raises(UnavailableError, match="step_000003 is lost until the next ship"):
        pull(store, tmp_path / "middle")
    assert tree(tmp_path / "middle/current") == tree(trainer.run / "step_000002")
    ship(trainer.run, store)
    assert shown(pull(store, tmp_path / "middle")) == "step_000003"


def test_what_check_says(
    trainer: Trainer, store: Store, monkeypatch: pytest.MonkeyPatch, cli: Run
) -> None:
    broken(trainer, store, monkeypatch)
    code, out, err = cli("check", store.name, "--repair")
    assert code == 11
    assert "was not made from version 1 as it was shipped" in err
    assert "step_000004 cannot be reached any more" in err
    assert out.startswith("1 of 4 versions can be had, ")
    code, out, err = cli("check", store.name)
    assert code == 0
    assert "step_000004 is lost; the next ship stores it whole" in err
    assert out.startswith("1 of 2 versions can be had, ")
