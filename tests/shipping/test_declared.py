"""What a store says of the size of a version is compared before anything is written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sparsediff.errors import CorruptError
from sparsediff.shipping.follow import Follower
from sparsediff.shipping.pull import pull
from sparsediff.shipping.ship import ship
from sparsediff.stores import open_store
from tests.conftest import Run
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
    pull(store, tmp_path / "dest", in_place=bool(how), max_bytes=version.n_bytes)


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
        refused(found, EXIT["corrupt"], "target is larger than --max-bytes", "at most 100 bytes")
    assert not list((tmp_path / "dest").rglob("*.safetensors"))
    assert cli(*words)[0] == 0
    assert list((tmp_path / "dest").rglob("*.safetensors"))
