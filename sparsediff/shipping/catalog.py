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
from typing import Any

from sparsediff.checksum import checksum
from sparsediff.disk.names import check_relative_name
from sparsediff.errors import CorruptError, UnsupportedError
from sparsediff.patch.measures import share
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
class Catalog:
    """Everything a store says of itself.

    Attributes:
        id: made when the store was; another id means another history.
        versions: the oldest first; never empty.
        dropped: objects on their way out.
    """

    id: str
    versions: tuple[Version, ...]
    dropped: tuple[Dropped, ...] = ()

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
        # Ways to compare: bytes, patches, a tie breaker; then where from, where to, how.
        open_ways: list[tuple[int, int, int, int | None, int | None, list[StoredPatch]]] = [
            (0, 0, -(start or 0), start, start, []) for start in (None, *held)
        ]
        heapq.heapify(open_ways)
        done: set[int | None] = set()
        while open_ways:
            n_bytes, n, tie, start, here, way = heapq.heappop(open_ways)
            if here == wanted:
                return start, way
            if here in done:
                continue
            done.add(here)
            for there, patch in steps.get(here, []):
                if there not in done:
                    entry = (n_bytes + patch.n_bytes, n + 1, tie, start, there, [*way, patch])
                    heapq.heappush(open_ways, entry)
        return None

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
        """The same without some patches, which are dropped."""
        versions = tuple(
            replace(v, patches=tuple(p for p in v.patches if p.key not in keys))
            for v in self.versions
        )
        dropped = tuple(Dropped(key, since) for key in sorted(keys))
        return replace(self, versions=versions, dropped=self.dropped + dropped)


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
    document: dict[str, Any] = {
        "format": FORMAT,
        "layout": LAYOUT,
        "id": catalog.id,
        "latest": catalog.latest.version,
        "versions": versions,
        "dropped": [{"key": d.key, "since": to_text(d.since)} for d in catalog.dropped],
    }
    document["xxh3"] = _checksum(document)
    return (json.dumps(document, indent=1) + "\n").encode()


def parse(data: bytes) -> Catalog:
    """The catalog that `dump` wrote.

    Raises:
        CorruptError: this is no such JSON, or a damaged one.
        UnsupportedError: its layout is of a later version.
    """
    try:
        document = json.loads(data)
        if document["format"] != FORMAT:
            raise CorruptError("not the pointer of a store")
        if document["layout"] != LAYOUT:
            raise UnsupportedError(
                "unknown layout of the store", expected=LAYOUT, found=document["layout"]
            )
        stated = document.pop("xxh3")
        if stated != _checksum(document):
            raise CorruptError("pointer does not match its checksum", expected=stated)
        versions = tuple(_version(row) for row in document["versions"])
        dropped = tuple(
            Dropped(_key(row["key"]), from_text(row["since"])) for row in document["dropped"]
        )
        catalog = Catalog(_matching(document["id"], "[0-9a-f]{32}"), versions, dropped)
        numbers = [v.version for v in versions]
        if not numbers or numbers != sorted(set(numbers)) or document["latest"] != numbers[-1]:
            raise CorruptError("versions of the store are out of order")
        if len({v.name for v in versions}) != len(versions):
            raise CorruptError("two versions of the store share a name")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        raise CorruptError("not the pointer of a store") from None
    return catalog


def _version(row: dict[str, Any]) -> Version:
    name = check_relative_name(_matching(row["name"], "[^/]+"))
    patches = tuple(
        StoredPatch(
            None if p["base"] is None else _count(p["base"]),
            _key(p["key"]),
            _count(p["n_bytes"]),
            _matching(p["sha256"], "[0-9a-f]{64}"),
        )
        for p in row["patches"]
    )
    version = _count(row["version"])
    if any(p.base is not None and p.base >= version for p in patches):
        raise CorruptError("patch of the store leads backwards", found=f"version {version}")
    return Version(
        version,
        name,
        None if row["number"] is None else _count(row["number"]),
        _matching(row["source"], ".*"),
        from_text(row["shipped"]),
        _count(row["n_bytes"]),
        _count(row["n_elements"]),
        None if row["n_changed"] is None else _count(row["n_changed"]),
        patches,
    )


def _checksum(document: dict[str, Any]) -> str:
    return checksum(json.dumps(document, separators=(",", ":")).encode())


def _matching(value: object, pattern: str) -> str:
    if not isinstance(value, str) or not re.fullmatch(pattern, value, re.DOTALL):
        raise ValueError
    return value


def _key(value: object) -> str:
    return check_relative_name(_matching(value, re.escape(PREFIX) + ".+"))


def _count(value: object) -> int:
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise ValueError
    return value


def to_text(seconds: float) -> str:
    """A time as text, UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def from_text(text: str) -> float:
    """The time that `to_text` wrote, in seconds since the epoch."""
    return datetime.fromisoformat(text).timestamp()
