"""Words, tensors and checkpoints for trips: of every type, shape, density and history."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from sparsediff.dtypes import DTYPES, DType
from tests.support.pairs import Array, Stored, safetensors_bytes

Random = np.random.Generator
Files = dict[str, bytes]
_TYPES = list(DTYPES.values())


def some_dtype(rng: Random) -> DType:
    """BF16 and F32 more often than others."""
    if rng.random() < 0.3:
        return DTYPES["BF16" if rng.random() < 0.6 else "F32"]
    return _TYPES[rng.integers(len(_TYPES))]


def some_words(rng: Random, dtype: DType, n: int) -> Array:
    """Words as a trainer has them, or any bits, or few values."""
    raw = n * dtype.word_bits // 8
    kind = rng.integers(4)
    if kind == 0:
        data = rng.bytes(raw)
    elif kind == 1:
        data = bytes([rng.integers(256)]) * raw
    elif kind == 2:
        few = rng.integers(0, 256, 4 * dtype.word_bits // 8, np.uint8)
        data = np.resize(few, raw).tobytes()
    else:
        values = (rng.standard_normal(n) * 10.0 ** rng.integers(-3, 3)).astype("<f4")
        bits = values.view("<u4")
        shift = max(0, 32 - dtype.word_bits)
        return (bits >> np.uint32(shift)).astype(dtype.numpy)
    return np.frombuffer(data, dtype.numpy).copy()


def changed(rng: Random, words: Array) -> Array:
    """The same with some of them other: by small steps, by any, or in a pattern."""
    n, out = words.size, words.copy()
    if not n:
        return out
    density = (0.0, 1.0, 0.5, rng.random(), rng.random() ** 4, 1 / n)[rng.integers(6)]
    at = np.flatnonzero(rng.random(n) < density)
    if rng.random() < 0.1:
        at = np.arange(0, n, rng.integers(1, 9))
    width = 8 * out.itemsize
    kind = rng.integers(4)
    if kind == 0:
        steps = rng.integers(1, 3, at.size, np.uint64)
    elif kind == 1:
        steps = (rng.integers(0, 2, at.size) * 2 - 1).astype(np.uint64)
    elif kind == 2:
        steps = rng.integers(0, 1 << int(rng.integers(1, width)), at.size, np.uint64)
    else:
        steps = rng.integers(0, (1 << width) - 1, at.size, np.uint64, endpoint=True)
    out[at] += steps.astype(out.dtype)
    return out


def some_shape(rng: Random, dtype: DType) -> tuple[int, ...]:
    """Up to some thousand elements, none and one among them."""
    shape = tuple(int(s) for s in rng.integers(0, (1, 12, 120, 40)[rng.integers(4)], 3))
    shape = shape[: rng.integers(4)]
    if rng.random() < 0.1:
        shape = (int(rng.integers(1, 4000)),)
    while dtype.n_bytes(shape) is None or np.prod(shape, dtype=int) > 6000:
        shape = (8 * int(rng.integers(0, 40)),)
    return shape


def tensor(rng: Random, dtype: DType | None = None) -> Stored:
    """One of any type."""
    dtype = dtype or some_dtype(rng)
    shape = some_shape(rng, dtype)
    n_bytes = dtype.n_bytes(shape)
    assert n_bytes is not None
    words = some_words(rng, dtype, n_bytes // dtype.word_bytes)
    return dtype.name, shape, words.tobytes()


def tensors(rng: Random) -> dict[str, Stored]:
    """Some, with names that sort in no order."""
    return {f"{rng.integers(99)}.{i}": tensor(rng) for i in range(rng.integers(0, 5))}


def after(rng: Random, before: Mapping[str, Stored]) -> dict[str, Stored]:
    """A step of training; now and then a tensor goes, comes, grows, or gets another name."""
    found: dict[str, Stored] = {}
    for name, (dtype, shape, data) in before.items():
        fate = rng.integers(20)
        words = changed(rng, np.frombuffer(data, DTYPES[dtype].numpy))
        stepped = dtype, shape, words.tobytes()
        if fate == 0:
            continue
        if fate == 1:
            found[f"new.{name}"[-40:]] = stepped
        elif fate == 2 and len(shape) == 2 and shape[0] and DTYPES[dtype].bits % 8 == 0:
            row = words[: words.size // shape[0]].tobytes()
            found[name] = dtype, (shape[0] + 1, *shape[1:]), words.tobytes() + row
        elif fate == 3:
            found[name] = tensor(rng)
        elif fate == 4:
            found[name] = dtype, shape, data
        else:
            found[name] = stepped
    if rng.random() < 0.1:
        found[f"more.{rng.integers(99)}"] = tensor(rng)
    if rng.random() < 0.05:
        found = dict(reversed(found.items()))
    return found


State = dict[str, dict[str, Stored]]
"""Tensors by file; a checkpoint of one file has the empty name."""


def state(rng: Random) -> State:
    """A checkpoint: a file, or a directory of some."""
    if rng.random() < 0.4:
        return {"": tensors(rng)}
    return {f"m{i}.safetensors": tensors(rng) for i in range(rng.integers(1, 4))}


def later(rng: Random, before: State) -> State:
    """The next one."""
    return {name: after(rng, held) for name, held in before.items()}


def files(rng: Random, held: State) -> Files:
    """The files of a checkpoint; a directory has some that are no tensors."""
    metadata = {"step": str(rng.integers(3))} if rng.random() < 0.5 else None
    found = {name: safetensors_bytes(t, metadata=metadata) for name, t in held.items()}
    if "" not in found:
        found["config.json"] = b'{"step": %d}' % rng.integers(2)
        if rng.random() < 0.2:
            found["sub/empty"] = b""
    return found


def write(path: Path, content: Files) -> Path:
    """Put files on the disk."""
    for name, data in content.items():
        file = path / name if name else path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    return path
