"""Objects of a store into files: in parallel, resumable, believed by digest only.

Enters: what a catalog says of patches. Leaves: files that have the size and
the SHA-256 it states. What a killed run fetched is kept and continued.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from sparsediff.disk.outputs import create, write_at
from sparsediff.errors import CorruptError, os_errors
from sparsediff.parallel import Progress, ordered_map
from sparsediff.shipping.catalog import StoredPatch
from sparsediff.stores import Store

CHUNK_BYTES = 1 << 23  # fetched, and noted as fetched, at a time


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
        patches: which; none twice.
        directory: exists, and belongs to the caller's lock.
        streams: how many requests run at once.
        progress: told of bytes fetched.

    Returns:
        Path of each, and the bytes fetched by this call.

    Raises:
        BadObjectError: an object is not what the catalog says.
        UnavailableError: store or disk is full or out of reach; try again.
    """
    paths = [_whole(directory, p) for p in patches]
    missing = [p for p, path in zip(patches, paths, strict=True) if not path.exists()]
    tasks = [(patch, offset) for patch in missing for offset in _start(store, patch, directory)]
    total = sum(_length(p, offset) for p, offset in tasks)
    done = 0
    if progress is not None and tasks:
        progress(0, total)

    def job(task: tuple[StoredPatch, int]) -> tuple[StoredPatch, int]:
        patch, offset = task
        try:
            data = store.read(patch.key, offset, _length(patch, offset))
        except CorruptError as e:
            raise BadObjectError(store, patch.key, e.problem) from None
        write_at(_part(directory, patch), offset, data)
        return task

    for patch, offset in ordered_map(job, tasks, streams):
        _note(directory, patch, offset)
        done += _length(patch, offset)
        if progress is not None:
            progress(done, total)
    fresh = {p for p in missing if (p, 0) in tasks}
    for patch in missing:
        try:
            _finish(store, patch, directory)
        except BadObjectError:
            if patch in fresh:
                raise
            # What an earlier run fetched may not have reached the disk: once more, all of it.
            total += fetch(store, [patch], directory, streams=streams, progress=progress)[1]
    return paths, total


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


def _whole(directory: Path, patch: StoredPatch) -> Path:
    return directory / f"{patch.sha256}.sdiff"


def _part(directory: Path, patch: StoredPatch) -> Path:
    return directory / f"{patch.sha256}.part"


def _notes(directory: Path, patch: StoredPatch) -> Path:
    """A line per chunk that was written: its offset."""
    return directory / f"{patch.sha256}.chunks"


def _length(patch: StoredPatch, offset: int) -> int:
    return min(CHUNK_BYTES, patch.n_bytes - offset)


def _start(store: Store, patch: StoredPatch, directory: Path) -> list[int]:
    """Offsets of the chunks that are still to be fetched."""
    size = store.size(patch.key)
    if size != patch.n_bytes:
        problem = "object is missing" if size is None else "object has the wrong size"
        raise BadObjectError(store, patch.key, problem, expected=f"{patch.n_bytes} bytes")
    part, notes = _part(directory, patch), _notes(directory, patch)
    with os_errors(part):
        if not part.exists() or not notes.exists():
            part.unlink(missing_ok=True)
            notes.write_bytes(b"")
            create(part, patch.n_bytes)
        # A line that a kill cut short ends in no newline, and is not believed.
        had = {line for line in notes.read_text().splitlines(keepends=True) if line.endswith("\n")}
    return [o for o in range(0, patch.n_bytes, CHUNK_BYTES) if f"{o}\n" not in had]


def _note(directory: Path, patch: StoredPatch, offset: int) -> None:
    path = _notes(directory, patch)
    with os_errors(path), open(path, "a") as f:
        f.write(f"{offset}\n")


def _finish(store: Store, patch: StoredPatch, directory: Path) -> None:
    """Check the whole and give it its name, or remove it."""
    part = _part(directory, patch)
    with os_errors(part):
        with open(part, "rb") as f:
            found = hashlib.file_digest(f, "sha256").hexdigest()
        _notes(directory, patch).unlink()
        if found == patch.sha256:
            os.replace(part, _whole(directory, patch))
        else:
            part.unlink()
    if found != patch.sha256:
        raise BadObjectError(
            store,
            patch.key,
            "object does not match its SHA-256",
            expected=patch.sha256[:16],
            found=found[:16],
        )
