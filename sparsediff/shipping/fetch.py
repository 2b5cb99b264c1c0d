"""Objects of a store into files: in parallel, resumable, believed by digest only.

Enters: what a catalog says of patches. Leaves: files that have the size and
the SHA-256 it states, synced before they get their names. What a killed run fetched is
kept and continued; whatever of it is wrong is fetched again, and the store is blamed only
for bytes that it has sent just now.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from sparsediff.disk.outputs import create, sync, write_at
from sparsediff.disk.temps import discard
from sparsediff.errors import CorruptError, os_errors
from sparsediff.parallel import Progress, ordered_map
from sparsediff.shipping.catalog import StoredPatch
from sparsediff.stores import Store

CHUNK_BYTES = 1 << 23  # fetched, and noted as fetched, at a time
_MAX_NOTES = 1 << 24  # bytes that are read of the notes on one patch


class BadObjectError(CorruptError):
    """An object of the store is missing, cut short or damaged.

    Attributes:
        key: of the object.
    """

    def __init__(self, store: Store, key: str, problem: str, **details: object) -> None:
        super().__init__(problem, file=f"{store.name}/{key}", **details)  # type: ignore[arg-type]
        self.key = key


def fetch(
    store: Store,
    patches: Sequence[StoredPatch],
    directory: Path,
    *,
    streams: int,
    progress: Progress | None = None,
) -> tuple[list[Path], int]:
    """Fetch patches into ``directory``.

    Args:
        store: where from.
        patches: which; those of equal content come once.
        directory: exists, and belongs to the caller's lock.
        streams: how many requests run at once.
        progress: told of bytes fetched.

    Returns:
        Path of each, and the bytes fetched by this call.

    Raises:
        BadObjectError: an object is not what the catalog says.
        UnavailableError: store or disk is full or out of reach; try again.
    """
    parts = []
    for patch in {p.sha256: p for p in patches}.values():
        if not is_intact(whole(directory, patch.sha256), patch.sha256):
            _check_size(store, patch)
            parts.append(_Part(directory, patch))
    n_bytes = 0
    while parts:
        n_bytes += _transfer(store, parts, streams, progress)
        wrong = [part for part in parts if not part.finish(store)]
        # What an earlier run left may not have reached the disk: once more, all of it.
        parts = [_Part(directory, part.patch) for part in wrong]
    with os_errors(directory):
        sync(directory)
    return [whole(directory, p.sha256) for p in patches], n_bytes


def whole(directory: Path, sha256: str) -> Path:
    """Where `fetch` puts a patch."""
    return directory / f"{sha256}.sdiff"


def is_intact(path: Path, sha256: str) -> bool:
    """Whether a fetched patch is there; what is there in its place is removed.

    A name proves nothing: after a power cut there may be zeros under it.
    """
    if _is_ours(path) and digest_file(path) == sha256:
        return True
    discard(path)
    return False


def digest_object(store: Store, key: str, n_bytes: int, stream: BinaryIO | None = None) -> str:
    """SHA-256 of an object, read once; also copied to ``stream``.

    Raises:
        CorruptError: it is missing or shorter.
    """
    sha256 = hashlib.sha256()
    for offset in range(0, n_bytes, CHUNK_BYTES):
        data = store.read(key, offset, min(CHUNK_BYTES, n_bytes - offset))
        sha256.update(data)
        if stream is not None:
            stream.write(data)
    return sha256.hexdigest()


class _Part:
    """A patch on its way: a file of its full size, and notes on which chunks of it were written.

    Args:
        directory: where it lies.
        patch: which.

    Attributes:
        patch: as given.
        path: of the file.
        n_missing: bytes that are still to be fetched.
    """

    def __init__(self, directory: Path, patch: StoredPatch) -> None:
        self.patch = patch
        self.path = directory / f"{patch.sha256}.part"
        self._notes = directory / f"{patch.sha256}.chunks"  # a line for each chunk: its offset
        self._whole = whole(directory, patch.sha256)
        self._had = self._earlier()
        if not self._had:
            for path in (self.path, self._notes):
                discard(path)
            create(self._notes, 0)
            create(self.path, patch.n_bytes)
        # Of what arrives, in order; None if some of it arrived earlier.
        self._arrived = None if self._had else hashlib.sha256()
        self.n_missing = patch.n_bytes - sum(map(self.length, self._had))

    def _earlier(self) -> set[int]:
        """Offsets of the chunks that an earlier run noted."""
        n_chunks = -(-self.patch.n_bytes // CHUNK_BYTES)
        with os_errors(self.path):
            if not (_is_ours(self.path) and _is_ours(self._notes)):
                return set()
            if self.path.stat().st_size != self.patch.n_bytes:
                return set()
            if self._notes.stat().st_size > min(_MAX_NOTES, 20 * n_chunks):
                return set()
            # A line that a kill cut short ends in no newline, and is not believed.
            lines = self._notes.read_bytes().split(b"\n")[:-1]
        offsets = {int(line) for line in lines if line.isdigit() and len(line) < 20}
        return {o for o in offsets if o < self.patch.n_bytes and o % CHUNK_BYTES == 0}

    def missing(self) -> Iterator[int]:
        """Offsets of the chunks that are still to be fetched."""
        return (o for o in range(0, self.patch.n_bytes, CHUNK_BYTES) if o not in self._had)

    def length(self, offset: int) -> int:
        """Bytes of the chunk at ``offset``."""
        return min(CHUNK_BYTES, self.patch.n_bytes - offset)

    def note(self, offset: int, data: bytes) -> None:
        """Note that a chunk was written; called in order."""
        if self._arrived is not None:
            self._arrived.update(data)
        with os_errors(self._notes), open(self._notes, "ab") as f:
            f.write(b"%d\n" % offset)

    def finish(self, store: Store) -> bool:
        """Give the file its name; False if what an earlier run left of it is wrong.

        Raises:
            BadObjectError: the store sent something else than the catalog says.
        """
        found = digest_file(self.path) if self._arrived is None else self._arrived.hexdigest()
        with os_errors(self.path):
            discard(self._notes)
            if found == self.patch.sha256:
                sync(self.path)
                os.replace(self.path, self._whole)
                return True
            discard(self.path)
        if self._arrived is None:
            return False
        raise BadObjectError(
            store,
            self.patch.key,
            "object does not match its SHA-256",
            expected=self.patch.sha256[:16],
            found=found[:16],
        )


def _transfer(store: Store, parts: Sequence[_Part], streams: int, progress: Progress | None) -> int:
    """Fetch what is missing of all parts; returns how many bytes that were."""
    total = sum(part.n_missing for part in parts)
    done = 0
    if progress is not None and total:
        progress(0, total)

    def job(task: tuple[_Part, int]) -> tuple[_Part, int, bytes]:
        part, offset = task
        try:
            data = store.read(part.patch.key, offset, part.length(offset))
        except CorruptError as e:
            raise BadObjectError(store, part.patch.key, e.problem) from None
        write_at(part.path, offset, data)
        return part, offset, data

    # One at a time, however many a pointer claims there are.
    tasks = ((part, offset) for part in parts for offset in part.missing())
    for part, offset, data in ordered_map(job, tasks, streams):
        part.note(offset, data)
        done += len(data)
        if progress is not None:
            progress(done, total)
    return done


def _check_size(store: Store, patch: StoredPatch) -> None:
    size = store.size(patch.key)
    if size != patch.n_bytes:
        problem = "object is missing" if size is None else "object has the wrong size"
        raise BadObjectError(store, patch.key, problem, expected=f"{patch.n_bytes} bytes")


def digest_file(path: Path) -> str:
    """SHA-256 of a file."""
    with os_errors(path), open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _is_ours(path: Path) -> bool:
    """Whether it is a file that this module could have made: no link, and of one name only."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_nlink == 1
