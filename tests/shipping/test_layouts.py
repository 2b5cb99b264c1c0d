"""Whatever happens to a store, both layouts offer the same versions, and the same ways to them."""

from __future__ import annotations

import random
import time
from dataclasses import replace
from pathlib import Path

import pytest

from sparsediff.errors import CorruptError
from sparsediff.shipping import sealing
from sparsediff.shipping.catalog import Catalog, Version
from sparsediff.shipping.catalog_json import POINTER, read_catalog
from sparsediff.shipping.check import check
from sparsediff.shipping.objects import keys_of
from sparsediff.shipping.policy import Policy
from sparsediff.shipping.prune import prune
from sparsediff.shipping.pull import pull
from sparsediff.shipping.sealing import write_catalog
from sparsediff.shipping.ship import ship
from sparsediff.stores import Store, open_store
from tests.support.pairs import tree
from tests.support.runs import Trainer, catalog_of

N_EVENTS = 14


def make_layout_1(store: Store) -> None:
    found = read_catalog(store)
    assert found is not None
    assert write_catalog(store, replace(found[0], layout=1), found[1])


def offered(catalog: Catalog) -> list[Version]:
    """Versions without what differs with the moment."""
    return [replace(v, shipped=0.0, patches=tuple(sorted(v.patches, key=lambda p: p.key)))
            for v in catalog.versions]  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
def test_random_histories(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "FAN", 2)
    rng = random.Random(seed)
    policy = Policy(anchor_every=rng.choice([2, 4, 9]), squash_every=rng.choice([None, 3]))
    trainer = Trainer(tmp_path / "run", n=200, lr=1e-5)
    stores = [open_store(str(tmp_path / f"layout-{n}"), create=True) for n in (1, 2)]
    originals: dict[str, dict[str, bytes]] = {}
    number, now = 0, time.time()

    def ship_all(policy: Policy) -> None:
        for i, store in enumerate(stores):
            result = ship(trainer.run, store, policy, state_directory=tmp_path / f"{i}", jobs=1)
            for shipped in result.shipped:
                number = shipped.version.number
                originals[shipped.version.name] = tree(trainer.run / f"step_{number:06}")

    for event in range(N_EVENTS):
        kind = "ship" if event < 3 else rng.choice(["ship", "ship", "rewind", "prune", "damage"])
        if kind == "ship":
            number += 1
            trainer.save_steps(number)
            ship_all(policy)
        elif kind == "rewind":
            number = rng.randint(max(1, number - 2), number)
            trainer.step()
            trainer.save(f"step_{number:06}", age=50.0 - event)
            ship_all(replace(policy, rewind=True))
        elif kind == "prune":
            now += 10
            keep, grace = rng.randint(1, 9), rng.choice([0.0, 15.0, 1e6])
            for store in stores:
                prune(store, now=now, keep=keep, grace=grace)
        else:
            some = [p.key for v in catalog_of(stores[0]).versions for p in v.patches]
            lost = rng.choice(some) if some else "none"
            for store in stores:
                store.delete(lost)
                check(store, now=time.time() + 10, repair=True, grace=5.0)
        if event == 0:
            make_layout_1(stores[0])
        one, two = map(catalog_of, stores)
        assert (one.layout, two.layout) == (1, 2)
        assert offered(one) == offered(two), kind
        assert {d.key for d in one.dropped} <= keys_of(stores[1], two)
        numbers = [v.version for v in one.versions]
        for wanted in numbers:
            assert one.is_lost(one.latest) == two.is_lost(two.latest)
            for held in ([], rng.sample(numbers, 1), numbers[-3:]):
                assert one.path(held, wanted) == two.path(held, wanted)
    for store in stores:
        prune(store, now=now + 1e7, keep=N_EVENTS, grace=0.0)
        catalog = catalog_of(store)
        assert {o.key for o in store.list("")} == keys_of(store, catalog) | {POINTER}
        assert check(store, now=time.time()).broken == {}
        for version in catalog.versions:
            dest = tmp_path / f"pulled-{catalog.layout}" / version.name
            if version.version in catalog.reachable():
                pull(store, dest, version=version.name, jobs=1)
                assert tree(dest / "current") == originals[version.name]
            else:
                with pytest.raises(CorruptError):
                    pull(store, dest, version=version.name, jobs=1)
