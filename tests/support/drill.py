"""A store, and the run that is shipped to it, to be put back after each kill."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from sparsediff.shipping.policy import Policy
from sparsediff.shipping.ship import ship
from sparsediff.stores import open_store
from tests.support.pairs import tree
from tests.support.runs import Trainer


class Drill:
    """A store with two versions and a third checkpoint, to be put back after each kill."""

    def __init__(self, room: Path, url: str | None = None) -> None:
        self.room, self.live = room, room / "live"
        self.store = url or str(self.live / "store")
        self.trainer = Trainer(self.live / "run", n=2000)
        self.trainer.save_steps(100, 200)
        self.policy = Policy(squash_every=2, anchor_weight=0.01)
        ship(self.run, open_store(self.store, create=True), self.policy, jobs=1, streams=1)
        self.trainer.save_steps(300, shards=1)
        self.save()

    @property
    def run(self) -> Path:
        return self.live / "run"

    @property
    def originals(self) -> dict[str, dict[str, bytes]]:
        return {p.name: tree(p) for p in self.run.iterdir()}

    def save(self) -> None:
        shutil.rmtree(self.room / "saved", ignore_errors=True)
        shutil.copytree(self.live, self.room / "saved", symlinks=True, copy_function=os.link)

    def restore(self) -> None:
        shutil.rmtree(self.live)
        # As links, which keep the files' identities: nothing may be written in place.
        shutil.copytree(self.room / "saved", self.live, symlinks=True, copy_function=os.link)

    def scratch(self) -> Path:
        path = self.room / "scratch"
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        return path

    def ship(self) -> None:
        ship(self.run, open_store(self.store), self.policy, jobs=1, streams=1)
