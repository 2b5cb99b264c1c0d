"""The pointer of a store: its catalog as JSON.

Enters: the JSON of ``latest.json``, or a store that holds it. Leaves: a validated `Catalog`
(store.md, "The pointer"); and the other way round. One object says everything, and it is
replaced by compare-and-swap alone, so a reader sees the store before a change or after it.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime

from sparsediff.checksum import checksum
from sparsediff.errors import CorruptError, UnsupportedError
from sparsediff.shipping import fields
from sparsediff.shipping.catalog import (
    PREFIX,
    Catalog,
    Dropped,
    LeftOut,
    Run,
    StoredPatch,
    Version,
)
from sparsediff.shipping.fields import FieldError
from sparsediff.stores import Store

POINTER = "latest.json"
FORMAT = "sparsediff-store"
LAYOUT = 1


def read_catalog(store: Store) -> tuple[Catalog, str] | None:
    """The catalog of a store and the tag of its pointer; None if nothing was shipped yet.

    Raises:
        CorruptError: the pointer is damaged.
        UnsupportedError: its layout is of a later version.
    """
    found = store.get(POINTER)
    if found is None:
        return None
    data, tag = found
    try:
        return parse(data), tag
    except (CorruptError, UnsupportedError) as e:
        e.file = f"{store.name}/{POINTER}"
        raise


def dump(catalog: Catalog) -> bytes:
    """The JSON of a catalog."""
    versions = []
    for v in catalog.versions:
        row = asdict(v) | {"shipped": to_text(v.shipped), "patches": [asdict(p) for p in v.patches]}
        if v.left_out is None:  # stores from which nothing is left out stay as they always were
            del row["left_out"]
        versions.append(row)
    document: dict[str, object] = {
        "format": FORMAT,
        "layout": LAYOUT,
        "id": catalog.id,
        "latest": catalog.latest.version,
        "versions": versions,
        "dropped": [{"key": d.key, "since": to_text(d.since)} for d in catalog.dropped],
    }
    if catalog.run is not None:
        document["run"] = asdict(catalog.run)
    document["xxh3"] = _checksum(document)
    return (json.dumps(document, indent=1) + "\n").encode()


def parse(data: bytes) -> Catalog:
    """The catalog that `dump` wrote.

    Raises:
        CorruptError: this is no such JSON, or a damaged one.
        UnsupportedError: its layout is of a later version.
    """
    try:
        document = fields.parsed(data)
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise CorruptError("not the pointer of a store")
        if document.get("layout") != LAYOUT:
            raise UnsupportedError(
                "unknown layout of the store", expected=LAYOUT, found=document.get("layout")
            )
        stated = document.pop("xxh3", None)
        if stated != _checksum(document):
            raise CorruptError("pointer does not match its checksum", expected=stated)
        row = fields.Row(document)
        versions = tuple(row.get("versions", fields.listed(_version)))
        dropped = tuple(row.get("dropped", fields.listed(_dropped)))
        catalog = Catalog(row.get("id", fields.history), versions, dropped, row.find("run", _run))
        latest = row.get("latest", fields.version)
    except FieldError as e:
        if not e.path:
            raise CorruptError("not the pointer of a store") from None
        raise CorruptError(
            "pointer of the store is malformed", expected=e.text, found=e.found
        ) from None
    except RecursionError:
        raise CorruptError("not the pointer of a store") from None
    numbers = [v.version for v in versions]
    if not numbers or numbers != sorted(set(numbers)) or latest != numbers[-1]:
        raise CorruptError("versions of the store are out of order")
    if len({v.name for v in versions}) != len(versions):
        raise CorruptError("two versions of the store share a name")
    return catalog


def _version(value: object) -> Version:
    row = fields.Row(value)
    version = Version(
        row.get("version", fields.version),
        row.get("name", fields.file_name),
        row.get("number", fields.optional(fields.count)),
        row.get("source", fields.any_text),
        row.get("shipped", _time),
        row.get("n_bytes", fields.count),
        row.get("n_elements", fields.count),
        row.get("n_changed", fields.optional(fields.count)),
        tuple(row.get("patches", fields.listed(_patch))),
        row.find("left_out", _left_out),
    )
    if any(p.base is not None and p.base >= version.version for p in version.patches):
        raise CorruptError("patch of the store leads backwards", found=f"version {version.version}")
    return version


def _patch(value: object) -> StoredPatch:
    row = fields.Row(value)
    return StoredPatch(
        row.get("base", fields.optional(fields.version)),
        row.get("key", _key),
        row.get("n_bytes", fields.count),
        row.get("sha256", fields.sha256),
    )


def _left_out(value: object) -> LeftOut:
    row = fields.Row(value)
    return LeftOut(
        tuple(row.get("include", fields.listed(fields.any_text))),
        tuple(row.get("exclude", fields.listed(fields.any_text))),
        row.get("n_files", fields.count),
        row.get("n_bytes", fields.count),
    )


def _dropped(value: object) -> Dropped:
    row = fields.Row(value)
    return Dropped(row.get("key", _key), row.get("since", _time))


def _run(value: object) -> Run:
    row = fields.Row(value)
    return Run(
        row.get("id", fields.history),
        row.get("name", fields.any_text),
        row.get("host", fields.any_text),
        row.get("path", fields.any_text),
    )


def _checksum(document: dict[str, object]) -> str:
    return checksum(json.dumps(document, separators=(",", ":")).encode())


def _key(value: object) -> str:
    key = fields.relative_name(value)
    if not key.startswith(PREFIX):
        raise FieldError(f"a key below {PREFIX}", value)
    return key


def _time(value: object) -> float:
    """A time that `to_text` wrote: no other, so that it can be written again."""
    try:
        return from_text(_time_text(value))
    except (ValueError, OverflowError):
        raise FieldError("a time such as 2026-11-23T20:32:58Z", value) from None


_time_text = fields.matching("[0-9]{4}(-[0-9]{2}){2}T[0-9]{2}(:[0-9]{2}){2}Z", "a time")


def to_text(seconds: float) -> str:
    """A time as text, UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def from_text(text: str) -> float:
    """The time that `to_text` wrote, in seconds since the epoch."""
    return datetime.fromisoformat(text).timestamp()
