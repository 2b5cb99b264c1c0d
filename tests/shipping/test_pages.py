"""Older versions on pages: the same history, of which little has to be read."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from sparsediff.errors import CorruptError
from sparsediff.shipping import sealing
from sparsediff.shipping.catalog import Catalog, Version
from sparsediff.shipping.catalog_json import POINTER, dump, parse, read_catalog
from sparsediff.shipping.pages import natural
from sparsediff.shipping.sealing import write_catalog
from sparsediff.stores import Store, open_store
from tests.support import histories
from tests.support.counting import Counting
from tests.support.runs import catalog_of

ID = "0" * 32


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """So few numbers to a page that a short history has pages of pages of pages."""
    monkeypatch.setattr(sealing, "FAN", 2)


def store_of(path: Path, versions: Sequence[Version]) -> Counting:
    """A new store with this history, all of it written at once."""
    store = open_store(str(path), create=True)
    assert write_catalog(store, Catalog(ID, versions), None)
    return Counting(store)


def pages_in(store: Store) -> set[str]:
    return {o.key for o in store.list("versions/pages/")}


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("seed", range(6))
def test_a_history_is_the_same_on_pages(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    versions = histories.wild(rng, 40)
    flat, paged = Catalog(ID, versions), catalog_of(store_of(tmp_path / "store", versions))
    assert len(paged.history.recent) < 4
    assert len(paged.versions) == len(versions)
    assert list(paged.versions) == list(flat.versions) == versions
    assert list(reversed(paged.versions)) == versions[::-1]
    assert paged == flat
    assert paged.reachable() == flat.reachable()
    for _ in range(60):
        i, j = rng.randint(-45, 45), rng.choice([None, rng.randint(-45, 45)])
        assert paged.versions[i:j] == tuple(versions[i:j])
        number = rng.randint(0, versions[-1].version + 2)
        assert paged.get(number) == flat.get(number)
        assert paged.history.since_anchor() == flat.history.since_anchor()
        assert paged.history.sums() == flat.history.sums()
        later = [v for v in versions if v.version > number]
        assert paged.history.after(number) == (len(later), later[0] if later else None)
        assert list(paged.history.later(number)) == later[::-1]
        wanted = rng.choice([versions[i % 40].name, str(rng.randint(0, 300)), "none"])
        assert paged.find(wanted) == flat.find(wanted)
        held = rng.sample([v.version for v in versions], rng.randint(0, 3))
        avoid = {p.key for v in rng.sample(versions, 3) for p in v.patches}
        assert paged.path(held, number, avoid) == flat.path(held, number, avoid)
    assert paged.versions[-40] == versions[0]
    for outside in (-41, 40):
        with pytest.raises(IndexError):
            paged.versions[outside]


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("seed", range(4))
def test_version_by_version_makes_the_pages_that_all_at_once_makes(
    seed: int, tmp_path: Path
) -> None:
    versions = histories.wild(random.Random(seed), 40)
    one = store_of(tmp_path / "one", versions[:1])
    for version in versions[1:]:
        found = read_catalog(one)
        assert found is not None
        before = pages_in(one)
        assert write_catalog(one, found[0].published(version), found[1])
        assert before <= pages_in(one), "a page was changed"
    all_at_once = store_of(tmp_path / "all", versions)
    assert one.get(POINTER) == all_at_once.get(POINTER)
    assert pages_in(one) == pages_in(all_at_once) == catalog_of(one).keys() & pages_in(one)


@pytest.mark.usefixtures("narrow")
def test_pages_that_change_are_dropped_and_others_stay(tmp_path: Path) -> None:
    versions = list(histories.versions(40))
    store = store_of(tmp_path / "store", versions)
    before = pages_in(store)
    broken = versions[20].patches[0].key
    found = read_catalog(store)
    assert found is not None
    store.reset()
    assert write_catalog(store, found[0].without({broken}, 1e9), found[1])
    after = {p.key for p in catalog_of(store).history.all_pages()}
    assert len(before - after) == len(after - before) == 5, "the page, and those that list it"
    dropped = {d.key for d in catalog_of(store).dropped}
    listed = [d for d in catalog_of(store).dropped if d.list_bytes]
    if listed:
        dropped |= set(json.loads(store.read(listed[0].key, 0, listed[0].list_bytes or 0))["keys"])
    assert dropped >= (before - after) | {broken}
    assert store.calls["put"] == 5 + len(listed)
    assert catalog_of(store).get(21) == replace(versions[20], patches=())


def test_the_pointer_stays_small_and_who_is_near_reads_no_page(tmp_path: Path) -> None:
    sizes = []
    for n in (64, 3000):
        store = store_of(tmp_path / str(n), list(histories.versions(n)))
        store.reset()
        catalog = catalog_of(store)
        sizes.append(store.bytes["get"])
        assert len(catalog.versions) == n
        assert catalog.path([n - 5], n) is not None
        assert not catalog.is_lost(catalog.latest)
        assert catalog.find(f"step_{10 * n}") == catalog.latest
        assert catalog.history.named(f"step_{10 * n + 10}") is None
        assert list(catalog.history.numbered(10 * n + 10)) == []
        assert catalog.published(histories.version(n + 1)).latest.version == n + 1
        assert catalog.history.after(n - 5)[0] == 5
        assert store.calls == {"get": 1}
        assert catalog.find("step_70") == catalog.get(7)
        assert store.calls["read"] <= 2 * 3
    assert sizes[1] < 3 * sizes[0], "up to twice the versions, and a few rows of pages"
    assert sizes[1] < 60_000


def test_a_damaged_page_is_named_and_never_believed(tmp_path: Path) -> None:
    versions = list(histories.versions(80))
    store = store_of(tmp_path / "store", versions)
    (page,) = catalog_of(store).history.pages
    file = tmp_path / "store" / page.key
    text = file.read_bytes()
    for damage in (text[:-1], text + b" ", text.replace(b"step_70", b"step_71"), b"", None):
        if damage is None:
            file.unlink()
        else:
            file.write_bytes(damage)
        if damage == text + b" ":  # what is stated is there
            continue
        with pytest.raises(CorruptError) as caught:
            catalog_of(store).get(1)
        assert str(caught.value).startswith(f"{store.name}/{page.key}: ")
    assert catalog_of(store).path([79], 80) is not None


def test_rows_of_pages_that_contradict_each_other_are_refused() -> None:
    from sparsediff.shipping.pages import History, Page

    page = Page(
        1, 32, 0, 32, 1, 1, ("a", "b"), (1, 2), (0, 0, 1), "versions/pages/x.json", 9, "0" * 64
    )
    recent = (histories.version(33),)
    for wrong in (
        [page._replace(n=33)],
        [page._replace(last=40)],
        [page, page],
        [page._replace(first=33, last=32)],
        [page._replace(depth=13)],
        [page._replace(key="latest.json")],
    ):
        with pytest.raises(CorruptError):
            parse(dump(Catalog(ID, History(recent, wrong))))
    assert parse(dump(Catalog(ID, History(recent, [page])))).history.pages == (page,)


def test_numbers_in_names_are_compared_as_numbers() -> None:
    names = ["a", "a9", "a10", "a10-b2", "a10-b11", "b"]
    assert all(natural(a) < natural(b) for a, b in pairwise(names))
