"""The pointer is input like any other: each field has a type and a range, and sizes a bound."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sparsediff import CorruptError, UnsupportedError
from sparsediff.checksum import checksum
from sparsediff.shipping.catalog import Catalog, StoredPatch, Version
from sparsediff.shipping.catalog_json import dump, parse
from tests.conftest import Run

PATCHES = (
    StoredPatch(None, "versions/1/a.sdiff", 5, "0" * 64),
    StoredPatch(1, "versions/2/b.sdiff", 5, "1" * 64),
)
CATALOG = Catalog(
    "0" * 32,
    (
        Version(1, "a", None, "", 1e9, 5, 5, None, PATCHES[:1]),
        Version(2, "b", 2, "", 1e9, 5, 5, 1, PATCHES),
    ),
).without({"versions/none"}, 1e9)

WRONG: list[Any] = [
    None, True, 1.5, -1, 2**63, "", "x", "../x", "/x", "a\0b", [], [1], {}, {"a": 1},
    "9999-12-31T23:59:59-23:59", "2026-13-01T00:00:00Z", "2026-01-01", "0000-01-01T00:00:00Z",
]  # fmt: skip


def sealed(document: dict[str, Any]) -> bytes:
    document = {k: v for k, v in document.items() if k != "xxh3"}
    stated = checksum(json.dumps(document, separators=(",", ":")).encode())
    return json.dumps(document | {"xxh3": stated}).encode()


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(item, (*path, key))


def assert_refused_or_writable(document: dict[str, Any]) -> None:
    try:
        found = parse(sealed(document))
    except (CorruptError, UnsupportedError):
        return
    assert parse(dump(found)) == found


def test_anything_in_any_field_is_refused_or_can_be_written_again() -> None:
    text = dump(CATALOG)
    assert parse(text) == CATALOG
    n = 0
    for place in places(json.loads(text)):
        if place in ((), ("xxh3",)):
            continue
        for value in WRONG:
            document = json.loads(text)
            spot = document
            for key in place[:-1]:
                spot = spot[key]
            spot[place[-1]] = value
            assert_refused_or_writable(document)
            n += 1
        document = json.loads(text)
        spot = document
        for key in place[:-1]:
            spot = spot[key]
        del spot[place[-1]]
        assert_refused_or_writable(document)
    assert n > 400


def test_error_says_which_field(tmp_path: Path, cli: Run) -> None:
    document = json.loads(dump(CATALOG))
    document["versions"][1]["shipped"] = "9999-12-31T23:59:59-23:59"
    (tmp_path / "latest.json").write_bytes(sealed(document))
    for command in ("log", "check"):
        code, _, err = cli(command, tmp_path)
        assert code == 11
        assert "expected versions[1].shipped to be a time" in err
        assert err.count("\n") == 1


@pytest.mark.parametrize(
    "data", [b"", b"{", b"\xff\xfe", b"[" * 500_000, b"9" * 10_000, b"null", b"[]", b'"x"']
)
def test_what_is_no_pointer(data: bytes) -> None:
    with pytest.raises(CorruptError, match="not the pointer of a store"):
        parse(data)


def test_two_patches_of_one_size_are_no_tie_that_cannot_be_broken() -> None:
    """Shippers that raced leave two, of which a repaired pointer names both."""
    twice = tuple(StoredPatch(None, f"versions/{i}", 5, str(i) * 64) for i in range(3))
    catalog = Catalog("0" * 32, (Version(1, "a", None, "", 1e9, 5, 5, None, twice),))
    found = catalog.path([], 1)
    assert found is not None
    assert found[1] == [twice[0]]


CLAIMS = """
import sys, resource
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
from sparsediff.cli import run
from sparsediff.shipping import fetch, limits
fetch.check_room = limits.check_room = lambda *_: None  # as on a disk that has it
sys.exit(run(sys.argv[1:]))
"""


def test_claims_of_a_pointer_cost_no_memory(tmp_path: Path) -> None:
    """2^43 bytes, which a sparse file has: the disk is what ends it, not the memory."""
    huge = 1 << 43
    patch = StoredPatch(None, "versions/1/a.sdiff", huge, "0" * 64)
    version = Version(1, "a", None, "", 1e9, huge, huge, None, (patch,))
    store = tmp_path / "store"
    (store / "versions/1").mkdir(parents=True)
    (store / "latest.json").write_bytes(dump(Catalog("0" * 32, (version,))))
    (store / "versions/1/a.sdiff").touch()
    try:
        os.truncate(store / "versions/1/a.sdiff", huge)
    except OSError:
        pytest.skip("no file may be so large here")
    limit = 32 << 20
    command = [sys.executable, "-c", CLAIMS, "pull", str(store), str(tmp_path / "dest"), "-q"]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert done.returncode == 13, done.stderr
    assert "file too large" in done.stderr


def test_pointer_of_a_terabyte_is_refused(tmp_path: Path, cli: Run) -> None:
    (tmp_path / "latest.json").touch()
    os.truncate(tmp_path / "latest.json", 1 << 40)
    code, _, err = cli("log", tmp_path)
    assert code == 11
    assert "object is too large" in err
