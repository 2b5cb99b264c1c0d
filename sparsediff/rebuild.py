"""Rebuilding a target's words and skeletons from a patch and its base.

Enters: an open patch, the base's files. Leaves: target bytes, handed to a
writer piece by piece, while they are in the cache. Shared by `apply`, which
writes them, and `verify`, which does not. Only when `run` returns are the base
words and the result verified: until then nothing may be published.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sparsediff import checksum, words
from sparsediff.checksum import PartChecksums
from sparsediff.codec import bucket as codec
from sparsediff.codec.zstd import decompress
from sparsediff.errors import CorruptError, SparsediffError, UsageError, WrongBaseError, os_errors
from sparsediff.files import InputFile, OpenFiles
from sparsediff.manifest import Manifest
from sparsediff.patch import Patch
from sparsediff.words import Writer


def check_kind(root: Path, is_directory: bool, error: SparsediffError) -> None:
    """Raise ``error``, completed, if ``root`` is a file instead of a directory or the reverse."""
    if root.is_dir() != is_directory:
        kinds = ("a file", "a directory")
        error.expected, error.found = kinds[is_directory], kinds[not is_directory]
        raise error


class BaseFiles:
    """The base's files as a manifest names them, opened when first needed."""

    def __init__(self, root: Path, manifest: Manifest) -> None:
        """Check that the base is of the right kind.

        Raises:
            UsageError: there is nothing at ``root``.
            WrongBaseError: it is a file instead of a directory, or the reverse.
        """
        self.root, self._manifest = root, manifest
        with os_errors(root):
            os.stat(root)
        check_kind(root, manifest.base_is_directory, WrongBaseError("wrong base", file=root))
        self._files: dict[int, InputFile] = {}

    def path(self, index: int) -> Path:
        """Path of a base file."""
        name = self._manifest.base_files[index].name
        return self.root / name if name else self.root

    def open(self, index: int) -> InputFile:
        """Base file, pinned at first use.

        Raises:
            WrongBaseError: it is missing or has another size.
        """
        file = self._files.get(index)
        if file is None:
            record = self._manifest.base_files[index]
            try:
                file = InputFile.of(self.path(index))
            except UsageError as e:
                raise WrongBaseError(f"wrong base: {e.problem}", file=e.file) from e
            if file.size != record.size:
                raise WrongBaseError(
                    "wrong base",
                    file=file.path,
                    expected=f"{record.size} bytes",
                    found=f"{file.size} bytes",
                )
            self._files[index] = file
        return file

    def source(self, files: OpenFiles) -> words.Source:
        """Base words of buckets, read through ``files``."""
        return words.base_source(
            self._manifest, lambda index, at, buffer: files.read(self.open(index), at, buffer)
        )

    def check(self, bucket: int) -> None:
        """Compare the base words of a bucket with what the patch says of them.

        Raises:
            WrongBaseError: they differ; names the tensor.
        """
        with OpenFiles() as files:
            sums = words.checksums(self._manifest, bucket, self.source(files))
        words.check_base(self._manifest, bucket, sums, self.path)

    def skeleton(self, index: int) -> bytes:
        """Skeleton of a base file.

        Raises:
            WrongBaseError: it is not the one the patch was made from.
        """
        file, record = self.open(index), self._manifest.base_files[index]
        data = b"".join(file.read(a, b - a) for a, b in record.skeleton_ranges())
        found = checksum.checksum(data)
        if found != record.skeleton:
            raise WrongBaseError(
                "wrong base: header or contents differ",
                file=file.path,
                expected=f"checksum {record.skeleton}",
                found=found,
            )
        return data


@dataclass(frozen=True, slots=True)
class Task:
    """One skeleton (``bucket`` is None) or bucket of target file ``file``, and its payload."""

    file: int
    bucket: int | None
    payload: bytes | None


def tasks(patch: Patch) -> Iterator[Task]:
    """Everything there is to rebuild, in stored order; reads the patch as it goes.

    Payloads are as they were read: `run` checks them, after the base, so that damage and a
    wrong base together are always reported as the wrong base.

    Raises:
        CorruptError: the patch is damaged.
    """
    manifest = patch.manifest
    payloads = patch.stored()
    for i, (file, buckets) in enumerate(
        zip(manifest.target_files, manifest.file_buckets, strict=True)
    ):
        yield Task(i, None, next(payloads)[1] if file.skeleton_digest is not None else None)
        for b in buckets:
            stored = manifest.buckets[b].digest is not None
            yield Task(i, b, next(payloads)[1] if stored else None)
    for name, _ in payloads:  # also checks that the patch ends here
        raise CorruptError("payload belongs to nothing", file=patch.name, found=name)


def run(patch: Patch, base: BaseFiles, task: Task, write: Writer) -> int:
    """Rebuild one skeleton or bucket; returns its size in bytes.

    Raises:
        WrongBaseError: the base is not the patch's; names the tensor.
        CorruptError: the payload does not decode to what the patch promises.
    """
    try:
        if task.bucket is None:
            return _run_skeleton(patch, base, task, write)
        return _run_bucket(patch, base, task.file, task.bucket, task.payload, write)
    except CorruptError as e:
        if e.file is None:
            name = "skeleton" if task.bucket is None else f"bucket.{task.bucket}"
            e.file = f"{patch.name}, {name}"
        raise


def _run_bucket(
    patch: Patch,
    base: BaseFiles,
    file: int,
    bucket: int,
    payload: bytes | None,
    write: Writer,
) -> int:
    manifest = patch.manifest
    record = manifest.buckets[bucket]
    dtype = words.bucket_dtype(manifest, bucket)
    has_base = record.base is not None
    base_sums, target_sums = PartChecksums(), PartChecksums()
    n_memory = 0 if has_base else min(record.n_words, words.piece_words(dtype))
    memory = np.empty(n_memory, dtype.numpy)
    try:
        decoder = None
        if payload is not None:
            patch.check(f"bucket.{bucket}", payload)
            decoder = codec.Decoder(payload, record.n_words, dtype, has_base=has_base)
        with OpenFiles() as files:
            sources = [base.source(files)] if has_base else []
            for piece in words.pieces(manifest, bucket, sources):
                if has_base:  # the target's words take the place of the base's
                    (new,) = piece.words
                    base_sums.update(piece.part, new)
                else:
                    new = memory[: piece.n_words]
                if decoder is not None:
                    decoder.feed(new)
                    target_sums.update(piece.part, new)
                write(file, piece.offset, new)
        if decoder is not None:
            decoder.finish()
    except CorruptError:
        if has_base:  # whose fault is it?
            base.check(bucket)
        raise
    if has_base:
        words.check_base(manifest, bucket, base_sums.hex(), base.path)
    if decoder is not None:
        _check_words(manifest, bucket, target_sums.hex(), None)
    return words.n_bytes(manifest, bucket)


def _check_words(manifest: Manifest, bucket: int, sums: list[str], path: object) -> None:
    record = manifest.buckets[bucket]
    expected = record.target if record.target is not None else record.base
    found = checksum.combine(sums)
    if found != expected:
        first = manifest.tensors[manifest.parts[bucket][0].tensor]
        raise CorruptError(
            "words differ from the target's",
            file=path,
            tensor=first.name or None,
            expected=f"checksum {expected}",
            found=found,
        )


def _run_skeleton(patch: Patch, base: BaseFiles, task: Task, write: Writer) -> int:
    manifest = patch.manifest
    record = manifest.target_files[task.file]
    data = b"" if record.dictionary is None else base.skeleton(record.dictionary)
    if task.payload is not None:
        patch.check(f"skeleton.{task.file}", task.payload)
        data = decompress(task.payload, manifest.skeleton_size(task.file), data)
    _check_skeleton(manifest, task.file, data, None)
    at = 0
    for begin, end in manifest.skeleton_ranges(task.file):
        write(task.file, begin, data[at : at + end - begin])
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
    tensors = [manifest.tensors[i] for i in manifest.file_tensors[file]]
    return (
        (a.size, a.skeleton) == (b.size, b.skeleton)
        and (a.dictionary, a.skeleton_digest) == (base_file, None)
        and all(
            (t.base_file, t.base_offset, t.n_based) == (base_file, t.offset, t.n_words)
            for t in tensors
            if t.n_words
        )
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

    def check(bucket: int) -> None:
        with OpenFiles() as files:
            target = words.target_source(manifest, file, lambda _, o, b: files.read(source, o, b))
            _check_words(manifest, bucket, words.checksums(manifest, bucket, target), path)

    for _ in map_buckets(check, manifest.file_buckets[file]):
        pass
