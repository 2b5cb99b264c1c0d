"""The manifest as canonical JSON in columns, validated before anything uses it.

Enters: JSON from a patch, or a `Manifest` to store. Leaves: a `Manifest` in
which every index, size and name has been checked against every other, so that
later code can trust it (format.md, "Manifest").
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

import numpy as np

from sparsediff.checksum import LOCATOR_DIGITS
from sparsediff.disk.names import check_relative_name
from sparsediff.dtypes import DTYPES
from sparsediff.errors import CorruptError, UnsupportedError
from sparsediff.patch.columns import (
    MAX_SIZE,
    Check,
    hexes,
    integers,
    lists_of,
    or_none,
    texts,
)
from sparsediff.patch.manifest import (
    MAX_SKELETON_BYTES,
    BaseFile,
    Bucket,
    Manifest,
    TargetFile,
    Tensor,
)
from sparsediff.unfolding import uncollected

_SURROGATE = re.compile("[\ud800-\udfff]").search
_MAX_VALUES = 1 << 20  # of a manifest, whatever its frame takes
_VALUES_PER_BYTE = 512  # of the frame besides: more than like tensors of 64 dimensions reach
_COUNTED_AT_ONCE = 1 << 20  # bytes


def dump(manifest: Manifest) -> bytes:
    """Canonical JSON of a manifest."""
    return json.dumps(_columns(manifest), sort_keys=True, separators=(",", ":")).encode("ascii")


def _columns(manifest: Manifest) -> dict[str, Any]:
    tensors = manifest.tensors
    skip, base_skip = [], []
    cursor: dict[int, int] = {}
    for indices in manifest.file_tensors:
        end = 0
        for t in (tensors[i] for i in indices):
            skip.append(t.offset - end)
            end = t.offset + t.n_bytes
    for t in tensors:
        if t.base_file is None:
            base_skip.append(0)
        else:
            base_skip.append(t.base_offset - cursor.get(t.base_file, 0))
            cursor[t.base_file] = t.base_offset + t.n_based * t.dtype.word_bytes
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
        "tensors": {
            "name": [t.name for t in tensors],
            "dtype": [t.dtype.name for t in tensors],
            "shape": [list(t.shape) for t in tensors],
            "skip": skip,
            "base": [t.base_file for t in tensors],
            "base_skip": base_skip,
            "new": [t.n_words - t.n_based for t in tensors],
            "changed": [t.n_stepped for t in tensors],
            "wider": [t.n_stepped - t.n_ones for t in tensors],
            "median": [t.median for t in tensors],
            "largest": [t.largest for t in tensors],
        },
        "buckets": {
            "tensors": [_runs(b.tensors) for b in manifest.buckets],
            "words": [b.n_words for b in manifest.buckets],
            "base": [b.base for b in manifest.buckets],
            "locators": [b.locators for b in manifest.buckets],
            "target": [b.target for b in manifest.buckets],
            "sha256": [b.digest for b in manifest.buckets],
        },
    }


@uncollected()
def parse(raw: bytes, stored_bytes: int) -> Manifest:
    """Parse and validate a manifest.

    Args:
        raw: its text.
        stored_bytes: that the patch takes for it.

    Raises:
        CorruptError: it breaks a rule of format.md.
        UnsupportedError: it needs a dtype this version does not know.
    """
    check_paid(raw, stored_bytes)
    try:
        table = json.loads(raw.decode("ascii"))  # bytes of UTF-16 would be read as other text
        if json.dumps(table, sort_keys=True, separators=(",", ":")).encode("ascii") != raw:
            raise CorruptError("manifest is not canonical JSON")
        manifest = _from_columns(table)
    except (ValueError, RecursionError, KeyError, TypeError) as e:
        raise CorruptError(f"malformed manifest ({type(e).__name__}: {str(e)[:80]})") from None
    _check_names(manifest)
    manifest.complete()
    return manifest


def check_paid(raw: bytes, stored_bytes: int) -> None:
    """Refuse what would unfold to memory that a patch has no claim to.

    Every list belongs to a file, tensor or bucket, which has at least one string; and there
    are only so many values for the bytes that are stored of them. Counted before anything is
    unfolded, in memory that does not grow with what is counted.

    Args:
        raw: text of a manifest.
        stored_bytes: that the patch takes for it.

    Raises:
        CorruptError: there are more.
    """
    most = _MAX_VALUES + _VALUES_PER_BYTE * stored_bytes
    n_strings = (raw.count(b'"') - raw.count(b'\\"')) // 2  # or so it seems, as in names may be
    n_lists = raw.count(b"[") + raw.count(b"{")  # both of them
    if n_lists <= 64 + n_strings and n_lists + raw.count(b",") <= most:
        return
    plain = raw.replace(b"\\\\", b"").replace(b'\\"', b"")
    n_strings = plain.count(b'"') // 2
    n_lists = n_commas = 0
    inside = np.False_
    for start in range(0, len(plain), _COUNTED_AT_ONCE):
        text = np.frombuffer(plain[start : start + _COUNTED_AT_ONCE], np.uint8)
        outside = ~(np.logical_xor.accumulate(text == ord('"')) ^ inside)
        inside = ~outside[-1]
        n_lists += int(np.count_nonzero(((text == ord("[")) | (text == ord("{"))) & outside))
        n_commas += int(np.count_nonzero((text == ord(",")) & outside))
    if n_lists > 64 + n_strings:
        raise CorruptError("malformed manifest (too many lists)")
    if n_lists + n_commas > most:
        raise CorruptError(
            "malformed manifest (too many values for its size)",
            expected=f"at most {most}",
            found=n_lists + n_commas,
        )


def _text(c: Sequence[Any]) -> bool:
    return {*map(type, c)} <= {str} and not any(map(_SURROGATE, c))


def _rows(table: Any, **checks: Check) -> list[tuple[Any, ...]]:
    """Columns, checked, to rows, whose values are in the order of ``checks``."""
    if not isinstance(table, dict) or set(table) != set(checks):
        raise ValueError(f"columns must be {', '.join(sorted(checks))}")
    for name, check in checks.items():
        if not isinstance(table[name], list):
            raise ValueError(f"{name} must be a list")
        if not check(table[name]):
            bad = next(value for value in table[name] if not check([value]))
            raise ValueError(f"bad {name} {bad!r}")
    if len({len(column) for column in table.values()}) > 1:
        raise ValueError("columns must be equally long")
    return list(zip(*(table[name] for name in checks), strict=True))


def _from_columns(table: Any) -> Manifest:
    if not isinstance(table, dict) or set(table) != {"base", "target", "tensors", "buckets"}:
        raise ValueError("sections must be base, buckets, target and tensors")
    if not all(isinstance(section, dict) for section in table.values()):
        raise ValueError("sections must be objects")
    is_directory = [table[side].pop("directory") for side in ("base", "target")]
    if not all(type(v) is bool for v in is_directory):
        raise ValueError("directory must be true or false")
    base_files = [
        BaseFile(*row)
        for row in _rows(
            table["base"],
            name=_text,
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
            table["target"],
            name=_text,
            size=integers(0),
            tensors=integers(0),
            skeleton=hexes(32),
            dictionary=or_none(index),
            sha256=or_none(hexes(64)),
        )
    ]
    rows = _rows(
        table["tensors"],
        name=_text,
        dtype=_text,
        shape=lists_of(integers(0)),
        skip=integers(0),
        base=or_none(index),
        base_skip=integers(-MAX_SIZE),
        new=integers(0),
        changed=integers(0),
        wider=integers(0),
        median=integers(0, 1 << 63),
        largest=integers(0, 1 << 63),
    )
    n_tensors = len(table["tensors"]["name"])
    if sum(f.n_tensors for f in target_files) != n_tensors:
        raise ValueError("tensors do not add up to the files")
    buckets = [
        Bucket(*row)
        for row in _rows(
            table["buckets"],
            tensors=lists_of(integers(0, n_tensors)),
            words=integers(1),
            base=or_none(hexes(32)),
            locators=texts,
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
        if bucket.base is not None and not hexes(LOCATOR_DIGITS * len(bucket.tensors))(
            [bucket.locators]
        ):
            raise ValueError("bucket must have one locator per tensor")
    tensors = _tensors(rows, target_files, base_files)
    return Manifest(is_directory[0], base_files, is_directory[1], target_files, tensors, buckets)


def _runs(indices: list[int]) -> list[int]:
    """Increasing indices as first, length, first, length, … of their runs."""
    runs: list[int] = []
    for i in indices:
        if runs and runs[-2] + runs[-1] == i:
            runs[-1] += 1
        else:
            runs += [i, 1]
    return runs


def _indices(runs: list[int], n: int) -> list[int]:
    """Inverse of `_runs`, for indices below ``n``."""
    indices: list[int] = []
    for first, length in zip(runs[::2], runs[1::2], strict=True):
        if length == 0 or first + length > n or (indices and first <= indices[-1]):
            raise ValueError("bad tensors of a bucket")
        indices += range(first, first + length)
    if _runs(indices) != runs or not indices:
        raise ValueError("bad tensors of a bucket")
    return indices


def _tensors(
    rows: Iterable[tuple[Any, ...]], target_files: list[TargetFile], base_files: list[BaseFile]
) -> list[Tensor]:
    rows = iter(rows)
    tensors: list[Tensor] = []
    cursor = [0] * len(base_files)
    for file in target_files:
        end = 0
        n_bytes = 0
        for row in islice(rows, file.n_tensors):
            name, dtype, shape, skip, base, base_skip, new, changed, wider, median, largest = row
            if dtype not in DTYPES:
                raise UnsupportedError("unknown dtype", tensor=name, found=dtype)
            tensor = Tensor(name, DTYPES[dtype], tuple(shape), end + skip, base)
            if tensor.n_bytes > MAX_SIZE or not (
                tensor.n_bytes or tensor.dtype.n_bytes(tensor.shape) == 0
            ):
                raise ValueError(f"bad shape {shape}")
            n_bytes += tensor.n_bytes
            end = tensor.offset + tensor.n_bytes
            tensor.n_based = tensor.n_words - new
            tensor.n_stepped, tensor.n_ones = changed, changed - wider
            tensor.median, tensor.largest = median, largest
            if base is None:
                if tensor.n_based or base_skip:
                    raise ValueError("tensor without a base file has a base")
            else:
                tensor.base_offset = cursor[base] + base_skip
                cursor[base] = tensor.base_offset + tensor.n_based * tensor.dtype.word_bytes
                if not 0 <= tensor.base_offset < cursor[base] <= base_files[base].size:
                    raise ValueError(f"base of {name!r} lies outside its file")
            if not 0 <= tensor.n_ones <= tensor.n_stepped <= tensor.n_based:
                raise ValueError(f"bad counts for {name!r}")
            tensors.append(tensor)
        if end > file.size or file.size - n_bytes > MAX_SKELETON_BYTES:
            raise ValueError(f"tensors do not fit {file.name!r}")
        if file.skeleton_digest is None and (
            file.dictionary is None or base_files[file.dictionary].skeleton != file.skeleton
        ):
            raise ValueError(f"skeleton of {file.name!r} is missing")
    return tensors


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
        taken = set(names)
        if len(taken) != len(names):
            raise CorruptError("two files have the same name")
        for name in names:
            if any(name[:i] in taken for i, c in enumerate(name) if c == "/"):
                raise CorruptError("a file has the name of a directory", found=name)
