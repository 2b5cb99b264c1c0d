"""Where base words come from: a checkpoint on disk, or anything else that has them.

Enters: the base's files, as a manifest names them. Leaves: sources of words, and skeletons;
or the error that says that this is not the base.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from sparsediff import checksum
from sparsediff.disk.inputs import InputFile, OpenFiles
from sparsediff.errors import SparsediffError, UsageError, WrongBaseError, os_errors
from sparsediff.patch import words
from sparsediff.patch.manifest import Manifest


def check_kind(root: Path, is_directory: bool, error: SparsediffError) -> None:
    """Raise ``error``, completed, if ``root`` is a file instead of a directory or the reverse."""
    if root.is_dir() != is_directory:
        kinds = ("a file", "a directory")
        error.expected, error.found = kinds[is_directory], kinds[not is_directory]
        raise error


class Base(Protocol):
    """Where `run` gets base words from; `BaseFiles` for a checkpoint on disk."""

    def path(self, index: int) -> object:
        """What messages call a base file."""

    def source(self, files: OpenFiles) -> words.Source:
        """Base words of buckets, read through ``files``."""

    def check(self, bucket: int) -> None:
        """Raise WrongBaseError if the base words of a bucket are not the patch's."""

    def skeleton(self, index: int) -> bytes:
        """Skeleton of a base file, checked."""


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
            self._manifest,
            lambda index, at, buffer: files.read(self.open(index), at, buffer),
            lambda index, at, size: files.locate(self.open(index), at, size),
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
