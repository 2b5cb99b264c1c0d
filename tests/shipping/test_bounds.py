"""What a store claims costs its readers no more than it has bytes to pay for."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from sparsediff.errors import CorruptError, UnsupportedError
from sparsediff.shipping import fields, sealing
from sparsediff.shipping.catalog_json import dump, parse, read_catalog
from sparsediff.shipping.objects import keys_of
from sparsediff.shipping.pull import pull
from sparsediff.shipping.sealing import write_catalog
from sparsediff.stores import open_store
from sparsediff.stores.store import MAX_SMALL_BYTES
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


def test_little_is_made_of_a_large_pointer_that_would_unfold_to_much(tmp_path: Path) -> None:
    (tmp_path / "versions").mkdir()
    for item, more in ((b"{},", b""), (b"[],", b""), (b"[],", "\U00010000".encode())):
        text = b'{"format":"sparsediff-store","a":["%b",%b0]}' % (more, item * 10_000_000)
        (tmp_path / "latest.json").write_bytes(text)
        found = cost("log", tmp_path)
        assert (found.code, found.err.count("\n")) == (11, 1), found.err
        assert found.peak_bytes < 300 << 20


def test_brackets_in_names_open_nothing() -> None:
    rows = [{"name": '[{\\"' * 60}] * 2_000
    assert fields.parsed(json.dumps(rows).encode()) == rows


def test_as_many_versions_as_ever_fit_the_pointer_of_layout_1() -> None:
    row = hostile.pointer()["versions"][0]
    key = f"versions/000001-step_000001/from-000000-{EMPTY[:16]}.sdiff"
    sent = [patch(key, base=1, n_bytes=10**9), patch(key, base=2, n_bytes=10**9)]
    row |= {"n_bytes": 10**10, "n_elements": 10**10, "n_changed": 10**8, "patches": sent}
    versions = [
        row | {"version": i, "name": f"step_{i:06}", "source": EMPTY} for i in range(3, 503)
    ]
    document = hostile.pointer(layout=1, versions=versions, latest=502)
    del document["pages"]
    catalog = parse(hostile.sealed(document))
    assert len(dump(catalog)) / 500 * 320_000 < MAX_SMALL_BYTES


def test_no_pointer_is_written_that_nobody_would_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = hostile.pointer(layout=1)
    del document["pages"]
    store = stored(tmp_path, document)
    found = read_catalog(store)
    assert found is not None
    monkeypatch.setattr(sealing, "MAX_SMALL_BYTES", 500)
    with pytest.raises(UnsupportedError, match="too many versions"):
        write_catalog(store, *found)
    assert (tmp_path / "latest.json").read_bytes() == hostile.sealed(document)


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
