"""The pointer of a store: which versions there are and which patches lead to them.

Enters: the JSON of ``latest.json``, or a store that holds it. Leaves: a
validated `Catalog`, and the cheapest way from one version to another
(store.md, "The pointer"). One object says everything, and it is replaced by
compare-and-swap alone, so a reader sees the store before a change or after it.
Versions are ordered by their number in the store, never by any clock.
"""

from __future__ import annotations

import heapq
import json
import re
from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from itertools import count

from sparsediff.checksum import checksum
from sparsediff.errors import CorruptError, UnsupportedError
from sparsediff.patch.measures import share
from sparsediff.shipping import fields
from sparsediff.shipping.fields import FieldError
from sparsediff.stores import Store

POINTER = "latest.json"
PREFIX = "versions/"
FORMAT = "sparsediff-store"
LAYOUT = 1


@dataclass(frozen=True, slots=True)
class StoredPatch:
    """A patch in the store.

    Attributes:
        base: version it starts from; None for an anchor, which starts from nothing.
        key: of the object.
        n_bytes: of the object.
        sha256: of the object, hex.
    """

    base: int | None
    key: str
    n_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Version:
    """One shipped checkpoint.

    Attributes:
        version: 1 and up, in the order of shipping.
        name: of the checkpoint at its source, made unique; a plain file name.
        number: in the checkpoint's name, None if it has none.
        source: fingerprint of the checkpoint's files when they were read.
        shipped: when, in seconds since the epoch, by the shipper's clock.
        n_bytes: of the checkpoint.
        n_elements: of its tensors, in words.
        n_changed: words that differ from the version before; None if that is not known.
        patches: ways to get here.
    """

    version: int
    name: str
    number: int | None
    source: str
    shipped: float
    n_bytes: int
    n_elements: int
    n_changed: int | None
    patches: tuple[StoredPatch, ...]

    @property
    def anchor(self) -> StoredPatch | None:
        """The patch from nothing, if this version has one."""
        return next((p for p in self.patches if p.base is None), None)

    @property
    def step(self) -> StoredPatch | None:
        """The patch from the version before, if there is one."""
        return next((p for p in self.patches if p.base == self.version - 1), None)

    @property
    def patch_bytes(self) -> int:
        """Size of the patch from the version before, or of the anchor where there is none."""
        patch = self.step or self.anchor
        return 0 if patch is None else patch.n_bytes

    @property
    def ratio(self) -> float | None:
        """Bytes of the checkpoint per byte of `patch_bytes`."""
        return share(self.n_bytes, self.patch_bytes)

    @property
    def density(self) -> float | None:
        """Changed words per word; None if that is not known."""
        return None if self.n_changed is None else share(self.n_changed, self.n_elements)


@dataclass(frozen=True, slots=True)
class Dropped:
    """An object that nothing refers to any more, to be deleted after a time of grace.

    Attributes:
        key: of the object.
        since: when it was dropped, in seconds since the epoch.
    """

    key: str
    since: float


@dataclass(frozen=True, slots=True)
class Run:
    """The run whose checkpoints a store holds.

    Attributes:
        id: random, made when the store was bound; who ships knows it.
        name: of the source, a directory or a file.
        host: digest of the name of the machine that it was on when the store was bound.
        path: digest of its place there.
    """

    id: str
    name: str
    host: str
    path: str


@dataclass(frozen=True, slots=True)
class Catalog:
    """Everything a store says of itself.

    Attributes:
        id: made when the store was; another id means another history.
        versions: the oldest first; never empty.
        dropped: objects on their way out.
        run: whose checkpoints these are; None in stores of earlier releases.
    """

    id: str
    versions: tuple[Version, ...]
    dropped: tuple[Dropped, ...] = ()
    run: Run | None = None

    @property
    def latest(self) -> Version:
        """The newest version."""
        return self.versions[-1]

    def get(self, version: int) -> Version | None:
        """The version with this number."""
        return next((v for v in self.versions if v.version == version), None)

    def find(self, wanted: str) -> Version | None:
        """The version a person means: its name, the number in its name, or its number."""
        for matches in (
            [v for v in self.versions if v.name == wanted],
            [v for v in self.versions if str(v.number) == wanted],
            [v for v in self.versions if str(v.version) == wanted],
        ):
            if matches:
                return matches[-1]
        return None

    def path(
        self, held: Collection[int], wanted: int, avoid: Collection[str] = ()
    ) -> tuple[int | None, list[StoredPatch]] | None:
        """The way to a version that takes the fewest bytes, then the fewest patches.

        Args:
            held: versions at hand.
            wanted: version to get to.
            avoid: keys of patches that cannot be used.

        Returns:
            The version to start from (None for nothing) and the patches in
            order; None if no way is left.
        """
        steps: dict[int | None, list[tuple[int, StoredPatch]]] = {}
        for version in self.versions:
            for patch in version.patches:
                if patch.key not in avoid:
                    steps.setdefault(patch.base, []).append((version.version, patch))
        # Ways to compare: bytes, patches, a tie breaker; then to where, and by which last patch.
        order = count()
        ways: list[tuple[int, int, int, int, int | None, StoredPatch | None]] = [
            (0, 0, -(start or 0), next(order), start, None) for start in (None, *held)
        ]
        heapq.heapify(ways)
        last: dict[int | None, StoredPatch | None] = {}  # on the cheapest way to a version
        while ways and wanted not in last:
            n_bytes, n, tie, _, here, by = heapq.heappop(ways)
            if here in last:
                continue
            last[here] = by
            for there, step in steps.get(here, []):
                if there not in last:
                    entry = (n_bytes + step.n_bytes, n + 1, tie, next(order), there, step)
                    heapq.heappush(ways, entry)
        if wanted not in last:
            return None
        way: list[StoredPatch] = []
        start: int | None = wanted
        while (by := last[start]) is not None:
            way.append(by)
            start = by.base
        return start, way[::-1]

    def reachable(self, avoid: Collection[str] = ()) -> set[int]:
        """Versions that can be had starting from nothing."""
        found: set[int | None] = {None}
        for version in self.versions:
            if any(p.base in found and p.key not in avoid for p in version.patches):
                found.add(version.version)
        return {v for v in found if v is not None}

    def keys(self) -> set[str]:
        """Keys of all objects that belong to the store, the pointer aside."""
        kept = {p.key for v in self.versions for p in v.patches}
        return kept | {d.key for d in self.dropped}

    def without(self, keys: Collection[str], since: float) -> Catalog:
        """The same without the objects of these keys; see `having`."""
        versions = tuple(
            replace(v, patches=tuple(p for p in v.patches if p.key not in keys))
            for v in self.versions
        )
        return self.having(versions, since)

    def having(self, versions: tuple[Version, ...], since: float) -> Catalog:
        """The same with fewer versions, or fewer patches of them.

        An object is dropped when the last patch that refers to it goes: two may share one.

        Args:
            versions: those that stay, with the patches that stay.
            since: now, in seconds since the epoch.
        """
        used = {p.key for v in versions for p in v.patches}
        gone = {p.key for v in self.versions for p in v.patches} - used
        known = tuple(d for d in self.dropped if d.key not in gone)
        dropped = known + tuple(Dropped(key, since) for key in sorted(gone))
        return replace(self, versions=versions, dropped=dropped)


def object_key(version: int, name: str, base: int | None, sha256: str) -> str:
    """Where a patch is stored; its digest is part of it, so no two contents share a key."""
    readable = re.sub(r"[^A-Za-z0-9._=+-]", "_", name)[:100]
    kind = "anchor" if base is None else f"from-{base:06}"
    return f"{PREFIX}{version:06}-{readable}/{kind}-{sha256[:16]}.sdiff"


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
