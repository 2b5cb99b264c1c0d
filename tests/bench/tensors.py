"""Read and compare safetensors files without NumPy, in little memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import BinaryIO, NamedTuple

CHUNK = 1 << 20  # bytes


class Span(NamedTuple):
    """Where one tensor lies in its file."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


def spans(path: Path) -> dict[str, Span]:
    """The tensors of a safetensors file, in the order of its header."""
    with path.open("rb") as f:
        length = int.from_bytes(f.read(8), "little")
        header = json.loads(f.read(length))
    start = 8 + length
    return {
        name: Span(t["dtype"], tuple(t["shape"]), start + t["data_offsets"][0], -int.__sub__(*ends))
        for name, t in header.items()
        if name != "__metadata__" and (ends := t["data_offsets"])
    }


def _equal(a: BinaryIO, b: BinaryIO, n: int) -> bool:
    while n > 0:
        one, two = a.read(min(n, CHUNK)), b.read(min(n, CHUNK))
        if one != two or not one:
            return False
        n -= len(one)
    return True


def exactness(target: Path, rebuilt: Path) -> str:
    """How a rebuilt file compares with its target.

    Returns:
        "yes" if every byte is the same; "tensors" if the file differs, but every
        tensor in it has the name, dtype, shape and bytes it should have; else "no".
    """
    if not rebuilt.is_file():
        return "no"
    size = target.stat().st_size
    with target.open("rb") as a, rebuilt.open("rb") as b:
        if size == rebuilt.stat().st_size and _equal(a, b, size):
            return "yes"
        try:
            ours, theirs = spans(target), spans(rebuilt)
        except (ValueError, KeyError):
            return "no"
        if ours.keys() != theirs.keys():
            return "no"
        for name, span in ours.items():
            if span[:2] != theirs[name][:2]:
                return "no"
            a.seek(span.offset)
            b.seek(theirs[name].offset)
            if not _equal(a, b, span.nbytes):
                return "no"
    return "tensors"
