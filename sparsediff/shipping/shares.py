"""Shares of patches out of a store: of each object only what some files need, by ranges of bytes.

Enters: what a catalog says of patches, and which files are wanted. Leaves: for each patch a file
that is its share, a patch by itself; see `patch.narrow`. What is fetched of a patch is verified
by its manifest, which is fetched first, with its own checksum: the SHA-256 of an object tells
nothing of parts of it.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sparsediff.apply.chain import narrow
from sparsediff.checksum import digest
from sparsediff.disk.outputs import check_room, create, sync, write_at
from sparsediff.disk.selection import Selection
from sparsediff.disk.temps import discard
from sparsediff.errors import CorruptError, UsageError, WrongBaseError, os_errors
from sparsediff.parallel import Progress, ordered_map
from sparsediff.patch.container import Patch, pack
from sparsediff.shipping.catalog import Part, StoredPatch
from sparsediff.shipping.fetch import CHUNK_BYTES, BadObjectError, is_intact, share_beside, whole
from sparsediff.shipping.links import Stream
from sparsediff.shipping.parts import parts_of, read_parts
from sparsediff.stores import Store

_REQUEST = 1 << 16  # bytes, of which the first are kept until the share is written


@dataclass(frozen=True, slots=True)
class Planned:
    """The share of a patch.

    Attributes:
        patch: as the catalog has it.
        parts: objects that hold it.
        head: header and manifest of the share.
        places: offset in the patch, and bytes, of what follows.
        held: the first bytes of the patch, which came with its manifest.
    """

    patch: StoredPatch
    parts: Sequence[Part]
    head: bytes
    places: list[tuple[int, int]]
    held: bytes

    @property
    def n_bytes(self) -> int:
        """Bytes of its payloads."""
        return sum(n for _, n in self.places)

    @property
    def to_fetch(self) -> int:
        """Bytes that are still to be fetched of it."""
        return sum(self.missing(offset, n) for offset, n in self.places)

    def missing(self, offset: int, n_bytes: int) -> int:
        """How many of the ``n_bytes`` bytes from ``offset`` on are not here yet."""
        return min(n_bytes, max(0, offset + n_bytes - len(self.held)))

    def read(self, store: Store, offset: int, n_bytes: int) -> bytes:
        """Bytes of the patch."""
        here = self.held[offset : offset + n_bytes]
        left = n_bytes - len(here)
        return here + read_parts(store, self.parts, offset + len(here), left) if left else here

    def is_here(self, directory: Path) -> bool:
        """Whether `fetch_share` has put it into a directory; what is else there is removed."""
        path = whole(directory, self.patch.sha256)
        if not is_intact(path, self.patch.sha256, share=True):
            return False
        with os_errors(path):
            return share_beside(path).read_bytes() == digest(self.head).encode()


@dataclass(frozen=True, slots=True)
class Plan:
    """Shares of patches in a row.

    Attributes:
        shares: of each.
        n_read: bytes that were fetched to know them.
        target_bytes: of the wanted files of the last target.
    """

    shares: list[Planned]
    n_read: int
    target_bytes: int


def plan(store: Store, patches: Sequence[StoredPatch], chosen: Selection) -> Plan:
    """Which bytes of patches in a row the chosen files of the last target need.

    Args:
        store: that holds them.
        patches: each from the target of the one before.
        chosen: files of the last target.

    Raises:
        UsageError: no file is chosen, or the store must be signed: its signature covers
            whole objects.
        WrongBaseError: the first patch makes a chosen file from one that is not.
        BadObjectError: an object is missing or damaged.
        UnavailableError: the store is out of reach.
    """
    if store.trust is not None:
        raise UsageError(
            "what the store's signature covers are whole objects, not ranges of them; "
            "`trust` and `files` do not go together",
            file=store.name,
        )
    n_read = 0
    chain: list[Patch] = []
    parts: list[Sequence[Part]] = []
    held: list[bytes] = []
    for patch in patches:
        try:
            own = parts_of(store, patch)

            first = read_parts(store, own, 0, min(patch.n_bytes, _REQUEST))
            n_read += len(first)

            def read(offset: int, n: int, own: Sequence[Part] = own, first: bytes = first) -> bytes:
                nonlocal n_read
                if offset + n <= len(first):
                    return first[offset : offset + n]
                n_read += n
                return read_parts(store, own, offset, n)

            with io.BufferedReader(Stream(read, patch.n_bytes), _REQUEST) as stream:
                opened = Patch(stream, f"{store.name}/{patch.key}")
        except CorruptError as e:
            raise BadObjectError(store, patch.key, e.problem) from None
        if opened.n_bytes != patch.n_bytes:
            expected = f"{patch.n_bytes} bytes"
            raise BadObjectError(store, patch.key, "has the wrong size", expected=expected)
        chain.append(opened)
        parts.append(own)
        held.append(first)
    narrow(chain, chosen)
    if patches[0].base is not None:
        outside = [f.name for f in chain[0].manifest.base_files if not chosen.takes(f.name)]
        if outside:
            raise WrongBaseError(
                "files of the share are made from one that is not in it",
                file=chain[0].name,
                found=outside[0],
            )
    shares = [
        Planned(patch, own, pack(opened.manifest, opened.sizes), opened.places(), first)
        for patch, own, opened, first in zip(patches, parts, chain, held, strict=True)
    ]
    return Plan(shares, n_read, sum(f.size for f in chain[-1].manifest.target_files))


def fetch_share(
    store: Store,
    shares: Sequence[Planned],
    directory: Path,
    *,
    streams: int,
    n_more: int = 0,
    progress: Progress | None = None,
) -> tuple[list[Path], int]:
    """Fetch shares of patches into ``directory``; like `fetch.fetch`.

    A share that a killed run fetched whole is kept; one that it had begun is begun again.

    Raises:
        BadObjectError: what an object holds is not what its manifest says.
        UnavailableError: store or disk is full or out of reach; try again.
    """
    missing = [share for share in shares if not share.is_here(directory)]
    total, done = sum(share.to_fetch for share in missing), 0
    check_room(directory, sum(len(s.head) + s.n_bytes for s in missing) + n_more)
    if progress is not None and total:
        progress(0, total)
    for share in missing:
        path = whole(directory, share.patch.sha256)
        room = path.with_suffix(".part")
        for old in (room, path, share_beside(path)):
            discard(old)
        create(room, len(share.head) + share.n_bytes)
        write_at(room, 0, share.head)

        def job(chunk: tuple[int, int, int], share: Planned = share, room: Path = room) -> int:
            offset, at, n_bytes = chunk
            try:
                data = share.read(store, offset, n_bytes)
            except CorruptError as e:
                raise BadObjectError(store, share.patch.key, e.problem) from None
            write_at(room, at, data)
            return share.missing(offset, n_bytes)

        for n in ordered_map(job, _chunks(share), streams):
            done += n
            if progress is not None and total:
                progress(done, total)
        note = share_beside(path)
        noted = digest(share.head).encode()
        create(note, len(noted))
        write_at(note, 0, noted)
        with os_errors(path):
            sync(note)
            sync(room)
            os.replace(room, path)
        if not share.is_here(directory):
            raise BadObjectError(store, share.patch.key, "payloads do not match their SHA-256")
    with os_errors(directory):
        sync(directory)
    return [whole(directory, share.patch.sha256) for share in shares], done


def _chunks(share: Planned) -> list[tuple[int, int, int]]:
    """What is fetched at once: offset in the patch, offset in the share, and bytes."""
    runs: list[tuple[int, int]] = []  # begin and end in the patch
    for offset, n_bytes in share.places:
        if runs and runs[-1][1] == offset:
            runs[-1] = runs[-1][0], offset + n_bytes
        else:
            runs.append((offset, offset + n_bytes))
    found, at = [], len(share.head)
    for begin, end in runs:
        for offset in range(begin, end, CHUNK_BYTES):
            n_bytes = min(CHUNK_BYTES, end - offset)
            found.append((offset, at, n_bytes))
            at += n_bytes
    return found
