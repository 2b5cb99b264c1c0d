"""What a store says of the size of a version is compared before anything is written."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from sparsediff.errors import CorruptError
from sparsediff.shipping.follow import Follower
from sparsediff.shipping.pull import pull
from sparsediff.shipping.ship import ship
from sparsediff.stores import open_store
from tests.conftest import Run
from tests.hostile import write
from tests.support.refusals import EXIT, refused
from tests.support.room import Room
from tests.support.runs import Trainer


@pytest.mark.parametrize("how", [(), ("--in-place",)])
def test_pull_takes_no_version_beyond_the_limit(
    how: tuple[str, ...], tmp_path: Path, cli: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(tmp_path / "run")
    trainer.save_steps(1, 2)
    store = open_store(str(tmp_path / "store"), create=True)
    catalog = ship(trainer.run, store).catalog
    assert catalog is not None
    version = catalog.latest
    limit = ("--max-bytes", f"{version.n_bytes - 1}B")
    result = cli("pull", tmp_path / "store", tmp_path / "dest", *how, *limit)
    refused(result, EXIT["corrupt"], version.name, "--max-bytes", f"found {version.n_bytes} bytes")
    monkeypatch.setattr(os, "statvfs", lambda _: Room(0))
    result = cli("pull", tmp_path / "store", tmp_path / "dest", *how)
    refused(result, EXIT["unavailable"], "no space left on device", "found 0 bytes")
    monkeypatch.undo()
    assert not list((tmp_path / "dest").rglob("*.safetensors"))
    with pytest.raises(CorruptError, match="is larger than `max_bytes`"):
        Follower(store, tmp_path / "dest", max_bytes=version.n_bytes - 1).poll()
    most = version.n_bytes + 4096 * 3  # of three files, which is known once the patch is here
    with pytest.raises(CorruptError, match="is larger than `max_bytes`"):
        pull(store, tmp_path / "dest", in_place=bool(how), max_bytes=most - 1)
    pull(store, tmp_path / "dest", in_place=bool(how), max_bytes=most)


@pytest.mark.parametrize("how", [(), ("--in-place",)])
def test_a_share_beyond_the_limit_is_not_looked_for_on_other_ways(
    how: tuple[str, ...], tmp_path: Path, cli: Run
) -> None:
    trainer = Trainer(tmp_path / "run")
    trainer.save_steps(1)
    ship(trainer.run, open_store(str(tmp_path / "store"), create=True))
    words = ("pull", tmp_path / "store", tmp_path / "dest", "--files", "*00001-of*", *how)
    for _ in range(2):
        found = cli(*words, "--max-bytes", "100B")
        refused(found, EXIT["corrupt"], "is larger than --max-bytes", "at most 100 bytes")
    assert not list((tmp_path / "dest").rglob("*.safetensors"))
    assert cli(*words)[0] == 0
    assert list((tmp_path / "dest").rglob("*.safetensors"))


def store_of_zeros(path: Path, *, n_bytes: int = 5_000_000, says: int = 1000) -> Path:
    """A store whose version says that it is small, with a patch that is large and none."""
    document: dict[str, Any] = write.pointer()
    version = document["versions"][0]
    patch = version["patches"][0]
    patch |= {"n_bytes": n_bytes, "sha256": hashlib.sha256(bytes(n_bytes)).hexdigest()}
    version["n_bytes"] = says
    (path / patch["key"]).parent.mkdir(parents=True)
    (path / patch["key"]).write_bytes(bytes(n_bytes))
    (path / "latest.json").write_bytes(write.sealed(document))
    return path


@pytest.mark.parametrize("how", [(), ("--in-place",)])
def test_patches_beyond_the_limit_are_not_fetched(
    how: tuple[str, ...], tmp_path: Path, cli: Run
) -> None:
    store, dest = store_of_zeros(tmp_path / "store"), tmp_path / "dest"
    words = ("--max-bytes", "at most 4999998 bytes", "found 5000000 bytes")
    for more in ((), ("--dry-run",)):
        found = cli("pull", store, dest, *how, *more, "--max-bytes", "2499999B")
        refused(found, EXIT["corrupt"], "patches to version", *words)
    assert not [p for p in tmp_path.rglob("*.sdiff") if store not in p.parents]
    assert cli("pull", store, dest, *how, "--dry-run", "--max-bytes", "2500000B")[0] == 0


def test_a_preview_refuses_what_pull_would(tmp_path: Path, cli: Run) -> None:
    trainer = Trainer(tmp_path / "run")
    trainer.save_steps(1)
    ship(trainer.run, open_store(str(tmp_path / "store"), create=True))
    for how in ((), ("--in-place",), ("--files", "*00001-of*")):
        words = ("pull", tmp_path / "store", tmp_path / "dest", *how, "--dry-run")
        refused(cli(*words, "--max-bytes", "100B"), EXIT["corrupt"], "is larger than --max-bytes")
        assert cli(*words)[0] == 0
    assert not (tmp_path / "dest").exists()


def test_what_was_fetched_on_other_ways_does_not_add_up(tmp_path: Path) -> None:
    """Of each state of a store, a run fetches a patch that turns out to be none."""
    dest = tmp_path / "dest"
    for n_bytes in (5_000_000, 5_000_001, 5_000_002):
        store = store_of_zeros(tmp_path / str(n_bytes), n_bytes=n_bytes)
        with pytest.raises(CorruptError):
            pull(open_store(str(store)), dest, max_bytes=5_000_000)
    assert sum(p.stat().st_size for p in (dest / ".sparsediff").rglob("*.sdiff")) <= 5_000_002


@pytest.mark.parametrize("how", [(), ("--in-place",), ("--files", "*.safetensors")])
def test_a_version_that_has_no_room_is_not_fetched(
    how: tuple[str, ...], tmp_path: Path, cli: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(tmp_path / "run")
    trainer.save_steps(1, 2)
    store, dest = tmp_path / "store", tmp_path / "dest"
    ship(trainer.run, open_store(str(store), create=True))
    words = ("pull", store, dest, *how)
    need = json.loads(cli(*words, "--dry-run", "--json")[1])
    chosen = how[-1] if "--files" in how else "*"
    n_bytes = sum(p.stat().st_size for p in (trainer.run / need["name"]).glob(chosen))
    monkeypatch.setattr(os, "statvfs", lambda _: Room(n_bytes + need["fetched_bytes"] // 2))
    for more in (("--dry-run",), ()):
        refused(cli(*words, *more), EXIT["unavailable"], "no space left on device")
    assert not list(tmp_path.glob("*dest*/**/*.sdiff"))


def test_a_first_pull_that_is_refused_leaves_nothing(tmp_path: Path, cli: Run) -> None:
    trainer = Trainer(tmp_path / "run")
    trainer.save_steps(1)
    store, dest = tmp_path / "store", tmp_path / "dest"
    ship(trainer.run, open_store(str(store), create=True))
    words = ("pull", store, dest)
    for how in ((), ("--in-place",), ("--files", "*00001-of*")):
        before = sorted(tmp_path.rglob("*"))
        refused(cli(*words, *how, "--max-bytes", "100B"), EXIT["corrupt"], "is larger than")
        refused(cli(*words, *how, "--version", "9"), EXIT["usage"], "has no version '9'")
        refused(cli(*words, "--files", "none*"), EXIT["usage"])
        assert sorted(tmp_path.rglob("*")) == before
    assert cli(*words, "--in-place")[0] == 0
