"""What a store claims costs its readers no more than it has bytes to pay for."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from sparsediff.errors import CorruptError
from sparsediff.shipping.catalog_json import read_catalog
from sparsediff.shipping.objects import keys_of
from sparsediff.shipping.pull import pull
from sparsediff.stores import open_store
from tests.conftest import Run
from tests.hostile import write as hostile
from tests.support.costs import cost
from tests.support.counting import Counting

EMPTY = hashlib.sha256(b"").hexdigest()


def patch(key: str, **more: Any) -> dict[str, Any]:
    return {"base": None, "key": f"versions/{key}", "n_bytes": 0, "sha256": EMPTY} | more


def stored(path: Path, document: dict[str, Any], **objects: bytes) -> Counting:
    (path / "versions").mkdir(parents=True)
    (path / "latest.json").write_bytes(hostile.sealed(document))
    for name, data in objects.items():
        (path / "versions" / name).write_bytes(data)
    return Counting(open_store(str(path)))


@pytest.mark.parametrize("verb", ["log", "pull", "prune", "check"])
def test_no_room_is_made_for_versions_that_a_page_only_claims(verb: str, tmp_path: Path) -> None:
    n = 10**8
    page = hostile.page(last=n, n=n)
    stored(tmp_path / "store", hostile.pointer(version=n + 1, latest=n + 1, pages=[page]))
    words: dict[str, list[object]] = {"pull": [tmp_path / "out"], "prune": ["--keep", 1]}
    found = cost(verb, tmp_path / "store", *words.get(verb, []))
    assert found.code == 11, found.err
    assert found.peak_bytes < 300 << 20


def test_ways_that_are_not_intact_are_tried_some_times_only(tmp_path: Path, cli: Run) -> None:
    document = hostile.pointer(patches=[patch(str(i)) for i in range(2000)])
    store = stored(tmp_path / "store", document)
    with pytest.raises(CorruptError, match=r"ways to version 1 .* were not intact"):
        pull(store, tmp_path / "out")
    assert store.calls["size"] < 100
    assert store.calls["get"] == 1  # the pointer is the same whenever it is looked at again
    code, _, err = cli("pull", tmp_path / "store", tmp_path / "other")
    assert (code, err.splitlines()[-1].count("check STORE")) == (11, 1)


def test_a_list_is_read_once_however_often_it_is_named(tmp_path: Path) -> None:
    part = {"key": f"versions/000001-parts/{0:032x}", "n_bytes": 0, "sha256": EMPTY}
    parts = json.dumps({"format": "sparsediff-parts", "parts": [part]}).encode()
    gone = json.dumps({"format": "sparsediff-dropped", "keys": ["versions/gone"]}).encode()
    digests = [hashlib.sha256(data).hexdigest() for data in (parts, gone)]
    one = hostile.pointer()["versions"][0]
    rows = [patch("list", sha256=digests[0], list_bytes=len(parts), base=i) for i in range(1, 40)]
    dropped = {"key": "versions/dropped", "since": "2026-01-01T00:00:00Z", "list_bytes": len(gone)}
    document = hostile.pointer(
        latest=40,
        versions=[one, one | {"version": 40, "name": "b", "patches": rows}],
        dropped=[dropped | {"sha256": digests[1]}] * 40,
    )
    store = stored(tmp_path / "store", document, list=parts, dropped=gone)
    found = read_catalog(store)
    assert found is not None
    assert {part["key"], "versions/gone", "versions/dropped"} <= keys_of(store, found[0])
    assert store.calls["read"] == 2
