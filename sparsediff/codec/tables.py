"""Frequency tables of the entropy coder: where they come from and how they are stored.

Enters: counts of symbols, or the two numbers a geometric table follows from.
Leaves: 14-bit frequencies, and their serialised form. All arithmetic that a
decoder repeats is on integers, so every machine gets the same table
(format.md, "Frequency tables").
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sparsediff.codec.varint import Reader, varint
from sparsediff.errors import CorruptError
from sparsediff.kernels.rans import SCALE, SCALE_BITS

STORED = SCALE // 4  # stored frequencies are coarser: a varint each, most of one byte

Table = npt.NDArray[np.uint32]  # (256,), sums to SCALE
Counts = npt.NDArray[np.int64]  # (256,)


def number_class(value: int) -> int:
    """Class of one non-negative number (format.md, "Numbers")."""
    if value < 2:
        return value
    octave = value.bit_length() - 1
    return 2 * octave + (value >> (octave - 1) & 1)


def geometric(n_marked: int, n_members: int) -> Table:
    """Table of gap classes when ``n_marked`` of ``n_members`` are marked at random.

    The chance that a gap is at least ``a`` is (1 - n_marked / n_members) ** a,
    computed in 32-bit fixed point by squaring.

    Args:
        n_marked: at most ``n_members``.
        n_members: below 2^32.
    """
    last = number_class(n_members - n_marked)
    one = 1 << 32
    survival = [one, one * (n_members - n_marked) // n_members]  # at the start of each class
    power, half = survival[1], one  # q ** 2^b, q ** 2^(b-1)
    while len(survival) <= last + 1:
        half, power = power, power * power >> 32
        survival += [power, power * half >> 32]
    survival = [*survival[: last + 1], 0]
    freqs = [max(1, (survival[c] - survival[c + 1]) >> (32 - SCALE_BITS)) for c in range(last + 1)]
    freqs[freqs.index(max(freqs))] += SCALE - sum(freqs)
    table = np.zeros(256, np.uint32)
    table[: last + 1] = freqs
    return table


def fitted(counts: Counts) -> Table:
    """Table close to ``counts`` in which every symbol that occurs has a frequency."""
    return _fit(counts, STORED) * np.uint32(SCALE // STORED)


def _fit(counts: Counts, scale: int) -> Table:
    total = int(counts.sum())
    freqs = (counts * scale * 2 + total) // (2 * total)
    freqs[(counts > 0) & (freqs == 0)] = 1
    excess = int(freqs.sum()) - scale
    while excess > 0:  # rare symbols rounded up to 1: the frequent ones pay
        top = int(freqs.argmax())
        taken = min(excess, max(1, int(freqs[top]) // 8))
        freqs[top] -= taken
        excess -= taken
    freqs[int(freqs.argmax())] -= excess
    return freqs.astype(np.uint32)


def fitted_symmetric(counts: Counts) -> Table:
    """Like `fitted`, with equal frequencies for the two signs of a step."""
    table = np.zeros(256, np.uint32)
    pairs = np.zeros(256, np.int64)
    pairs[:128] = counts.reshape(128, 2).sum(axis=1)
    table[0::2] = table[1::2] = _fit(pairs, STORED // 2)[:128]
    return table * np.uint32(SCALE // STORED)


def cost_bits(counts: Counts, table: Table) -> float:
    """Bits that symbols with these counts take under ``table``; inf if one has no code."""
    used = counts > 0
    if np.any(table[used] == 0):
        return float("inf")
    return float(counts[used] @ (SCALE_BITS - np.log2(table[used])))


def dump(table: Table) -> bytes:
    """Serialise a table that `fitted` made: a quarter of its frequencies."""
    return _dump(table // np.uint32(SCALE // STORED))


def load(reader: Reader) -> Table:
    """Inverse of `dump`.

    Raises:
        CorruptError: the bytes are not a table.
    """
    return _load(reader, STORED) * np.uint32(SCALE // STORED)


def _dump(table: Table) -> bytes:
    """First symbol, last symbol, all frequencies but the last as varints."""
    used = np.flatnonzero(table)
    first, last = int(used[0]), int(used[-1])
    return bytes([first, last]) + b"".join(varint(int(f)) for f in table[first:last])


def _load(reader: Reader, scale: int) -> Table:
    """Inverse of `_dump`, for frequencies that sum to ``scale``.

    Raises:
        CorruptError: the bytes are not a table.
    """
    first, last = reader.byte(), reader.byte()
    if first > last:
        raise CorruptError("frequency table runs backwards")
    table = np.zeros(256, np.uint32)
    left = scale
    for symbol in range(first, last):
        freq = reader.varint()
        left -= freq
        if left <= 0:
            raise CorruptError("frequency table sums past its scale", expected=scale)
        table[symbol] = freq
    table[last] = left
    return table


def load_symmetric(reader: Reader) -> Table:
    """Table of step symbols stored as one frequency per class.

    Raises:
        CorruptError: the bytes are not such a table.
    """
    by_class = _load(reader, STORED // 2)
    if by_class[128:].any():
        raise CorruptError("step class out of range")
    return np.repeat(by_class[:128], 2) * np.uint32(SCALE // STORED)


def dump_symmetric(table: Table) -> bytes:
    """Inverse of `load_symmetric`."""
    by_class = np.zeros(256, np.uint32)
    by_class[:128] = table[0::2] // np.uint32(SCALE // STORED)
    return _dump(by_class)
