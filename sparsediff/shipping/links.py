"""Whether what a patch starts from is what another patch led to.

Enters: patches in a store, or the beginnings of some in files; a checkpoint on disk.
Leaves: manifests, and what does not continue, in words. Reads of an object only its
beginning, never the payloads.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from sparsediff.apply.rebuild import check_target
from sparsediff.disk.inputs import walk
from sparsediff.errors import CorruptError, os_errors
from sparsediff.parallel import default_jobs, ordered_map
from sparsediff.patch.container import Patch
from sparsediff.patch.content import Content, of_base, of_target
from sparsediff.patch.manifest import Manifest
from sparsediff.shipping.catalog import StoredPatch, Version
from sparsediff.shipping.parts import parts_of, read_parts
from sparsediff.stores import Store

_REQUEST = 1 << 18  # bytes; most manifests fit


class Stream(io.RawIOBase):
    """Bytes read as far as they are asked for."""

    def __init__(self, read: Callable[[int, int], bytes], n_bytes: int) -> None:
        super().__init__()
        self._read, self._n_bytes, self._at = read, n_bytes, 0

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill ``buffer`` as far as there are bytes."""
        n = min(len(buffer), self._n_bytes - self._at)
        if n:
            buffer[:n] = self._read(self._at, n)
        self._at += n
        return n


def stored_manifest(store: Store, patch: StoredPatch) -> Manifest:
    """The manifest of a patch in a store.

    Raises:
        CorruptError: the object is missing, or no intact patch.
        UnavailableError: the store is out of reach.
    """
    with stored_patch(store, patch) as opened:
        return opened.manifest


@contextmanager
def stored_patch(store: Store, patch: StoredPatch) -> Iterator[Patch]:
    """A patch in a store, of which only what is asked for is read; see `stored_manifest`."""
    parts = parts_of(store, patch)
    stream = Stream(lambda at, n: read_parts(store, parts, at, n), patch.n_bytes)
    with io.BufferedReader(stream, _REQUEST) as buffered:
        yield Patch(buffered, patch.key)


def kept_manifest(path: Path) -> Manifest:
    """The manifest in a file that holds the beginning of a patch.

    Raises:
        SparsediffError: there is none.
    """
    with os_errors(path):
        data = path.read_bytes()
    # Not as a file: of a patch this is the beginning only, which a file would be asked for.
    stream = Stream(lambda at, n: data[at : at + n], len(data))
    with io.BufferedReader(stream, _REQUEST) as buffered:
        return Patch(buffered, str(path)).manifest


def check_is_target(place: Path, shipped: Manifest, seen: Content | None) -> None:
    """Check that a checkpoint is what a patch led to.

    Args:
        place: the checkpoint, which may have been altered.
        shipped: manifest of the patch.
        seen: what another patch, made just now, says of the checkpoint; where that
            settles it, nothing is read.

    Raises:
        CorruptError: it is not.
        SparsediffError: it cannot be read.
    """
    known = of_target(shipped)
    if seen is not None:
        differing = known.differs(seen)
        if differing is not None:
            raise CorruptError(
                "kept checkpoint is not what was shipped", file=_inside(place, differing)
            )
        if known.proves(seen):
            return
    with os_errors(place):
        found = [(n, p.stat().st_size) for n, p in walk(place)] if place.is_dir() else []
    if place.is_dir() and found != known.files:
        raise CorruptError("kept checkpoint is not what was shipped", file=place)
    for i, file in enumerate(shipped.target_files):
        path = _inside(place, file.name)
        try:
            check_target(shipped, i, path, partial(ordered_map, jobs=default_jobs()))
        except CorruptError as e:
            raise CorruptError("kept checkpoint is not what was shipped", file=path) from e


def _inside(place: Path, name: str) -> Path:
    return place / name if name else place


class Follower:
    """Follows the contents of versions from patch to patch, oldest version first.

    Attributes:
        unproven: keys of patches that continue as far as can be told without their payloads.
    """

    def __init__(self, versions: Iterable[Version]) -> None:
        self._last_use = {p.base: v.version for v in versions for p in v.patches}
        self._contents: dict[int, Content] = {}
        self._reachable: set[int | None] = {None}
        self.unproven: list[str] = []

    def follow(self, version: Version, found: dict[str, Manifest]) -> dict[str, str]:
        """Take in a version.

        Args:
            version: the next.
            found: manifests of its patches that are intact, by key.

        Returns:
            Keys of patches that do not lead from their base to this version, and why.
        """
        problems: dict[str, str] = {}
        intact = [p for p in version.patches if p.key in found]
        # What can be had from nothing says what the version is.
        for patch in sorted(intact, key=lambda p: p.base not in self._reachable):
            problem = self._problem(version.version, patch, found[patch.key])
            if problem is not None:
                problems[patch.key] = problem
            elif patch.base in self._reachable:
                self._reachable.add(version.version)
        done = [b for b in self._contents if self._last_use.get(b, 0) <= version.version]
        for base in done:
            del self._contents[base]
        return problems

    def _problem(self, version: int, patch: StoredPatch, manifest: Manifest) -> str | None:
        needed, led_to = of_base(manifest), of_target(manifest)
        if patch.base is None and needed.files:
            return "is a patch, not a whole version"
        before = None if patch.base is None else self._contents.get(patch.base)
        if before is not None:
            if before.differs(needed) is not None:
                return f"was not made from version {patch.base} as it was shipped"
            if not before.proves(needed):
                self.unproven.append(patch.key)
        known = self._contents.setdefault(version, led_to)
        if known.differs(led_to) is not None:
            return f"leads to something else than the other way to version {version}"
        return None
