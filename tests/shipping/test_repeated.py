"""A run whose checkpoints come again, A to B to A to B: its patches repeat, and all is well."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest

from sparsediff import apply_patch, squash_patches
from sparsediff.shipping.catalog import Catalog, StoredPatch
from sparsediff.shipping.catalog_json import POINTER, dump
from sparsediff.shipping.check import check
from sparsediff.shipping.policy import Policy
from sparsediff.shipping.prune import prune
from sparsediff.shipping.pull import pull
from sparsediff.shipping.ship import ship
from sparsediff.stores import Store, open_store
from tests.support.pairs import tree
from tests.support.runs import Trainer, assert_sound, catalog_of, settle

CYCLES = ["ABAB", "ABCABC", "ABBABBA", "AAAA", "ABACABA"]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"), create=True)


def run_of(cycle: str, room: Path) -> Path:
    """A run whose steps have the contents that the letters of ``cycle`` name."""
    trainer = Trainer(room / "contents", n=500)
    for letter in sorted(set(cycle)):
        trainer.step()
        trainer.save(letter)
    run = room / "run"
    for i, letter in enumerate(cycle):
        shutil.copytree(trainer.run / letter, run / f"step_{i + 1}")
        settle(run / f"step_{i + 1}")
    return run


@pytest.mark.parametrize("policy", [Policy(anchor_weight=99), Policy(squash_every=2)])
@pytest.mark.parametrize("cycle", CYCLES)
def test_cycle_is_shipped_and_pulled(
    cycle: str, policy: Policy, store: Store, tmp_path: Path
) -> None:
    run = run_of(cycle, tmp_path)
    originals = {p.name: tree(p) for p in run.iterdir()}
    ship(run, store, policy)
    assert_sound(store, originals, tmp_path / "new")
    for in_place in (False, True):
        for start in range(1, len(cycle) + 1):
            dest = tmp_path / f"from-{start}-{in_place}"
            pull(store, dest, version=f"step_{start}", in_place=in_place)
            pull(store, dest, in_place=in_place)
            shown = dest if in_place else dest / "current"
            assert tree(shown) == originals[f"step_{len(cycle)}"]


def test_chain_with_the_same_patch_twice_is_applied_and_squashed(
    store: Store, tmp_path: Path
) -> None:
    run = run_of("ABAB", tmp_path)
    ship(run, store, Policy(anchor_weight=99))
    steps = [v.step for v in catalog_of(store).versions[1:]]
    chain = [Path(store.name, p.key) for p in steps if p is not None]
    chain = [chain[0], chain[1], chain[0]]
    apply_patch(run / "step_1", chain, tmp_path / "out")
    assert tree(tmp_path / "out") == tree(run / "step_2")
    squash_patches(run / "step_1", chain, tmp_path / "one.sdiff")
    apply_patch(run / "step_1", tmp_path / "one.sdiff", tmp_path / "again")
    assert tree(tmp_path / "again") == tree(run / "step_2")
    apply_patch(tmp_path / "out", [chain[1], chain[0]], in_place=True)
    assert tree(tmp_path / "out") == tree(run / "step_2")


def sharing(catalog: Catalog) -> Catalog:
    """The same where patches of one content are one object, as another writer may store them."""
    first: dict[str, StoredPatch] = {}
    versions = []
    for v in catalog.versions:
        patches = tuple(replace(p, key=first.setdefault(p.sha256, p).key) for p in v.patches)
        versions.append(replace(v, patches=patches))
    return replace(catalog, versions=tuple(versions))


@pytest.fixture
def shared(store: Store, tmp_path: Path) -> dict[str, dict[str, bytes]]:
    """Originals of a store with six versions, anchors at 1 and 4, and objects that are shared."""
    run = run_of("ABABAB", tmp_path)
    ship(run, store, Policy(anchor_every=3))
    catalog = sharing(catalog_of(store))
    assert store.swap(POINTER, dump(catalog), store.tag(POINTER))
    keys = {p.key for v in catalog.versions for p in v.patches}
    assert len(keys) < sum(len(v.patches) for v in catalog.versions)
    for stored in list(store.list("")):
        if stored.key not in {*keys, POINTER}:
            store.delete(stored.key)
    return {p.name: tree(p) for p in run.iterdir()}


def test_object_that_two_versions_share(
    store: Store, shared: dict[str, dict[str, bytes]], tmp_path: Path
) -> None:
    assert_sound(store, shared, tmp_path / "new")
    assert check(store, now=time.time()).orphans == []


def test_prune_keeps_a_shared_object_as_long_as_one_needs_it(
    store: Store, shared: dict[str, dict[str, bytes]], tmp_path: Path
) -> None:
    for keep in (3, 1):
        for _ in range(2):
            prune(store, now=time.time(), keep=keep, grace=0)
        assert_sound(store, shared, tmp_path / f"new-{keep}")
        assert not check(store, now=time.time() + 10, grace=1).orphans
    left = {o.key for o in store.list("")} - {POINTER}
    assert left == catalog_of(store).keys()


def test_repair_keeps_a_shared_object_of_a_version_that_can_be_had(
    store: Store, shared: dict[str, dict[str, bytes]], tmp_path: Path
) -> None:
    (anchor,) = (p for p in catalog_of(store).versions[0].patches if p.base is None)
    os.truncate(Path(store.name, anchor.key), 10)
    check(store, now=time.time(), repair=True)
    after = catalog_of(store)
    assert after.latest.version in after.reachable()
    check(store, now=time.time(), repair=True)
    assert_sound(store, shared, tmp_path / "new")
