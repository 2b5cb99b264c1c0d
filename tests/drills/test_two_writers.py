"""Publishers and `ship` on one store at once: what one was told is published stays as it is."""

from __future__ import annotations

import json
import os
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from sparsediff import open_store, pull, versions
from sparsediff.errors import LockedError, SparsediffError, UnavailableError, UsageError
from sparsediff.shipping.catalog_json import POINTER
from sparsediff.shipping.check import check
from sparsediff.shipping.objects import keys_of
from sparsediff.shipping.ship import ship
from sparsediff.stores import Store, directory
from sparsediff.torch import Publisher
from tests.support.pairs import tree
from tests.support.processes import use
from tests.support.runs import Trainer, catalog_of
from tests.support.touches import Touched, at_each
from tests.support.touches import touched as touched

FEW = 9  # points
RUN = "model"
Says = dict[str, Path] | SparsediffError
"""What became of a version: its name in the store with what was saved of it, or why it is none."""


class Writer:
    """Somebody who writes versions of a run into a store, each unlike all before.

    Args:
        url: of the store.
        room: directory of what it saves, and of the run.
        number: of this one among all.
    """

    def __init__(self, url: str, room: Path, number: int) -> None:
        self.store = open_store(url, create=True, retries=0)
        self._room, self._number, self._count = room / f"{number}", number, 0
        self._start(room)

    def write(self) -> Says:
        """A version after the newest that the store has now."""
        self._count += 1
        try:
            latest = versions(self.store)[-1].number
        except UnavailableError:  # none yet
            latest = None
        try:
            return self._write((latest or 0) + 1)
        except SparsediffError as e:
            return e

    def _start(self, room: Path) -> None:
        raise NotImplementedError

    def _write(self, step: int) -> Says:
        raise NotImplementedError


class Publishing(Writer):
    def _start(self, room: Path) -> None:
        self._publisher = Publisher(self.store, run=str(room / RUN), jobs=1)
        generator = torch.Generator().manual_seed(self._number)
        self._weights = torch.randn(3000, generator=generator).bfloat16()

    def _write(self, step: int) -> Says:
        self._weights[self._count * 7 :: 300] += 1 + self._number
        saved = self._room / f"{self._count}"
        saved.mkdir(parents=True)
        save_file({"weights": self._weights}, saved / "model.safetensors", {"format": "pt"})
        done = self._publisher.publish({"weights": self._weights}, step)
        return {done.version.name: saved}


class Shipping(Writer):
    def _start(self, room: Path) -> None:
        self._trainer = Trainer(room / RUN, n=500, seed=self._number)

    def _write(self, step: int) -> Says:
        self._trainer.save_steps(step)
        notes: list[str] = []
        done = ship(self._trainer.run, self.store, jobs=1, note=notes.append)
        if not done.shipped:
            why = [*notes, *(w.why for w in done.waiting)]
            if not why and done.catalog is not None and (done.catalog.latest.number or 0) >= step:
                why = ["another writer's came before the look: ship leaves earlier ones alone"]
            return UnavailableError("; ".join(why))
        shipped = [s.version for s in done.shipped]
        return {v.name: self._trainer.run / f"step_{v.number:06}" for v in shipped}


KINDS = {"publisher": Publishing, "ship": Shipping}


def assert_refused(error: SparsediffError, about: object) -> None:
    """In one line that says what happened, and by the error that the docs name for it."""
    text = str(error)
    assert "\n" not in text, about
    if isinstance(error, UnavailableError):
        assert "another" in text or "later ones were shipped" in text, about
    elif isinstance(error, UsageError):
        assert "steps must increase" in text, about
    else:
        assert isinstance(error, LockedError), about


def assert_all(store: Store, saved: dict[str, Path], scratch: Path) -> None:
    """Each version is as it was saved, and nothing is in the store that belongs to none."""
    assert {v.name for v in versions(store)} == saved.keys()
    for name, path in saved.items():
        pull(store, scratch, version=name, keep=1, jobs=1)
        assert tree(scratch / "current") == tree(path), name
    check(store, now=time.time() + 10, grace=5, repair=True)
    assert check(store, now=time.time()).is_sound
    assert {o.key for o in store.list("")} == keys_of(store, catalog_of(store)) | {POINTER}
    assert list(store.leftovers()) == []


@pytest.mark.parametrize("few", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("n_before", [0, 1])
@pytest.mark.parametrize(
    ("one", "another"), [("publisher", "publisher"), ("publisher", "ship"), ("ship", "publisher")]
)
def test_another_writes_before_each_touch_of_the_disk(
    one: str,
    another: str,
    n_before: int,
    few: bool,
    tmp_path: Path,
    touched: Touched,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another version comes, and somebody reads, while one is made."""
    monkeypatch.setattr(directory, "_LOCK_WAIT", 0.0)  # it would not end while it is waited for
    refused: list[str] = []

    def run(n: int) -> bool:
        """Whether there was an n-th touch."""
        room = tmp_path / f"{n}"
        (room / "store").mkdir(parents=True)
        url = str(room / "store")
        ours, theirs = KINDS[one](url, room, 1), KINDS[another](url, room, 2)
        said = [writer.write() for writer in (ours, theirs)[: 2 * n_before]]
        read: list[str] = []

        def meanwhile() -> None:
            read.append(look(ours.store, room / "dest"))
            said.append(theirs.write())
            read.append(look(ours.store, room / "dest"))

        where = touched.before(n, meanwhile)
        said.append(ours.write())
        touched.leave()
        about = n, where, said, read
        saved: dict[str, Path] = {}
        for s in said:
            if isinstance(s, dict):
                assert not saved.keys() & s.keys(), about
                saved |= s
            else:
                assert_refused(s, about)
                refused.append(str(s))
        assert len(saved) > 2 * n_before, about
        assert {v.name for v in versions(ours.store)} == saved.keys(), about
        assert all(name in saved for name in read if name), about
        for writer in (ours, theirs):  # whoever lost makes up for it
            again = writer.write()
            assert isinstance(again, dict), (about, again)
            saved |= again
        assert_all(ours.store, saved, room / "dest")
        return bool(where)

    assert at_each(run, FEW if few else None) > FEW, "the disk was hardly touched"
    assert any("another" in text for text in refused)


def look(store: Store, dest: Path) -> str:
    """What a reader has after a pull; empty if it has to come later."""
    try:
        return pull(store, dest, jobs=1).version.name  # type: ignore[union-attr]
    except UnavailableError:
        return ""


def write_some(url: str, room: Path, kind: str, number: int, n: int, ready: Any) -> None:
    """In a process of its own: write until so many versions are published; says which."""
    torch.set_num_threads(1)
    writer = KINDS[kind](url, room, number)
    ready.wait()
    saved: dict[str, Path] = {}
    refused: list[str] = []
    while len(saved) < n:
        said = writer.write()
        if isinstance(said, dict):
            saved |= said
        else:
            assert_refused(said, repr(said))
            refused.append(str(said))
    told = {"saved": {name: str(path) for name, path in saved.items()}, "refused": refused}
    (room / f"{number}.json").write_text(json.dumps(told))


@pytest.mark.slow
@pytest.mark.parametrize("place", ["directory", "s3"])
def test_three_processes_at_once(
    place: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if place == "s3":
        url = use(request.getfixturevalue("seaweed"), monkeypatch)
    else:
        url = str(tmp_path / "store")
        os.mkdir(url)
    context = get_context("spawn")
    kinds, n = ["publisher", "publisher", "ship"], 12
    ready = context.Barrier(len(kinds), timeout=120)
    processes = [
        context.Process(target=write_some, args=(url, tmp_path, kind, number, n, ready))
        for number, kind in enumerate(kinds)
    ]
    for process in processes:
        process.start()
    try:
        for process in processes:
            process.join(240)
            assert process.exitcode == 0
    finally:
        for process in processes:
            process.kill()
            process.join()
    saved: dict[str, Path] = {}
    refused: list[str] = []
    for number in range(len(processes)):
        told = json.loads((tmp_path / f"{number}.json").read_text())
        assert not saved.keys() & told["saved"].keys()
        saved |= {name: Path(path) for name, path in told["saved"].items()}
        refused += told["refused"]
    assert any("another" in text for text in refused)
    assert_all(open_store(url), saved, tmp_path / "dest")
