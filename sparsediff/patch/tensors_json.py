"""The section `tensors` of a manifest: columns in memory from and to those of JSON.

Enters: a column of JSON after the other, or `Tensors` to store. Leaves: `Tensors` whose every
number has been checked against files and against each other (format.md, "Manifest"). As there
may be very many tensors, whole columns are worked on at once, and without NumPy, which takes
longer to import than most manifests to read.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import accumulate, chain, pairwise, repeat
from operator import add, le, mul, sub
from typing import Any

from sparsediff.dtypes import DTYPES
from sparsediff.errors import UnsupportedError
from sparsediff.patch.columns import MAX_SIZE, Columns, integers, or_none, unicode
from sparsediff.patch.manifest import MAX_SKELETON_BYTES, BaseFile, TargetFile
from sparsediff.patch.tensors import Tensors


def dump(tensors: Tensors, file_tensors: Sequence[range]) -> dict[str, list[Any]]:
    """The columns of JSON; ``file_tensors`` has the rows of each target file."""
    skip: list[int] = []
    for rows in map(_slice, file_tensors):
        ends = map(add, tensors.offsets[rows], tensors.n_bytes[rows])
        skip += map(sub, tensors.offsets[rows], chain((0,), ends))
    base_skip: list[int] = []
    cursor: dict[int | None, int] = {None: 0}
    places = zip(tensors.base_files, tensors.base_offsets, _based_bytes(tensors), strict=True)
    for file, begin, n_bytes in places:
        base_skip.append(begin - cursor.get(file, 0))
        cursor[file] = begin + n_bytes
    return {
        "name": tensors.names,
        "dtype": [dtype.name for dtype in tensors.dtypes],
        "shape": tensors.shapes,
        "skip": skip,
        "base": tensors.base_files,
        "base_skip": base_skip,
        "new": [*map(sub, tensors.n_words, tensors.n_based)],
        "changed": tensors.n_stepped.tolist(),
        "wider": [*map(sub, tensors.n_stepped, tensors.n_ones)],
        "median": tensors.medians.tolist(),
        "largest": tensors.largest.tolist(),
    }


def parse(columns: Columns, target_files: list[TargetFile], base_files: list[BaseFile]) -> Tensors:
    """Take the columns and check them.

    Raises:
        CorruptError: they are not canonical JSON.
        UnsupportedError: they need a dtype that this version does not know.
        ValueError: a value breaks a rule.
    """
    found, read = Tensors(), partial(columns.integers, "tensors")
    found.names = columns.checked("tensors", "name", unicode)
    _enter_lengths(found, columns)
    _enter_places(found, read("skip"), target_files)
    found.n_based = array("q", map(sub, found.n_words, read("new")))
    found.n_stepped = read("changed")
    found.n_ones = array("q", map(sub, found.n_stepped, read("wider")))
    counts = found.n_ones, found.n_stepped, found.n_based
    if not all(all(map(le, *pair)) for pair in pairwise((repeat(0), *counts))):
        rows = zip(found.names, *counts, strict=True)
        name = next(name for name, *row in rows if not 0 <= row[0] <= row[1] <= row[2])
        raise ValueError(f"bad counts for {name!r}")
    index = or_none(integers(0, len(base_files) - 1))
    bases = columns.checked("tensors", "base", index)
    _enter_bases(found, bases, read("base_skip", low=-MAX_SIZE), base_files)
    found.medians = read("median", high=1 << 63)
    found.largest = read("largest", high=1 << 63)
    return found


def _enter_lengths(tensors: Tensors, columns: Columns) -> None:
    """Types, shapes and what follows from them; what many tensors share is in memory once."""
    dtypes = columns.checked("tensors", "dtype", unicode)
    for unknown in {*dtypes} - {*DTYPES}:
        name = tensors.names[dtypes.index(unknown)]
        raise UnsupportedError("unknown dtype", tensor=name, found=unknown)
    tensors.dtypes = [*map(DTYPES.__getitem__, dtypes)]
    values, ends = columns.lists("tensors", "shape")
    sides = memoryview(values)
    # By their bytes, of which Python makes a hash with a secret: numbers may have been chosen to
    # have one hash, and then each would be compared with all others.
    known: dict[tuple[str, bytes], tuple[tuple[int, ...], int, int]] = {}
    start = 0
    for dtype, end in zip(dtypes, ends, strict=True):
        key = dtype, sides[start:end].tobytes()
        start = end
        if key not in known:
            shape = tuple(memoryview(key[1]).cast("q"))
            n_bytes = DTYPES[dtype].n_bytes(shape)
            if n_bytes is None or n_bytes > MAX_SIZE:
                raise ValueError(f"bad shape {list(shape)}")
            known[key] = shape, n_bytes, n_bytes // DTYPES[dtype].word_bytes
        shape, n_bytes, n_words = known[key]
        tensors.shapes.append(shape)
        tensors.n_bytes.append(n_bytes)
        tensors.n_words.append(n_words)


def _enter_places(tensors: Tensors, skip: array[int], files: list[TargetFile]) -> None:
    """Where tensors lie in target files."""
    ends = accumulate(file.n_tensors for file in files)
    for file, end in zip(files, ends, strict=True):
        offsets: list[int] = []
        end_of_last = n_bytes = 0
        if file.n_tensors:  # of files without any there may be very many
            rows = slice(end - file.n_tensors, end)
            lengths = tensors.n_bytes[rows]
            offsets += accumulate(map(add, skip[rows], chain((0,), lengths)))
            # Offsets never fall, so the last one tells whether all of them fit.
            end_of_last, n_bytes = offsets[-1] + lengths[-1], sum(lengths)
        if end_of_last > file.size or file.size - n_bytes > MAX_SKELETON_BYTES:
            raise ValueError(f"tensors do not fit {file.name!r}")
        tensors.offsets.extend(offsets)


def _enter_bases(
    tensors: Tensors, bases: list[int | None], skip: array[int], files: list[BaseFile]
) -> None:
    """Where the bases of tensors lie in base files."""
    same = [*range(len(files))]  # one integer for each file, of however many tensors
    tensors.base_files = [None if base is None else same[base] for base in bases]
    sizes = [file.size for file in files]
    cursor = [0] * len(files)
    lengths = _based_bytes(tensors)
    for base, distance, n_bytes in zip(tensors.base_files, skip, lengths, strict=True):
        if base is None:
            if n_bytes or distance:
                raise ValueError("tensor without a base file has a base")
            begin = 0
        else:
            begin = cursor[base] + distance
            cursor[base] = end = begin + n_bytes
            if not 0 <= begin < end <= sizes[base]:
                name = tensors.names[len(tensors.base_offsets)]
                raise ValueError(f"base of {name!r} lies outside its file")
        tensors.base_offsets.append(begin)


def _widths(tensors: Tensors) -> Iterator[int]:
    """Bytes per word."""
    width = {dtype.name: dtype.word_bytes for dtype in DTYPES.values()}
    return (width[dtype.name] for dtype in tensors.dtypes)


def _based_bytes(tensors: Tensors) -> Iterator[int]:
    """How many bytes have a base."""
    return map(mul, tensors.n_based, _widths(tensors))


def _slice(rows: range) -> slice:
    return slice(rows.start, rows.stop)
