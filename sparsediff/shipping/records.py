"""What a store says of its versions, as records.

Enters: what was read of a store, or was just shipped. Leaves: versions, patches, parts of
patches, objects on their way out, and the keys of objects. Knows nothing of how it is stored.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from sparsediff.patch.measures import share

PREFIX = "versions/"
PATCH, LIST = ".sdiff", ".parts.json"  # how keys end: of a patch, of a list of its parts


@dataclass(frozen=True, slots=True)
class StoredPatch:
    """A patch in the store: one object, or several with a list of them.

    Attributes:
        base: version it starts from; None for an anchor, which starts from nothing.
        key: of the object, or of the list of its parts.
        n_bytes: of the patch.
        sha256: of the object under ``key``, hex. Two patches with the same are the same.
        list_bytes: of the list of its parts; None if it is one object.
    """

    base: int | None
    key: str
    n_bytes: int
    sha256: str
    list_bytes: int | None = None

    @property
    def stated(self) -> tuple[int, str, int | None]:
        """What is said of the object: the same wherever it is named."""
        return self.n_bytes, self.sha256, self.list_bytes


class Part(NamedTuple):
    """An object that holds a piece of a patch, or all of it.

    Attributes:
        key: of the object.
        n_bytes: of it.
        sha256: of it, hex.
    """

    key: str
    n_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What of a checkpoint was not shipped: who pulls it has a part of what the trainer wrote.

    Attributes:
        include: patterns of the files that were asked for; empty for all.
        exclude: patterns of those that were not.
        n_files: how many files were left out.
        n_bytes: of these files.
    """

    include: tuple[str, ...]
    exclude: tuple[str, ...]
    n_files: int
    n_bytes: int


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
        left_out: what of the checkpoint was not shipped, where that was asked for; else None.
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
    left_out: LeftOut | None = None

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


class Dropped(NamedTuple):
    """An object that nothing refers to any more, to be deleted after a time of grace.

    Attributes:
        key: of the object, or of a list of the keys of such objects.
        since: when it was dropped, in seconds since the epoch.
        list_bytes: of the list; None if it is an object by itself.
        sha256: of the list.
    """

    key: str
    since: float
    list_bytes: int | None = None
    sha256: str | None = None


class Run(NamedTuple):
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


def object_key(version: int, name: str, base: int | None, sha256: str, suffix: str = PATCH) -> str:
    """Where a patch is stored; its digest is part of it, so no two contents share a key.

    Args:
        version: that it leads to.
        name: of that version.
        base: that it leads from; None for an anchor.
        sha256: of the object.
        suffix: `PATCH`, or `LIST` for the list of its parts.
    """
    readable = re.sub(r"[^A-Za-z0-9._=+-]", "_", name)[:100]
    kind = "anchor" if base is None else f"from-{base:06}"
    return f"{PREFIX}{version:06}-{readable}/{kind}-{sha256[:16]}{suffix}"


def part_prefix(version: int) -> str:
    """What the keys of all parts of a version's patches start with: no others share them."""
    return f"{PREFIX}{version:06}-parts/"


def part_key(version: int, sha256: str) -> str:
    """Where a part of a patch is stored."""
    return f"{part_prefix(version)}{sha256[:32]}"
