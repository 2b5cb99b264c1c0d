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
from sparsediff.shipping.check import check
from sparsediff.shipping.objects import keys_of
from sparsediff.shipping.prune import prune
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


@pytest.mark.parametrize("field", ["n_bytes", "sha256", "list_bytes"])
@pytest.mark.parametrize("on_a_page", [False, True])
def test_an_object_is_not_read_for_each_thing_that_is_said_of_it(
    field: str, on_a_page: bool, tmp_path: Path, cli: Run
) -> None:
    listed = json.dumps({"format": "sparsediff-parts", "parts": []}).encode()
    sha256 = hashlib.sha256(listed).hexdigest()
    said = patch("list", sha256=sha256, list_bytes=len(listed))
    others: dict[str, list[Any]] = {
        "n_bytes": [*range(1, 1000)],
        "sha256": [f"{i:064x}" for i in range(1, 1000)],
        "list_bytes": [*range(1, len(listed)), *range(len(listed) + 1, 1000), None],
    }
    one = hostile.pointer()["versions"][0]
    first = one | {"patches": [said]}
    second = one | {"version": 2, "name": "b"}
    second["patches"] = [said | {field: value} for value in others[field]]
    more: dict[str, Any] = {"versions": [first, second]}
    objects = {"list": listed}
    if on_a_page:
        document = {"format": "sparsediff-page", "pages": [], "versions": [first]}
        objects["page"] = json.dumps(document).encode()
        row = {"n_bytes": len(objects["page"]), "key": "versions/page"}
        row["sha256"] = hashlib.sha256(objects["page"]).hexdigest()
        more = {"versions": [second], "pages": [hostile.page(last=1, n=1, **row)]}
    store = stored(tmp_path / "store", hostile.pointer(latest=2, **more), **objects)
    for verb in (check, prune):
        store.reset()
        with pytest.raises(CorruptError, match="different things of this object"):
            verb(store, now=0.0)
        assert store.calls["read"] == on_a_page
    for words in (["check"], ["prune", "--keep", 1], ["prune", "--keep", 1, "--dry-run"]):
        code, _, err = cli(words[0], tmp_path / "store", *words[1:])
        assert (code, err.count("\n")) == (11, 1)
        assert "versions/list" in err
    code, _, err = cli("check", tmp_path / "store", "--repair")
    assert (code, "no patch is left" in err) == (11, True)


def test_a_part_that_is_listed_very_often_is_read_once(tmp_path: Path) -> None:
    n, data = 1000, b"part"
    key, sha256 = f"versions/000001-parts/{0:032x}", hashlib.sha256(data).hexdigest()
    part = {"key": key, "n_bytes": len(data), "sha256": sha256}
    listed = json.dumps({"format": "sparsediff-parts", "parts": [part] * n}).encode()
    row = {"sha256": hashlib.sha256(listed).hexdigest(), "list_bytes": len(listed)}
    document = hostile.pointer(patches=[patch("list", n_bytes=n * len(data), **row)])
    store = stored(tmp_path / "store", document, list=listed)
    (tmp_path / "store" / key).parent.mkdir()
    (tmp_path / "store" / key).write_bytes(data)
    assert check(store, now=0.0).broken == {"versions/list": "not a patch"}
    assert store.bytes["read"] < 5 * len(listed)
    assert store.calls["size"] == 1
