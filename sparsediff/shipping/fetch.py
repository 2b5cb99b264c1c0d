"""Objects of a store into files: in parallel, resumable, believed by digest only.

Enters: what a catalog says of patches. Leaves: files that have the size and
the SHA-256 it states, synced before they get their names. What a killed run fetched is
kept and continued; whatever of it is wrong is fetched again, and the store is blamed only
for bytes that it has sent just now.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from sparsediff.checksum import digest, digest_rest, digester
from sparsediff.disk.outputs import check_room, create, sync, write_at
from sparsediff.disk.temps import discard
from sparsediff.errors import CorruptError, UnsupportedError, UsageError, os_errors
from sparsediff.parallel import Progress, ordered_map
from sparsediff.shipping.catalog import Part, StoredPatch
from sparsediff.shipping.parts import parse_list, parts_of, read_list
from sparsediff.stores import Store

CHUNK_BYTES = 1 << 23  # fetched, and noted as fetched, at a time
_MAX_NOTES = 1 << 24  # bytes that are read of the notes on one patch
_READ = 1 << 20


class BadObjectError(CorruptError):
    """An object of the store is missing, cut short or damaged.

    Attributes:
        key: of the patch that it belongs to, as the catalog has it.
    """

    def __init__(
        self,
        store: Store,
        key: str,
        problem: str,
        about: StoredPatch | None = None,
        **details: object,
    ) -> None:
        super().__init__(problem, file=f"{store.name}/{key}", **details)  # type: ignore[arg-type]
        self.key = key if about is None else about.key


def fetch(
    store: Store,
    patches: Sequence[StoredPatch],
    directory: Path,
    *,
    streams: int,
    n_more: int = 0,
    progress: Progress | None = None,
) -> tuple[list[Path], int]:
    """Fetch patches into ``directory``.

    Args:
        store: where from.
        patches: which; those of equal content come once.
        directory: exists, and belongs to the caller's lock.
        streams: how many requests run at once.
        n_more: bytes that will be written to the same disk once they are here.
        progress: told of bytes fetched.

    Returns:
        Path of each, and the bytes fetched by this call.

    Raises:
        BadObjectError: an object is not what the catalog says.
        UnavailableError: store or disk is full or out of reach; try again.
    """
    incoming = []
    for patch in {p.sha256: p for p in patches}.values():
        if not is_intact(whole(directory, patch.sha256), patch.sha256):
            parts = _parts(store, patch, directory)
            _check_sizes(store, patch, parts)
            incoming.append(_Incoming(directory, patch, parts))
    n_bytes = 0
    check_room(directory, sum(i.n_missing for i in incoming) + n_more)
    while incoming:
        n_bytes += _transfer(store, incoming, streams, progress)
        # What an earlier run left may not have reached the disk: once more, all of it.
        wrong = [i for i in incoming if not i.finish(store)]
        incoming = [_Incoming(directory, i.patch, i.parts) for i in wrong]
    with os_errors(directory):
        sync(directory)
    return [whole(directory, p.sha256) for p in patches], n_bytes


def whole(directory: Path, sha256: str) -> Path:
    """Where `fetch` puts a patch."""
    return directory / f"{sha256}.sdiff"


def list_beside(path: Path) -> Path:
    """Where `fetch` puts the list of the parts of a patch, if it has one."""
    return path.with_suffix(".parts")


def share_beside(path: Path) -> Path:
    """Where the SHA-256 of the beginning of a share of a patch is, which says that of the rest."""
    return path.with_suffix(".share")


def is_intact(path: Path, sha256: str, *, share: bool = False) -> bool:
    """Whether a fetched patch is there; what is there in its place is removed.

    A name proves nothing: after a power cut there may be zeros under it.

    Args:
        path: where it should be.
        sha256: of the patch.
        share: whether it should be the share of it that `share_beside` tells of.
    """
    if share:
        if _is_ours(path) and _is_ours(share_beside(path)) and _is_share(path):
            return True
    elif _is_ours(path):
        beside = list_beside(path)
        if _is_ours(beside) and digest_file(beside) == sha256:
            with os_errors(beside):
                parts = parse_list(beside.read_bytes())
            if parts is not None and _wrong(path, parts) is None:
                return True
        elif digest_file(path) == sha256:
            return True
    discard(path)
    return False


def _is_share(path: Path) -> bool:
    """Whether a file is the patch that the note beside it is about, and intact."""
    from sparsediff.patch.container import open_patch  # with NumPy, which most runs can do without

    with os_errors(path):
        noted = share_beside(path).read_bytes()
        try:
            with open_patch(path) as patch, open(path, "rb") as file:
                head = file.read(patch.n_bytes - sum(patch.sizes.values()))
                patch.check_payloads()
        except (CorruptError, UnsupportedError, UsageError):
            return False
    return digest(head).encode() == noted


def digest_object(store: Store, key: str, n_bytes: int, stream: BinaryIO | None = None) -> str:
    """SHA-256 of an object, read once; also copied to ``stream``.

    Raises:
        CorruptError: it is missing or shorter.
    """
    sha256 = digester()
    for offset in range(0, n_bytes, CHUNK_BYTES):
        data = store.read(key, offset, min(CHUNK_BYTES, n_bytes - offset))
        sha256.update(data)
        if stream is not None:
            stream.write(data)
    return sha256.hexdigest()


class _Incoming:
    """A patch on its way: a file of its full size, and notes on which chunks of it were written.

    Args:
        directory: where it lies.
        patch: which.
        parts: that it is made of.

    Attributes:
        patch: as given.
        parts: as given.
        path: of the file.
        n_missing: bytes that are still to be fetched.
    """

    def __init__(self, directory: Path, patch: StoredPatch, parts: Sequence[Part]) -> None:
        self.patch, self.parts = patch, parts
        self.path = directory / f"{patch.sha256}.part"
        self._notes = directory / f"{patch.sha256}.chunks"  # a line for each chunk: its offset
        self._whole = whole(directory, patch.sha256)
        self._had = self._earlier()
        if not self._had:
            for path in (self.path, self._notes):
                discard(path)
            create(self._notes, 0)
            create(self.path, patch.n_bytes)
        # Of what arrives, in order: of each part; nothing if some of it arrived earlier.
        self._arrived = {} if self._had else {i: digester() for i in range(len(parts))}
        self.n_missing = sum(chunk.n_bytes for chunk in self.missing())

    def _earlier(self) -> set[int]:
        """Offsets of the chunks that an earlier run noted."""
        with os_errors(self.path):
            if not (_is_ours(self.path) and _is_ours(self._notes)):
                return set()
            if self.path.stat().st_size != self.patch.n_bytes:
                return set()
            n_chunks = self.patch.n_bytes // CHUNK_BYTES + len(self.parts)
            if self._notes.stat().st_size > min(_MAX_NOTES, 20 * n_chunks):
                return set()
            # A line that a kill cut short ends in no newline, and is not believed.
            lines = self._notes.read_bytes().split(b"\n")[:-1]
        offsets = {int(line) for line in lines if line.isdigit() and len(line) < 20}
        return offsets if offsets <= {c.offset for c in _chunks(self.parts)} else set()

    def missing(self) -> Iterator[_Chunk]:
        """The chunks that are still to be fetched."""
        return (c for c in _chunks(self.parts) if c.offset not in self._had)

    def note(self, chunk: _Chunk, data: bytes) -> None:
        """Note that a chunk was written; called in order."""
        if self._arrived:
            self._arrived[chunk.part].update(data)
        with os_errors(self._notes), open(self._notes, "ab") as f:
            f.write(b"%d\n" % chunk.offset)

    def finish(self, store: Store) -> bool:
        """Give the file its name; False if what an earlier run left of it is wrong.

        Raises:
            BadObjectError: the store sent something else than the catalog says.
        """
        if self._arrived:
            found = [self._arrived[i].hexdigest() for i in range(len(self.parts))]
            differing = ((p, f) for p, f in zip(self.parts, found, strict=True) if p.sha256 != f)
            wrong = next(differing, None)
        else:
            wrong = _wrong(self.path, self.parts)
        with os_errors(self.path):
            discard(self._notes)
            if wrong is None:
                sync(self.path)
                os.replace(self.path, self._whole)
                return True
            discard(self.path)
        if not self._arrived:
            return False
        part, sha256 = wrong
        raise BadObjectError(
            store,
            part.key,
            "object does not match its SHA-256",
            about=self.patch,
            expected=part.sha256[:16],
            found=sha256[:16],
        )


class _Chunk(NamedTuple):
    """Bytes of a patch that are fetched at once: which part, and where in the patch and in that."""

    part: int
    offset: int
    within: int
    n_bytes: int


def _chunks(parts: Sequence[Part]) -> Iterator[_Chunk]:
    start = 0
    for i, part in enumerate(parts):
        for at in range(0, part.n_bytes, CHUNK_BYTES):
            yield _Chunk(i, start + at, at, min(CHUNK_BYTES, part.n_bytes - at))
        start += part.n_bytes


def _wrong(path: Path, parts: Sequence[Part]) -> tuple[Part, str] | None:
    """The first part that is not in its place in a file, and the SHA-256 of what is there."""
    with os_errors(path), open(path, "rb") as file:
        for part in parts:
            sha256, left = digester(), part.n_bytes
            while left and (data := file.read(min(left, _READ))):
                sha256.update(data)
                left -= len(data)
            if left or sha256.hexdigest() != part.sha256:
                return part, sha256.hexdigest()
        return (parts[-1], "more bytes") if parts and file.read(1) else None


def _transfer(
    store: Store, incoming: Sequence[_Incoming], streams: int, progress: Progress | None
) -> int:
    """Fetch what is missing of all patches; returns how many bytes that were."""
    total = sum(i.n_missing for i in incoming)
    done = 0
    if progress is not None and total:
        progress(0, total)

    def job(task: tuple[_Incoming, _Chunk]) -> tuple[_Incoming, _Chunk, bytes]:
        patch, chunk = task
        key = patch.parts[chunk.part].key
        try:
            data = store.read(key, chunk.within, chunk.n_bytes)
        except CorruptError as e:
            raise BadObjectError(store, key, e.problem, about=patch.patch) from None
        write_at(patch.path, chunk.offset, data)
        return patch, chunk, data

    # One at a time, however many a pointer claims there are.
    tasks = ((i, chunk) for i in incoming for chunk in i.missing())
    for patch, chunk, data in ordered_map(job, tasks, streams):
        patch.note(chunk, data)
        done += len(data)
        if progress is not None:
            progress(done, total)
    return done


def _parts(store: Store, patch: StoredPatch, directory: Path) -> Sequence[Part]:
    """What a patch is made of. A list of that is kept, for `is_intact`."""
    if patch.list_bytes is None:
        return parts_of(store, patch)
    try:
        parts, data = read_list(store, patch)
    except CorruptError as e:
        raise BadObjectError(store, patch.key, e.problem) from None
    path = list_beside(whole(directory, patch.sha256))
    discard(path)
    create(path, len(data))
    write_at(path, 0, data)
    return parts


def _check_sizes(store: Store, patch: StoredPatch, parts: Sequence[Part]) -> None:
    for part in parts:
        size = store.size(part.key)
        if size != part.n_bytes:
            problem = "object is missing" if size is None else "object has the wrong size"
            expected = f"{part.n_bytes} bytes"
            raise BadObjectError(store, part.key, problem, about=patch, expected=expected)


def digest_file(path: Path) -> str:
    """SHA-256 of a file."""
    with os_errors(path), open(path, "rb") as f:
        return digest_rest(f)


def _is_ours(path: Path) -> bool:
    """Whether it is a file that this module could have made: no link, and of one name only."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_nlink == 1
