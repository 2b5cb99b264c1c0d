"""The pointer of a store, and its pages, as JSON.

Enters: the JSON of ``latest.json``, or a store that holds it. Leaves: a validated `Catalog`
(store.md, "The pointer"); and the other way round. One object says everything, and it is
replaced by compare-and-swap alone, so a reader sees the store before a change or after it.
Older versions are on pages that the pointer names, which are read when somebody asks.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING

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
from sparsediff.shipping.pages import History, Page
from sparsediff.shipping.small import get_small, to_lines
from sparsediff.stores import Store

if TYPE_CHECKING:
    from sparsediff.signing import Signer, Trust

POINTER = "latest.json"
FORMAT = "sparsediff-store"
LAYOUTS = (1, 2)
_PAGE_FORMAT = "sparsediff-page"
_PAGES_KEPT = 64  # in memory
_SIGNATURES = "signatures"
_KIND = "pointer"  # of what is signed
_DEEPEST = 12  # enough for 2^63 versions

ReadPage = Callable[[Page], History]


def read_catalog(store: Store) -> tuple[Catalog, str] | None:
    """The catalog of a store and the tag of its pointer; None if nothing was shipped yet.

    Raises:
        CorruptError: the pointer is damaged.
        UntrustedError: nobody signed it whom ``store.trust`` trusts.
        UnsupportedError: its layout is of a later version.
    """
    found = store.get(POINTER)
    if found is None:
        return None
    data, tag = found

    @lru_cache(_PAGES_KEPT)
    def read(page: Page) -> History:
        return _read_page(store, page, read)

    try:
        return parse(data, read, store.trust), tag
    except (CorruptError, UnsupportedError) as e:
        e.file = f"{store.name}/{POINTER}"
        raise


def dump(catalog: Catalog, signer: Signer | None = None) -> bytes:
    """The JSON of a catalog; `sealing.write_catalog` writes it and what it refers to.

    Args:
        catalog: of which layout 2 may have no more in the pointer than `sealing.sealed` leaves.
        signer: signs it; None: nobody does.
    """
    document: dict[str, object] = {
        "format": FORMAT,
        "layout": catalog.layout,
        "id": catalog.id,
        "latest": catalog.latest.version,
    }
    if catalog.layout == 1:
        document["versions"] = [_version_row(v) for v in catalog.versions]
    else:
        document |= _history_rows(catalog.history)
    document["dropped"] = [_dropped_row(d) for d in catalog.dropped]
    if catalog.run is not None:
        document["run"] = catalog.run._asdict()
    if catalog.rewind:
        document["rewind"] = catalog.rewind
    if signer is not None:
        document[_SIGNATURES] = signer.sign(_KIND, _compact(document))
    document["xxh3"] = _checksum(document)
    if catalog.layout == 1:
        return (json.dumps(document, indent=1) + "\n").encode()
    return to_lines(document)


def dump_page(history: History) -> bytes:
    """The JSON of a page with these versions and pages."""
    return to_lines({"format": _PAGE_FORMAT} | _history_rows(history))


def parse(data: bytes, read: ReadPage | None = None, trust: Trust | None = None) -> Catalog:
    """The catalog that `dump` wrote.

    Args:
        data: the JSON.
        read: reads a page; None where there are none.
        trust: who must have signed it; None: nobody must.

    Raises:
        CorruptError: this is no such JSON, or a damaged one.
        UntrustedError: nobody who is trusted signed it.
        UnsupportedError: its layout is of a later version.
    """
    try:
        document = fields.parsed(data)
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise CorruptError("not the pointer of a store")
        layout = document.get("layout")
        if type(layout) is not int or layout not in LAYOUTS:
            raise UnsupportedError(
                "unknown layout of the store", expected=" or ".join(map(str, LAYOUTS)), found=layout
            )
        stated = document.pop("xxh3", None)
        if stated != _checksum(document):
            raise CorruptError("pointer does not match its checksum", expected=stated)
        signatures = document.pop(_SIGNATURES, None)
        if trust is not None:
            trust.check(_KIND, _compact(document), signatures, POINTER)
        row = fields.Row(document)
        history = _history(row, layout, read)
        catalog = Catalog(
            row.get("id", fields.history),
            history,
            tuple(row.get("dropped", fields.listed(_dropped))),
            row.find("run", _run),
            layout,
            rewind=row.find("rewind", fields.count) or 0,
            is_signed=signatures is not None,
        )
        latest = row.get("latest", fields.version)
    except FieldError as e:
        if not e.path:
            raise CorruptError("not the pointer of a store") from None
        raise CorruptError(
            "pointer of the store is malformed", expected=e.text, found=e.found
        ) from None
    except RecursionError:
        raise CorruptError("not the pointer of a store") from None
    if not history.recent or latest != history.recent[-1].version:
        raise CorruptError("versions of the store are out of order")
    return catalog


def _read_page(store: Store, page: Page, read: ReadPage) -> History:
    """What is on a page of a store.

    Raises:
        CorruptError: it is missing or damaged, or is another than the row says.
    """
    try:
        document = fields.parsed(get_small(store, page.key, page.n_bytes, page.sha256))
        if not isinstance(document, dict) or document.get("format") != _PAGE_FORMAT:
            raise CorruptError("not a page of a store")
        history = _history(fields.Row(document), LAYOUTS[-1], read)
    except (FieldError, RecursionError) as e:
        expected = e.text if isinstance(e, FieldError) else None
        raise CorruptError(
            "page is malformed", file=f"{store.name}/{page.key}", expected=expected
        ) from None
    except CorruptError as e:
        e.file = f"{store.name}/{page.key}"
        raise
    numbers = [v.version for v in history.recent]
    inside = [(p.first, p.last) for p in history.pages] + [(n, n) for n in numbers]
    if (
        len(history) != page.n
        or any(p.depth >= page.depth for p in history.pages)
        or any(first < page.first or last > page.last for first, last in inside)
    ):
        raise CorruptError("page is another than the pointer says", file=f"{store.name}/{page.key}")
    return history


def _history(row: fields.Row, layout: int, read: ReadPage | None) -> History:
    """The versions in the pointer, or on a page."""
    pages = tuple(row.get("pages", fields.listed(_page))) if layout > 1 else ()
    versions = tuple(row.get("versions", fields.listed(_version)))
    edges = [edge for p in pages for edge in (p.first, p.last)] + [v.version for v in versions]
    in_order = all(p.n <= p.last - p.first + 1 for p in pages) and all(
        a < b for a, b in zip(edges[1:-1:2], edges[2::2], strict=False)
    )
    numbers = [v.version for v in versions]
    if not in_order or numbers != sorted(set(numbers)):
        raise CorruptError("versions of the store are out of order")
    if pages and versions and pages[-1].last >= numbers[0]:
        raise CorruptError("versions of the store are out of order")
    if len({v.name for v in versions}) != len(versions):
        raise CorruptError("two versions of the store share a name")
    return History(versions, pages, read)


def _history_rows(history: History) -> dict[str, object]:
    return {
        "pages": [p._asdict() for p in history.pages],
        "versions": [_version_row(v) for v in history.recent],
    }


def _version_row(version: Version) -> dict[str, object]:
    row = asdict(version) | {"shipped": to_text(version.shipped)}
    row["patches"] = [_without_nulls(asdict(p), "list_bytes") for p in version.patches]
    return _without_nulls(row, "left_out")


def _dropped_row(dropped: Dropped) -> dict[str, object]:
    row = dropped._asdict() | {"since": to_text(dropped.since)}
    return _without_nulls(row, "list_bytes", "sha256")


def _without_nulls(row: dict[str, object], *names: str) -> dict[str, object]:
    """A row without the optional fields that it has no value for: rows stay as they always were."""
    return {name: v for name, v in row.items() if v is not None or name not in names}


def _page(value: object) -> Page:
    row = fields.Row(value)
    return Page(
        row.get("first", fields.version),
        row.get("last", fields.version),
        row.get("depth", _depth),
        row.get("n", fields.version),
        row.get("patch_bytes", fields.count),
        row.get("target_bytes", fields.count),
        row.get("names", fields.pair(fields.file_name)),
        row.get("numbers", fields.optional(fields.pair(fields.count))),
        row.get("since_anchor", _since_anchor),
        row.get("key", stored_key),
        row.get("n_bytes", fields.count),
        row.get("sha256", fields.sha256),
    )


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
        row.get("key", stored_key),
        row.get("n_bytes", fields.count),
        row.get("sha256", fields.sha256),
        row.find("list_bytes", fields.count),
    )


def _since_anchor(value: object) -> tuple[int, int, int | None]:
    items = fields.listed(fields.optional(fields.count))(value)
    if len(items) != 3 or items[0] is None or items[1] is None:
        raise FieldError("two numbers, and a third one or null", value)
    return items[0], items[1], items[2]


def _depth(value: object) -> int:
    if fields.count(value) > _DEEPEST:
        raise FieldError(f"at most {_DEEPEST}", value)
    return fields.count(value)


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
    return Dropped(
        row.get("key", stored_key),
        row.get("since", _time),
        row.find("list_bytes", fields.count),
        row.find("sha256", fields.sha256),
    )


def _run(value: object) -> Run:
    row = fields.Row(value)
    return Run(
        row.get("id", fields.history),
        row.get("name", fields.any_text),
        row.get("host", fields.any_text),
        row.get("path", fields.any_text),
    )


def _checksum(document: dict[str, object]) -> str:
    return checksum(_compact(document))


def _compact(document: dict[str, object]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def stored_key(value: object) -> str:
    """The key of an object of a store, which is not the pointer."""
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
