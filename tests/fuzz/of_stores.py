"""Readers of what lies in a store, of signatures, keys, and records of destinations."""

from __future__ import annotations

import hashlib
import json
from functools import partial
from pathlib import Path
from typing import Any, cast

from sparsediff.errors import CorruptError, UsageError
from sparsediff.patch.signed import Signed
from sparsediff.shipping import acks, catalog_json, parts, state
from sparsediff.signing import trust
from sparsediff.signing.keys import public_key
from sparsediff.stores import Stored
from tests.fuzz.target import GOLDEN, Target, files, on_disk
from tests.fuzz.watch import unwatched
from tests.hostile import write as hostile


def _key(path: Path) -> None:
    try:
        public_key(path)
    except UsageError as e:
        raise CorruptError(e.problem) from None


def _signatures(path: Path) -> None:
    trusted = trust([hostile.FILES / "trusted.pub"])
    assert trusted is not None
    Signed(path.with_suffix(""), trusted).check(hostile.compact(hostile.pointer()))


def _signature_seeds() -> list[bytes]:
    rows = json.loads((hostile.FILES / "signed-of-a-patch.json").read_bytes())["signatures"]
    return [json.dumps({"format": "sparsediff-signatures", "signatures": rows}).encode()]


def _pointer(data: bytes) -> None:
    """A pointer whose checksum is made right, for who trusts nobody and for who trusts one."""
    try:
        document = json.loads(data)
        if isinstance(document, dict):
            document.pop("xxh3", None)
            data = hostile.sealed(document)
    except (ValueError, RecursionError):
        pass
    catalog = catalog_json.parse(data)
    catalog_json.parse(catalog_json.dump(catalog))


def _pointers() -> list[bytes]:
    found = [*hostile.pointers().values(), *hostile.signed().values()]
    found += [p.read_bytes() for p in sorted(GOLDEN.glob("stores/*/store/latest.json"))]
    return [p for p in found if len(p) < 1 << 14]


class _OneObject:
    """A store that holds the same bytes under every key."""

    name = "store"

    def __init__(self, data: bytes) -> None:
        self.data = data

    def get(self, key: str, known: object = None) -> tuple[bytes, str]:
        return self.data, "tag"

    def read(self, key: str, offset: int, n_bytes: int) -> bytes:
        return self.data[offset : offset + n_bytes]

    def size(self, key: str) -> int:
        return len(self.data)


def _page(data: bytes) -> None:
    """A page of a store, which its pointer describes as it happens to be."""
    try:
        document = json.loads(data)
        rows = document["versions"]
        first, last = rows[0]["version"], rows[-1]["version"]
    except (ValueError, LookupError, TypeError, RecursionError):
        rows, first, last = [0], 1, 1
    sha256 = hashlib.sha256(data).hexdigest()
    row = hostile.page(first=first, last=last, n=len(rows), n_bytes=len(data), sha256=sha256)
    row["key"] = f"versions/pages/{sha256[:16]}.json"
    pointer = hostile.pointer(version=33, latest=33) | {"pages": [row]}

    def read(page: Any) -> Any:
        return catalog_json._read_page(cast(Any, _OneObject(data)), page, read)

    catalog = catalog_json.parse(hostile.sealed(pointer), read)
    for version in catalog.versions:
        assert version.version


def _pages() -> list[bytes]:
    row = hostile.pointer()["versions"][0]
    document = {"format": "sparsediff-page", "pages": [], "versions": [row]}
    found = [p.read_bytes() for p in sorted(GOLDEN.glob("stores/*/store/versions/pages/*"))]
    return [json.dumps(document).encode(), *(p for p in found if len(p) < 1 << 14)]


def _list(data: bytes) -> None:
    if parts.parse_list(data) is None:
        raise CorruptError("no list")


def _ack(data: bytes) -> None:
    acks._read(cast(Any, _OneObject(data)), Stored("acks/machine.json", len(data), 0.0))


def _acks() -> list[bytes]:
    return [
        json.dumps({"format": acks._FORMAT, "id": "0" * 32, "version": 3, "name": "a"}).encode()
    ]


def _records() -> list[bytes]:
    waiting = {"name": "a", "number": 3, "reason": "young", "why": "x", "since": 1.5, "n_bytes": 7}
    rows: list[dict[str, object]] = [
        {"id": "0" * 32, "versions": {"1": "a", "20": "b"}, "stale": ["c"], "building": "d",
         "version": 3, "updating": {"version": 3, "patches": ["0" * 64]}, "told": "x",
         "store": "s", "files": ["*"], "newest": 9, "rewind": 1},
        {"store": "s", "id": "0" * 32, "kept": {"1": "x"}, "squash_from": 1, "run": "1" * 32,
         "pending": {"id": "0" * 32, "version": 3, "sha256": ["0" * 64], "identity": "i"}},
        {"first": {"a": 1.5}, "newest": 2.5, "looked": 3, "waiting": [waiting], "latest": "a",
         "shipped": 1.0, "same": "x"},
    ]  # fmt: skip
    return [json.dumps(row).encode() for row in rows]


def _record(path: Path) -> None:
    """Each kind of record, of which no field is demanded that another kind has."""
    errors = []
    for load in (partial(state.load_pulled, advice="move it"), state.load_sent):
        try:
            load(path.parent)
        except CorruptError as e:
            errors.append(e)
    with unwatched():
        path.rename(path.with_name(state.SEEN))
    state.load_seen(path.parent)
    if errors:
        raise errors[0]


TARGETS = {
    "pointer": Target(_pointer, _pointers),
    "page": Target(_page, _pages),
    "list": Target(_list, lambda: list(hostile.parts().values())),
    "ack": Target(_ack, _acks),
    "record": Target(lambda d: on_disk(_record, state.NAME, d), _records),
    "signatures": Target(lambda d: on_disk(_signatures, "a.sig", d), _signature_seeds),
    "key": Target(lambda d: on_disk(_key, "a.pub", d), lambda: files(".pub")),
}
