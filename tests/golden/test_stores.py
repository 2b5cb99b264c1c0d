"""Golden stores of every layout: they must be pulled, pruned and shipped on forever."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest

from sparsediff.shipping.catalog import LAYOUT
from sparsediff.shipping.catalog_json import LAYOUTS, POINTER, dump, read_catalog
from sparsediff.shipping.check import check
from sparsediff.shipping.prune import prune
from sparsediff.shipping.pull import pull
from sparsediff.shipping.ship import ship
from sparsediff.stores import Store, open_store
from tests.conftest import Run
from tests.support.pairs import tree
from tests.support.runs import Trainer, assert_sound, catalog_of, digest_of

GOLDEN = Path(__file__).parent / "stores"
EACH = pytest.mark.parametrize("layout", LAYOUTS)


def copy_of(layout: int, tmp_path: Path) -> tuple[Store, dict[str, str]]:
    """A golden store that may be written to, and the digests of its checkpoints."""
    place = GOLDEN / f"layout-{layout}"
    shutil.copytree(place / "store", tmp_path / "store")
    return open_store(str(tmp_path / "store")), json.loads((place / "digests.json").read_text())


def assert_all_there(store: Store, digests: dict[str, str], scratch: Path) -> None:
    for name, digest in digests.items():
        pull(store, scratch / name, version=name, jobs=1)
        assert digest_of(scratch / name / "current") == digest


@EACH
def test_golden_store_is_read(layout: int, tmp_path: Path) -> None:
    store, digests = copy_of(layout, tmp_path)
    catalog = catalog_of(store)
    assert catalog.layout == layout
    assert [v.name for v in catalog.versions] == list(digests)
    assert len(digests) >= 3
    assert catalog.dropped
    assert bool(catalog.history.pages) == (layout > 1)
    assert any(p.list_bytes for v in catalog.versions for p in v.patches) == (layout > 1)
    assert_all_there(store, digests, tmp_path / "pulled")
    found = check(store, now=time.time())
    assert (found.is_sound, found.orphans, found.young, found.unreachable) == (True, [], [], [])


def test_layout_1_is_written_as_it_always_was() -> None:
    store = open_store(str(GOLDEN / "layout-1" / "store"))
    pointer = store.get(POINTER)
    assert pointer is not None
    assert dump(catalog_of(store)) == pointer[0]


@EACH
def test_golden_store_goes_on_with_its_layout(layout: int, tmp_path: Path) -> None:
    store, _ = copy_of(layout, tmp_path)
    trainer = Trainer(tmp_path / "run", n=60, seed=1)
    (saved,) = trainer.save_steps(100)
    assert len(ship(trainer.run, store, adopt=True).shipped) == 1
    assert catalog_of(store).layout == layout
    prune(store, now=time.time(), keep=1, grace=0.0)
    prune(store, now=time.time(), keep=1, grace=0.0)
    catalog = catalog_of(store)
    assert (catalog.layout, catalog.dropped) == (layout, ())
    assert [v.name for v in catalog.versions] == ["step_000100"]
    assert {o.key for o in store.list("")} == catalog.keys() | {POINTER}
    directories = [p for p in (tmp_path / "store").rglob("*") if p.is_dir()]
    assert all(any(p.iterdir()) for p in directories)
    assert_sound(store, {saved.name: tree(saved)}, tmp_path / "pulled")


def test_upgrade_is_asked_for_and_changes_nothing_else(tmp_path: Path, cli: Run) -> None:
    store, digests = copy_of(1, tmp_path)
    before = catalog_of(store)
    code, out, _ = cli("check", store.name, "--upgrade")
    assert code == 0
    assert f"it has layout {LAYOUT} now" in out
    after = catalog_of(store)
    assert after.layout == LAYOUT
    assert (after.id, after.versions, after.dropped) == (before.id, before.versions, before.dropped)
    assert_all_there(store, digests, tmp_path / "pulled")
    tag = store.tag(POINTER)
    code, out, _ = cli("check", store.name, "--upgrade")
    assert "layout" not in out
    assert store.tag(POINTER) == tag


def test_a_store_that_is_damaged_is_not_upgraded(tmp_path: Path, cli: Run) -> None:
    store, _ = copy_of(1, tmp_path)
    store.delete(catalog_of(store).latest.patches[0].key)
    assert cli("check", store.name, "--upgrade")[0] == 11
    assert catalog_of(store).layout == 1
    assert cli("check", store.name, "--upgrade", "--repair")[0] == 11
    found = read_catalog(store)
    assert found is not None
    assert found[0].layout == LAYOUT
    assert cli("check", store.name)[0] == 0
