"""Rebuilding a target's words and skeletons from a patch and its base.

Enters: an open patch, the base's files. Leaves: verified target bytes, handed
to a writer. Shared by `apply`, which writes them, and `verify`, which does not.
The base is checked before its words are used, the result before it is written.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sparsediff import checksum, words
from sparsediff.codec import bucket as codec
from sparsediff.codec.zstd import decompress
from sparsediff.errors import CorruptError, SparsediffError, UsageError, WrongBaseError, os_errors
from sparsediff.files import InputFile
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

    def read(self, index: int, offset: int, buffer: Any) -> None:
        """Fill ``buffer`` from a base file."""
        self.open(index).read_into(offset, buffer)

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

    Raises:
        CorruptError: the patch is damaged.
    """
    manifest = patch.manifest
    payloads = patch.payloads()
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
            return _run_skeleton(patch.manifest, base, task, write)
        return _run_bucket(patch.manifest, base, task.file, task.bucket, task.payload, write)
    except CorruptError as e:
        if e.file is None:
            name = "skeleton" if task.bucket is None else f"bucket.{task.bucket}"
            e.file = f"{patch.name}, {name}"
        raise


def _run_bucket(
    manifest: Manifest,
    base: BaseFiles,
    file: int,
    bucket: int,
    payload: bytes | None,
    write: Writer,
) -> int:
    record = manifest.buckets[bucket]
    old = None
    if record.base is not None:
        old, sums = words.gather_base(manifest, bucket, base.read)
        words.check_base(manifest, bucket, sums, base.path)
    if payload is None:
        assert old is not None  # the manifest ensures that a bucket without payload has a base
        new = old
    else:
        dtype = words.bucket_dtype(manifest, bucket)
        new = np.empty(record.n_words, dtype.numpy)
        codec.decode(payload, old, new, dtype)
        _check_words(manifest, bucket, words.part_checksums(manifest, bucket, new), None)
    words.scatter(manifest, bucket, file, new, write)
    return new.nbytes


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


def _run_skeleton(manifest: Manifest, base: BaseFiles, task: Task, write: Writer) -> int:
    record = manifest.target_files[task.file]
    data = b"" if record.dictionary is None else base.skeleton(record.dictionary)
    if task.payload is not None:
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
        _, sums = words.gather_target(
            manifest, bucket, file, lambda _, o, b: source.read_into(o, b)
        )
        _check_words(manifest, bucket, sums, path)

    for _ in map_buckets(check, manifest.file_buckets[file]):
        pass
