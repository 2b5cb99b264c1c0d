"""Three simple codecs, as others use them, run as a process of their own like every tool.

    python -m tests.bench.simple make CODEC BASE TARGET PATCH
    python -m tests.bench.simple apply CODEC BASE PATCH OUT

- coo: int32 indices and values per tensor in a safetensors file (the layout of
  TRL's weight sync).
- gaps: per tensor the gaps between changed positions as u16, an escape for
  longer ones, and the raw values, all of it through zstd -1 (the layout of RL
  systems that ship sparse updates).
- xor-N: XOR of the whole files through zstd -N.

coo and gaps carry no header: base and target must hold the same tensors at the
same places, and what lies between them comes from the base.
"""

from __future__ import annotations

import mmap
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zstandard

from tests.bench.tensors import spans

Array = npt.NDArray[Any]
ESCAPE = 65535
THREADS = 2  # as many as sparsediff gets


def _word(nbytes: int, elements: int) -> np.dtype[Any]:
    size = nbytes // max(elements, 1)
    return np.dtype(f"u{size}") if size in (1, 2, 4, 8) else np.dtype(np.uint8)


def _open(path: Path, write: bool = False) -> Array:
    """The bytes of a file, mapped."""
    with path.open("r+b" if write else "rb") as f:
        access = mmap.ACCESS_WRITE if write else mmap.ACCESS_READ
        return np.frombuffer(mmap.mmap(f.fileno(), 0, access=access), np.uint8)


def _tensors(path: Path, data: Array) -> Iterator[tuple[str, Array]]:
    """Name and words of each tensor of a file with the bytes ``data``."""
    for name, span in spans(path).items():
        words = data[span.offset : span.offset + span.nbytes]
        yield name, words.view(_word(span.nbytes, int(np.prod(span.shape))))


def _changes(base: Path, target: Path) -> Iterator[tuple[str, Array, Array]]:
    """Name, positions and new words of each tensor."""
    if spans(base) != spans(target):
        sys.exit("base and target do not hold the same tensors at the same places")
    pairs = zip(_tensors(base, _open(base)), _tensors(target, _open(target)), strict=True)
    for (name, before), (_, after) in pairs:
        at = np.flatnonzero(before != after)
        yield name, at, after[at]


def _safetensors(path: Path, arrays: dict[str, Array]) -> None:
    from tests.support.pairs import write_safetensors

    names = {"u1": "U8", "u2": "U16", "u4": "U32", "u8": "U64", "i4": "I32"}
    stored = {k: (names[a.dtype.str[1:]], a.shape, a.tobytes()) for k, a in arrays.items()}
    write_safetensors(path, stored)


def to_gaps(at: Array) -> Array:
    """Ascending positions as u16 gaps; each `ESCAPE` skips that many more elements."""
    gaps = np.diff(at, prepend=-1) - 1
    ends = np.cumsum(gaps // ESCAPE + 1)
    stream = np.full(ends[-1] if len(ends) else 0, ESCAPE, np.uint16)
    stream[ends - 1] = gaps % ESCAPE
    return stream


def from_gaps(stream: Array) -> Array:
    """The positions again, int64."""
    escape = stream == ESCAPE
    at = np.cumsum(stream.astype(np.int64) + ~escape) - 1
    return np.asarray(at[~escape])


def make_coo(base: Path, target: Path, patch: Path) -> None:
    """Write indices and values."""
    arrays = {}
    for name, at, values in _changes(base, target):
        arrays[f"{name}.indices"] = at.astype(np.int32)
        arrays[f"{name}.values"] = values
    _safetensors(patch, arrays)


def apply_coo(base: Path, patch: Path, out: Path) -> None:
    """Copy the base, then set the values."""
    parts = {n: a.view(np.int32) for n, a in _tensors(patch, _open(patch)) if n.endswith("indices")}
    values = {n: a for n, a in _tensors(patch, _open(patch)) if n.endswith("values")}
    shutil.copyfile(base, out)
    for name, words in _tensors(out, _open(out, write=True)):
        words[parts[f"{name}.indices"]] = values[f"{name}.values"].view(words.dtype)


def make_gaps(base: Path, target: Path, patch: Path) -> None:
    """Counts of all tensors, then gaps and values of each, in one frame."""
    streams = [(to_gaps(at), values) for _, at, values in _changes(base, target)]
    counts = np.array([(gaps.size, values.size) for gaps, values in streams], np.int64)
    parts = [counts.tobytes(), *(a.tobytes() for pair in streams for a in pair)]
    patch.write_bytes(zstandard.ZstdCompressor(level=1, threads=THREADS).compress(b"".join(parts)))


def apply_gaps(base: Path, patch: Path, out: Path) -> None:
    """Copy the base, then set the values."""
    data = np.frombuffer(zstandard.ZstdDecompressor().decompress(patch.read_bytes()), np.uint8)
    shutil.copyfile(base, out)
    names = len(spans(base))
    counts = data[: 16 * names].view(np.int64).reshape(names, 2)
    at = 16 * names
    for (_, words), (n_gaps, n_values) in zip(_tensors(out, _open(out, True)), counts, strict=True):
        gaps = data[at : at + 2 * n_gaps].copy().view(np.uint16)
        at += 2 * n_gaps
        n_bytes = n_values * words.itemsize
        words[from_gaps(gaps)] = data[at : at + n_bytes].copy().view(words.dtype)
        at += n_bytes


def make_xor(base: Path, target: Path, patch: Path, level: int) -> None:
    """XOR of all bytes, through zstd with a window as long as the file."""
    a, b = _open(base), _open(target)
    if a.size != b.size:
        sys.exit("base and target differ in size")
    settings = zstandard.ZstdCompressionParameters.from_level(level, threads=THREADS)
    frame = zstandard.ZstdCompressor(compression_params=settings).compress((a ^ b).tobytes())
    patch.write_bytes(frame)


def apply_xor(base: Path, patch: Path, out: Path) -> None:
    """XOR again."""
    data = np.frombuffer(zstandard.ZstdDecompressor().decompress(patch.read_bytes()), np.uint8)
    out.write_bytes((_open(base) ^ data).data)


def main(verb: str, codec: str, first: Path, second: Path, third: Path) -> None:
    """Run one of them."""
    if codec.startswith("xor-"):
        if verb == "make":
            make_xor(first, second, third, int(codec[4:]))
        else:
            apply_xor(first, second, third)
        return
    verbs = {
        ("make", "coo"): make_coo,
        ("apply", "coo"): apply_coo,
        ("make", "gaps"): make_gaps,
        ("apply", "gaps"): apply_gaps,
    }
    verbs[verb, codec](first, second, third)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(Path, sys.argv[3:6]))
