"""Rebuilding a target's words and skeletons from its base and a patch, or several in a row.

Enters: open patches, the base's files. Leaves: target bytes, handed to a
writer piece by piece, while they are in the cache; of several patches those of
the last target, bucket by bucket, with nothing written in between. Shared by
`apply`, which writes them, and `verify`, which does not. Only when `run` returns
are the base words and every patch's result verified: until then nothing may be
published.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from sparsediff import checksum, kernels
from sparsediff.apply.base import Base
from sparsediff.checksum import PartChecksums, Verified
from sparsediff.codec import bucket as codec
from sparsediff.codec.zstd import decompress
from sparsediff.disk.inputs import InputFile, OpenFiles
from sparsediff.disk.outputs import write_all
from sparsediff.errors import CorruptError
from sparsediff.parallel import Budget
from sparsediff.patch import words
from sparsediff.patch.container import Patch, StoredPayload
from sparsediff.patch.manifest import Manifest
from sparsediff.patch.words import Run

PAID_BYTES = 32  # that a byte of payload may unfold to without waiting
UNFOLDED_BYTES = 192 << 20
_unfolded = Budget(UNFOLDED_BYTES)  # what else payloads may unfold to, on all threads together


class Task(NamedTuple):
    """One skeleton (``bucket`` is None) or bucket of target file ``file``.

    ``payloads`` holds what each patch of the group stores of it, None where that is nothing.
    """

    file: int
    bucket: int | None
    payloads: list[StoredPayload | None]

    def stored_bytes(self) -> int:
        """How many bytes `payloads` are."""
        return sum(p.n_bytes for p in self.payloads if p is not None)

    def verified(self) -> list[Verified | None]:
        """What `payloads` hold.

        Raises:
            CorruptError: one does not have its SHA-256.
        """
        return [None if stored is None else stored.verified() for stored in self.payloads]


def tasks(group: Sequence[Patch]) -> Iterator[Task]:
    """Everything there is to rebuild, in stored order; reads the patches as it goes.

    Payloads are as they were read: `run` verifies them, after the base, so that damage and a
    wrong base together are always reported as the wrong base.

    Args:
        group: a patch, or several of which each has the words of the one before as its base,
            bucket by bucket and skeleton by skeleton.

    Raises:
        CorruptError: a patch is damaged.
    """
    manifests = [patch.manifest for patch in group]
    streams = [patch.stored() for patch in group]

    def read(digests: Iterable[str | None]) -> list[StoredPayload | None]:
        return [None if d is None else next(s) for d, s in zip(digests, streams, strict=True)]

    for i, buckets in enumerate(manifests[0].file_buckets):
        yield Task(i, None, read(m.target_files[i].skeleton_digest for m in manifests))
        for b in buckets:
            yield Task(i, b, read(m.buckets[b].digest for m in manifests))
    for patch, stream in zip(group, streams, strict=True):
        for payload in stream:  # also checks that the patch ends here
            raise CorruptError("payload belongs to nothing", file=patch.name, found=payload.name)


Target = Callable[[int], AbstractContextManager[int]]
"""Descriptor to write a target file with, by its index; a negative one to write nothing."""

NOWHERE: AbstractContextManager[int] = nullcontext(-1)


def run(group: Sequence[Patch], base: Base, task: Task, target: Target) -> int:
    """Rebuild one skeleton or bucket; returns its size in bytes.

    Args:
        group: as given to `tasks`.
        base: the first patch's base.
        task: one of `tasks`.
        target: where the bytes of the last patch's target are written.

    Raises:
        WrongBaseError: the base is not the first patch's; names the tensor.
        CorruptError: a payload does not decode to what its patch promises.
    """
    with target(task.file) as fd:
        if task.bucket is None:
            return _run_skeleton(group, base, task, fd)
        manifest = group[-1].manifest
        with _blamed(group, base, task.bucket):
            payloads = task.verified()
            if not _at_once(group, base, task.bucket, payloads, fd):
                with closing(_runs(group, base, task.bucket, payloads)) as runs:
                    for found in runs:
                        for offset, new in words.target_places(manifest, found):
                            _write(fd, offset, new)
        return words.n_bytes(manifest, task.bucket)


def _write(fd: int, offset: int, data: Any) -> None:
    if fd >= 0:
        write_all(fd, offset, data)


@contextmanager
def _blamed(group: Sequence[Patch], base: Base, bucket: int) -> Iterator[None]:
    """Of words that do not become the target's, find out whether the base is at fault."""
    try:
        yield
    except CorruptError:
        if group[0].manifest.buckets[bucket].base is not None:
            base.check(bucket)
        raise


def _at_once(
    group: Sequence[Patch], base: Base, bucket: int, payloads: Sequence[Verified | None], fd: int
) -> bool:
    """Rebuild a bucket of one patch by one native call.

    Returns:
        False if there is none for such a bucket, or if it came to nothing.
    """
    (patch, *later), (payload, *_) = group, payloads
    manifest = patch.manifest
    record, parts = manifest.buckets[bucket], manifest.parts[bucket]
    if later or record.base is None or len(parts) > words.MAX_RUN_PARTS:
        return False
    if payload is not None and codec.is_dense(payload):
        return False
    dtype = words.bucket_dtype(manifest, bucket)
    target = words.target_source(
        manifest, 0, words.NOTHING.read, lambda _, offset, __: (fd, offset)
    )
    places = words.extents(manifest, bucket, target)
    ends = list(accumulate(parts.sizes))
    with OpenFiles() as files, _named(patch, f"bucket.{bucket}"):
        source = words.extents(manifest, bucket, base.source(files))
        if source is None or places is None:
            return False
        decoder = patcher = None
        if payload is not None:
            decoder = codec.Decoder(payload, record.n_words, dtype, has_base=True)
            patcher = decoder.patcher
        found = kernels.rebuild(source, places, ends, words.piece_words(dtype), dtype, patcher)
        if found is None:
            return False
        words.check_base(manifest, bucket, found[0], base.path)
        if decoder is not None:
            decoder.finish()
        check_words(manifest, bucket, found[1][0], None)
    return True


def rebuilt(
    group: Sequence[Patch], base: Base, bucket: int, task: Task
) -> Generator[Run, None, None]:
    """Words of the last patch's target, a run at a time, of a task that is a bucket; see `run`.

    Only after the last it is known whether they are. Whoever ends before that closes this, or
    memory that others wait for stays taken.
    """
    with _blamed(group, base, bucket):
        yield from _runs(group, base, bucket, task.verified())


def _runs(
    group: Sequence[Patch], base: Base, bucket: int, payloads: Sequence[Verified | None]
) -> Generator[Run, None, None]:
    manifest = group[-1].manifest
    has_base = group[0].manifest.buckets[bucket].base is not None
    size = words.n_bytes(manifest, bucket)
    needed = size if any(codec.is_dense(p) for p in payloads if p is not None) else 0
    if len(group) > 1:
        needed += size  # of what is held between the patches
    with _room_for(needed, payloads), OpenFiles() as files:
        source = base.source(files) if has_base else words.NOTHING
        room = words.room(manifest, bucket, 1) if len(group) > 1 else None
        runs = words.runs(manifest, bucket, [source], into=room)
        if has_base:
            runs = _checked(group[0], base, bucket, runs)
        for patch, payload in zip(group, payloads, strict=True):
            if payload is not None:
                runs = _patched(patch, bucket, payload, runs)
            if patch is not group[-1]:
                runs = iter(list(runs))  # what is decoded is held for one patch at a time
        yield from runs


def _room_for(n_bytes: int, payloads: Sequence[Verified | None]) -> AbstractContextManager[None]:
    """Hold memory for ``n_bytes``, less those that the payloads pay for."""
    paid = PAID_BYTES * sum(len(p) for p in payloads if p is not None)
    return _unfolded.hold(max(n_bytes - paid, 0))


@contextmanager
def _named(patch: Patch, payload: str) -> Iterator[None]:
    """Let errors say which payload of which patch they are about."""
    try:
        yield
    except CorruptError as e:
        if e.file is None:
            e.file = f"{patch.name}, {payload}"
        raise


def _checked(patch: Patch, base: Base, bucket: int, runs: Iterator[Run]) -> Iterator[Run]:
    """Base words of a bucket as they pass by; after the last it is known whether they are right."""
    sums = PartChecksums()
    for found in runs:
        words.add_checksums(sums, found, found.words[0])
        yield found
    words.check_base(patch.manifest, bucket, sums.sums(), base.path)


def _patched(patch: Patch, bucket: int, payload: Verified, runs: Iterator[Run]) -> Iterator[Run]:
    """Words of a bucket turned, in place, into those of the patch's target, as they pass by.

    After the last it is known whether they are.
    """
    manifest = patch.manifest
    record = manifest.buckets[bucket]
    dtype = words.bucket_dtype(manifest, bucket)
    sums = PartChecksums()
    with _named(patch, f"bucket.{bucket}"):
        decoder = codec.Decoder(payload, record.n_words, dtype, has_base=record.base is not None)
        for found in runs:
            (new,) = found.words
            decoder.feed(new)
            words.add_checksums(sums, found, new)
            yield found
        decoder.finish()
        check_words(manifest, bucket, sums.sums()[0], None)


def check_words(manifest: Manifest, bucket: int, found: str, path: object) -> None:
    """Compare the checksum of a bucket's words with what the patch says of its target.

    Raises:
        CorruptError: they differ; names the bucket's first tensor.
    """
    record = manifest.buckets[bucket]
    expected = record.target if record.target is not None else record.base
    if found != expected:
        raise CorruptError(
            "words differ from the target's",
            file=path,
            tensor=manifest.names[manifest.parts[bucket][0].tensor],
            expected=f"checksum {expected}",
            found=found,
        )


def _run_skeleton(group: Sequence[Patch], base: Base, task: Task, fd: int) -> int:
    first = group[0].manifest.target_files[task.file].dictionary
    data = b"" if first is None else base.skeleton(first)  # a wrong base is told before damage
    payloads = task.verified()
    sizes = [patch.manifest.skeleton_size(task.file) for patch in group]
    unfolded = [n for n, payload in zip(sizes, payloads, strict=True) if payload is not None]
    with _room_for(max(unfolded, default=0), payloads):
        for patch, payload, size in zip(group, payloads, sizes, strict=True):
            with _named(patch, "skeleton"):
                if payload is not None:
                    has_dictionary = patch.manifest.target_files[task.file].dictionary is not None
                    data = decompress(payload, size, data if has_dictionary else b"")
                _check_skeleton(patch.manifest, task.file, data, None)
        at = 0
        for begin, end in group[-1].manifest.skeleton_ranges(task.file):
            _write(fd, begin, memoryview(data)[at : at + end - begin])
            at += end - begin
    return at


def _check_skeleton(manifest: Manifest, file: int, data: bytes, path: object) -> None:
    expected, found = manifest.target_files[file].skeleton, checksum.checksum(data)
    if found != expected or len(data) != manifest.skeleton_size(file):
        raise CorruptError(
            "header or contents differ from the target's",
            file=path,
            expected=f"checksum {expected}",
            found=found,
        )


def is_copy(manifest: Manifest, file: int, base_file: int) -> bool:
    """Whether a target file has the bytes of a base file, and applying checks all of those."""
    a, b = manifest.target_files[file], manifest.base_files[base_file]
    return (
        (a.size, a.skeleton) == (b.size, b.skeleton)
        and (a.dictionary, a.skeleton_digest) == (base_file, None)
        and manifest.tensors.are_based_on(manifest.tensors, manifest.file_tensors[file], base_file)
        and not any(manifest.buckets[k].digest for k in manifest.file_buckets[file])
    )


def check_target(
    manifest: Manifest, file: int, path: Path, map_buckets: Callable[..., Iterator[Any]]
) -> None:
    """Compare a file on disk with what the manifest says of target file ``file``.

    Args:
        manifest: of the patch.
        file: index of the target file.
        path: the file to check.
        map_buckets: `map`, or a parallel stand-in for it.

    Raises:
        CorruptError: it differs; names the tensor.
    """
    record = manifest.target_files[file]
    source = InputFile.of(path)
    if source.size != record.size:
        raise CorruptError(
            "size differs from the target's", file=path, expected=record.size, found=source.size
        )
    ranges = manifest.skeleton_ranges(file)
    _check_skeleton(manifest, file, b"".join(source.read(a, b - a) for a, b in ranges), path)

    def check(batch: range) -> None:
        with OpenFiles() as files:
            target = words.target_source(manifest, file, lambda _, o, b: files.read(source, o, b))
            for bucket, found in zip(batch, words.sums_of(manifest, batch, target), strict=True):
                check_words(manifest, bucket, found, path)

    for _ in map_buckets(check, words.batches(manifest, manifest.file_buckets[file])):
        pass
