"""The manifest as canonical JSON in columns, validated before anything uses it.

Enters: JSON from a patch, or a `Manifest` to store. Leaves: a `Manifest` in
which every index, size and name has been checked against every other, so that
later code can trust it (format.md, "Manifest").
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from sparsediff.checksum import LOCATOR_DIGITS
from sparsediff.disk.names import check_relative_name
from sparsediff.errors import CorruptError
from sparsediff.patch import tensors_json
from sparsediff.patch.columns import (
    Check,
    Columns,
    hexes,
    integers,
    lists_of,
    or_none,
    unicode,
)
from sparsediff.patch.manifest import (
    MAX_SKELETON_BYTES,
    BaseFile,
    Bucket,
    Manifest,
    TargetFile,
)
from sparsediff.unfolding import uncollected

_SMALL = 1_000_000  # bytes of a frame, below which there is a limit on what it unfolds to:
_MAX_MEMORY = 256 << 20  # bytes, which 350 000 tensors of usual names do not reach
_ROWS = {"base": 400, "buckets": 540, "target": 460, "tensors": 400}  # bytes, at most
# fmt: off
_SECTIONS = {
    "base": ("directory", "layout", "name", "size", "skeleton"),
    "buckets": ("base", "locators", "sha256", "target", "tensors", "words"),
    "target": ("dictionary", "directory", "name", "sha256", "size", "skeleton", "tensors"),
    "tensors": ("base", "base_skip", "changed", "dtype", "largest", "median", "name", "new",
                "shape", "skip", "wider"),
}
# fmt: on
_DIGESTS = ("dtype", "skeleton", "sha256", "target")  # are reckoned with the rows


def dump(manifest: Manifest) -> bytes:
    """Canonical JSON of a manifest."""
    return json.dumps(_columns(manifest), sort_keys=True, separators=(",", ":")).encode("ascii")


def _columns(manifest: Manifest) -> dict[str, Any]:
    return {
        "base": {
            "directory": manifest.base_is_directory,
            "name": [f.name for f in manifest.base_files],
            "size": [f.size for f in manifest.base_files],
            "layout": [f.layout for f in manifest.base_files],
            "skeleton": [f.skeleton for f in manifest.base_files],
        },
        "target": {
            "directory": manifest.target_is_directory,
            "name": [f.name for f in manifest.target_files],
            "size": [f.size for f in manifest.target_files],
            "tensors": [f.n_tensors for f in manifest.target_files],
            "skeleton": [f.skeleton for f in manifest.target_files],
            "dictionary": [f.dictionary for f in manifest.target_files],
            "sha256": [f.skeleton_digest for f in manifest.target_files],
        },
        "tensors": tensors_json.dump(manifest.tensors, manifest.file_tensors),
        "buckets": {
            "tensors": [_runs(b.tensors) for b in manifest.buckets],
            "words": [b.n_words for b in manifest.buckets],
            "base": [b.base for b in manifest.buckets],
            "locators": [b.locators for b in manifest.buckets],
            "target": [b.target for b in manifest.buckets],
            "sha256": [b.digest for b in manifest.buckets],
        },
    }


def parse(raw: bytes, stored_bytes: int) -> Manifest:
    """Parse and validate a manifest.

    Args:
        raw: its text.
        stored_bytes: that the patch takes for it.

    Raises:
        CorruptError: it breaks a rule of format.md.
        UnsupportedError: it needs a dtype this version does not know.
    """
    columns = find_columns(raw, stored_bytes)
    del raw  # unless the caller holds it
    with uncollected():
        try:
            manifest = _from_columns(columns)
        except (ValueError, RecursionError, KeyError, TypeError) as e:
            raise CorruptError(f"malformed manifest ({type(e).__name__}: {str(e)[:80]})") from None
        _check_names(manifest)
        manifest.complete()
    return manifest


def find_columns(raw: bytes, stored_bytes: int) -> Columns:
    """The columns of a manifest, of which nothing is unfolded yet.

    Args:
        raw: its text.
        stored_bytes: that the patch takes for it.

    Raises:
        CorruptError: they are not those of a manifest, or would take more memory than a small
            patch has a claim to.
    """
    columns = Columns(raw, _SECTIONS)
    n_bytes = 0
    for section, row_bytes in _ROWS.items():
        names = [name for name in _SECTIONS[section] if name != "directory"]
        rows = {columns.n_rows(section, name) for name in names}
        if len(rows) > 1:
            raise CorruptError(f"malformed manifest (columns of {section} must be equally long)")
        n_bytes += rows.pop() * row_bytes
        n_bytes += sum(columns.n_bytes(section, name) for name in names if name not in _DIGESTS)
    if stored_bytes < _SMALL and n_bytes > _MAX_MEMORY:
        raise CorruptError(
            "malformed manifest (too much for its size)",
            expected=f"at most {_MAX_MEMORY} bytes of memory for less than {_SMALL} stored",
            found=f"some {n_bytes} bytes",
        )
    return columns


def _rows(columns: Columns, section: str, **checks: Check) -> Iterator[tuple[Any, ...]]:
    """Columns, checked, to rows, whose values are in the order of ``checks``."""
    known: dict[object, object] = {}  # strings: what is repeated is in memory once
    found = []
    for name, check in checks.items():
        column = columns.checked(section, name, check)
        if str in {*map(type, column)}:
            column = [*map(known.setdefault, column, column)]
        found.append(column)
    return zip(*found, strict=True)


def _from_columns(columns: Columns) -> Manifest:
    is_directory = [columns.take(side, "directory") for side in ("base", "target")]
    if not all(type(v) is bool for v in is_directory):
        raise ValueError("directory must be true or false")
    base_files = [
        BaseFile(*row)
        for row in _rows(
            columns,
            "base",
            name=unicode,
            size=integers(0),
            layout=lists_of(integers(0)),
            skeleton=hexes(32),
        )
    ]
    if any(sum(f.layout) != f.size or not f.layout or not all(f.layout[1:]) for f in base_files):
        raise ValueError("layout of a base file does not add up to its size")
    if any(sum(f.layout[::2]) > MAX_SKELETON_BYTES for f in base_files):
        raise ValueError("skeleton of a base file is too large")
    index = integers(0, len(base_files) - 1)
    target_files = [
        TargetFile(*row)
        for row in _rows(
            columns,
            "target",
            name=unicode,
            size=integers(0),
            tensors=integers(0),
            skeleton=hexes(32),
            dictionary=or_none(index),
            sha256=or_none(hexes(64)),
        )
    ]
    for file in target_files:
        if file.skeleton_digest is None and (
            file.dictionary is None or base_files[file.dictionary].skeleton != file.skeleton
        ):
            raise ValueError(f"skeleton of {file.name!r} is missing")
    n_tensors = columns.n_rows("tensors", "name")
    if sum(f.n_tensors for f in target_files) != n_tensors:
        raise ValueError("tensors do not add up to the files")
    buckets = [
        Bucket(*row)
        for row in _rows(
            columns,
            "buckets",
            tensors=lists_of(integers(0, n_tensors)),
            words=integers(1),
            base=or_none(hexes(32)),
            locators=hexes(),
            target=or_none(hexes(32)),
            sha256=or_none(hexes(64)),
        )
    ]
    # A tensor is in a second bucket only where a first one ended inside it, or
    # for its new words: more indices than this are a lie, and not worth the memory.
    if sum(sum(b.tensors[1::2]) for b in buckets) > 2 * n_tensors + len(buckets):
        raise ValueError("buckets have too many tensors")
    for bucket in buckets:
        bucket.tensors = _indices(bucket.tensors, n_tensors)
        if bucket.base is None and (
            bucket.target is None or bucket.digest is None or bucket.locators
        ):
            raise ValueError("bucket without a base must have a payload and no locators")
        if bucket.target is not None and bucket.target == bucket.base:
            raise ValueError("bucket has a payload but no change")
        if (bucket.target is None) != (bucket.digest is None):
            raise ValueError("bucket must have both target and sha256 or neither")
        n_locators = 0 if bucket.base is None else len(bucket.tensors)
        if len(bucket.locators) != LOCATOR_DIGITS * n_locators:
            raise ValueError("bucket must have one locator per tensor")
    tensors = tensors_json.parse(columns, target_files, base_files)
    return Manifest(is_directory[0], base_files, is_directory[1], target_files, tensors, buckets)


def _runs(indices: Sequence[int]) -> list[int]:
    """Increasing indices as first, length, first, length, … of their runs."""
    runs: list[int] = []
    for i in indices:
        if runs and runs[-2] + runs[-1] == i:
            runs[-1] += 1
        else:
            runs += [i, 1]
    return runs


def _indices(runs: Sequence[int], n: int) -> Sequence[int]:
    """Inverse of `_runs`, for indices below ``n``."""
    if len(runs) == 2 and runs[1] and sum(runs) <= n:
        return range(runs[0], sum(runs))  # which takes no memory, of however many
    indices: list[int] = []
    for first, length in zip(runs[::2], runs[1::2], strict=True):
        if length == 0 or first + length > n or (indices and first <= indices[-1] + 1):
            raise ValueError("bad tensors of a bucket")
        indices += range(first, first + length)
    if not indices:
        raise ValueError("bad tensors of a bucket")
    return indices


def _check_names(manifest: Manifest) -> None:
    for is_directory, names in (
        (manifest.base_is_directory, [f.name for f in manifest.base_files]),
        (manifest.target_is_directory, [f.name for f in manifest.target_files]),
    ):
        if not is_directory:
            if names != [""]:
                raise CorruptError("a single file must have no name", found=names[:3])
            continue
        for name in names:
            check_relative_name(name)
        # Sorted by parts, what lies in a directory follows it at once.
        in_order = sorted(name.replace("/", "\0") for name in names)
        for name, after in pairwise(in_order):
            if name == after:
                raise CorruptError("two files have the same name")
            if after.startswith(name + "\0"):
                found = after.replace("\0", "/")
                raise CorruptError("a file has the name of a directory", found=found)
