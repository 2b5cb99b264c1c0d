"""Base words and target words to steps, and counts of them, in NumPy.

Enters: equally long arrays of unsigned words and a `DType`. Leaves: keys, classes and
steps of the words, and how many there are of each: what is known of a pair of arrays
before it is coded. The specification of what is compiled, as `reference` is; the clauses
are in ``docs/format.md``. Never looks at a value as a float.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sparsediff.dtypes import DType
from sparsediff.kernels.numbers import CHUNK, Bytes, Int64s, UInt64s, number_classes
from sparsediff.kernels.symbols import N_SYMBOLS, Counts, Survey

Words = npt.NDArray[Any]  # uint8, uint16, uint32 or uint64; little-endian


def keys(words: Words, dtype: DType) -> Words:
    """Map words to keys whose unsigned order is the order of the values.

    A bijection for every bit pattern (format.md, "Keys").
    """
    sign = words.dtype.type(1 << (dtype.word_bits - 1))
    if dtype.kind == "float":
        # Arithmetic shift of the sign over the word: all ones where negative.
        negative = (words >> words.dtype.type(dtype.word_bits - 1)) * words.dtype.type(
            (1 << (dtype.word_bits - 1)) - 1
        )
        return np.asarray(words ^ (negative | sign))
    return words ^ sign if dtype.kind == "signed" else words


def words_of_keys(key: Words, dtype: DType) -> Words:
    """Inverse of `keys`."""
    sign = key.dtype.type(1 << (dtype.word_bits - 1))
    if dtype.kind == "float":
        positive = key >> key.dtype.type(dtype.word_bits - 1)
        inverted = (key.dtype.type(1) - positive) * key.dtype.type((1 << (dtype.word_bits - 1)) - 1)
        return np.asarray(key ^ (inverted | sign))
    return key ^ sign if dtype.kind == "signed" else key


def classes(words: Words, dtype: DType) -> Words:
    """Class of each word's magnitude, in ``range(dtype.n_classes)``."""
    magnitude = words & words.dtype.type((1 << (dtype.word_bits - 1)) - 1)
    return np.asarray(magnitude >> words.dtype.type(dtype.class_shift))


def step_symbols(base: Words, target: Words, dtype: DType) -> tuple[Bytes, UInt64s]:
    """Symbol and value of the step of each pair of differing words.

    Returns:
        symbols: uint8, shape (n_changed,): twice the class of |step| - 1,
            plus one where the step is negative.
        values: uint64, shape (n_changed,): |step| - 1, in ULP.
    """
    step = keys(target, dtype) - keys(base, dtype)  # modulo 2^word_bits
    negative = step >> step.dtype.type(dtype.word_bits - 1)
    one = step.dtype.type(1)
    values = (np.where(negative, ~step + one, step) - one).astype(np.uint64)
    return (2 * number_classes(values) + negative.astype(np.int64)).astype(np.uint8), values


def histogram(symbols: bytes) -> Int64s:
    """Number of each symbol, int64, (256,)."""
    return np.bincount(np.frombuffer(symbols, np.uint8), minlength=N_SYMBOLS)


def literals(data: Any, stride: int) -> int:
    """How many bytes, of every ``stride``-th, cost a bit each, whatever finds runs of four again.

    Those that lie in no run of four that was there before, nor may do so if more bytes follow,
    and differ from the byte before, of which the same is true: so they are not all alike.
    """
    found = np.frombuffer(data, np.uint8)[::stride].copy()
    if found.size < 4:
        return 0
    runs = np.ndarray(found.size - 3, "<u4", found, strides=(1,))
    is_again = np.ones(runs.size, np.bool_)
    is_again[np.unique(runs, return_index=True)[1]] = False
    is_literal = ~is_again
    for k in range(1, 4):
        is_literal[k:] &= ~is_again[:-k]
    return int(np.count_nonzero(is_literal[1:] & is_literal[:-1] & (np.diff(found[:-3]) != 0)))


def room(n_words: int, dtype: DType) -> Words:
    """Memory for so many words, not yet filled."""
    return np.empty(n_words, dtype.numpy)


def planes(target: Words, base: Words | None, starts: Sequence[int], size: int) -> Bytes:
    """Byte planes of runs of words: the lowest byte of all of them, then the next.

    Args:
        target: (n_words,).
        base: what it is combined with by XOR; None for nothing.
        starts: where each run starts.
        size: words of each.
    """
    word_bytes = target.itemsize
    made = np.empty((word_bytes, len(starts), size), np.uint8)
    for i, start in enumerate(starts):
        for b in range(word_bytes):
            made[b, i] = target[start : start + size].view(np.uint8)[b::word_bytes]
            if base is not None:
                made[b, i] ^= base[start : start + size].view(np.uint8)[b::word_bytes]
    return made.reshape(-1)


def from_planes(planes: bytes, first: int, words: Words, *, is_xor: bool) -> None:
    """Words from byte planes: all of ``words``, of which those of the planes from ``first`` on.

    By XOR the words there are change; else they are replaced.
    """
    by_plane = np.frombuffer(planes, np.uint8).reshape(words.itemsize, -1)
    by_byte = words.view(np.uint8).reshape(-1, words.itemsize).T
    found = by_plane[:, first : first + words.size]
    if is_xor:
        by_byte ^= found
    else:
        by_byte[:] = found


def differences(base: Words, target: Words) -> tuple[Words, Words, Words]:
    """Where words differ: positions (int32, increasing), and the words there, old and new."""
    at = np.flatnonzero(base != target).astype(np.int32)
    return at, base[at], target[at]


def survey(base: Words, target: Words, dtype: DType, *, by_class: bool = True) -> Survey:
    """Count members, changes and step symbols, per magnitude class or all in one."""
    n = dtype.n_classes if by_class else 1
    members = np.zeros(n, np.int64)
    steps = np.zeros(n * N_SYMBOLS, np.int64)
    largest = 0
    for i in range(0, base.size, CHUNK):
        b, t = base[i : i + CHUNK], target[i : i + CHUNK]
        members += (
            np.bincount(classes(b, dtype), minlength=n) if n > 1 else np.array([b.size], np.int64)
        )
        at = np.flatnonzero(b != t)
        if at.size == 0:
            continue
        b, t = b[at], t[at]
        symbols, values = step_symbols(b, t, dtype)
        largest = max(largest, int(values.max()) + 1)
        cell = symbols.astype(np.int64)
        if n > 1:
            cell += classes(b, dtype).astype(np.int64) * N_SYMBOLS
        if at.size * 8 < steps.size:
            where, count = np.unique(cell, return_counts=True)
            steps[where] += count
        else:
            steps += np.bincount(cell, minlength=steps.size)
    return Survey(members, steps.reshape(n, N_SYMBOLS), largest)


def count_steps(base: Words, target: Words, dtype: DType, counts: Counts) -> int:
    """Add the number of each step symbol to ``counts``, (256,); the largest |step| in ULP."""
    found = survey(base, target, dtype, by_class=False)
    np.asarray(counts)[:] += found.steps[0]
    return found.largest


def count_parts(
    base: Words, target: Words, dtype: DType, ends: Sequence[int]
) -> tuple[list[list[int]], list[int]]:
    """Count the steps of several parts, of which the words hold one after the other.

    Args:
        base: (n_words,).
        target: (n_words,).
        dtype: element type.
        ends: where each part ends, increasing; the last is n_words.

    Returns:
        by_class: (n_parts, n_classes): how many, by class of |step| - 1. As many classes
            as are needed, at least one.
        largest: the largest |step| of each part in ULP; 0 where nothing changed.
    """
    at = np.flatnonzero(base != target)
    symbols, values = step_symbols(base[at], target[at], dtype)
    part = np.searchsorted(ends, at, side="right")
    n_classes = int(symbols.max()) // 2 + 1 if at.size else 1
    cells = np.bincount(part * n_classes + (symbols >> 1), minlength=len(ends) * n_classes)
    largest = np.zeros(len(ends), np.uint64)
    if at.size:
        first = np.flatnonzero(np.diff(part, prepend=-1))
        largest[part[first]] = np.maximum.reduceat(values, first) + np.uint64(1)
    return cells.reshape(len(ends), n_classes).tolist(), largest.tolist()
