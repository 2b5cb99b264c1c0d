"""What prune says that it deleted is what was there."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from sparsediff.shipping.objects import of_each
from sparsediff.shipping.policy import Policy
from sparsediff.shipping.prune import prune
from sparsediff.shipping.ship import ship
from sparsediff.stores import Store, open_store
from tests.conftest import Run
from tests.support.runs import Trainer, catalog_of


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = open_store(str(tmp_path / "store"), create=True)
    trainer = Trainer(tmp_path / "run")
    trainer.save_steps(1, 2, 3)
    ship(trainer.run, store, Policy(anchor_every=1))
    return store


def test_deleted_once(store: Store, cli: Run) -> None:
    command = ("prune", store.name, "--keep", "1", "--grace", "0s")
    _, out, _ = cli(*command)
    assert "dropped 2 versions" in out
    assert "deleted 4 objects (" in out
    assert "(0 B)" not in out
    assert catalog_of(store).dropped == ()
    assert cli(*command)[1] == "nothing to drop; 1 version kept, step_000003\n"


def test_gone_already_is_not_counted(store: Store) -> None:
    prune(store, now=time.time(), keep=1)
    first, *others = [d.key for d in catalog_of(store).dropped]
    store.delete(first)
    sizes = {key: store.size(key) or 0 for key in others}
    result = prune(store, now=time.time(), keep=1, grace=0.0)
    assert sorted(result.deleted) == sorted(others)
    assert result.deleted_bytes == sum(sizes.values())
    assert catalog_of(store).dropped == ()


@pytest.mark.parametrize("n", [0, 1, 7, 16, 17, 1000])
@pytest.mark.parametrize("streams", [1, 4])
def test_each_key_is_asked_for_once_and_answers_come_in_order(n: int, streams: int) -> None:
    keys, asked = [str(i) for i in range(n)], []

    def call(key: str) -> int:
        asked.append(key)
        return int(key)

    assert list(of_each(call, keys, streams)) == list(range(n))
    assert sorted(asked, key=int) == keys
