"""Frequency tables of the entropy coder: where they come from and how they are stored.

Enters: counts of symbols, or the two numbers a geometric table follows from;
one row for each table. Leaves: 14-bit frequencies, and their serialised form.
All arithmetic that a decoder repeats is on integers, so every machine gets the
same table (format.md, "Frequency tables").
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from sparsediff.codec.varint import Reader, varint
from sparsediff.errors import CorruptError
from sparsediff.kernels.numbers import class_of
from sparsediff.kernels.rans import SCALE, SCALE_BITS

STORED = SCALE // 4  # stored frequencies are coarser: a varint each, most of one byte

Table = npt.NDArray[np.uint32]  # (256,), sums to SCALE
Tables = npt.NDArray[np.uint32]  # (n_tables, 256), each row sums to SCALE
Counts = npt.NDArray[np.int64]  # (n_tables, 256)

# Bits that a symbol of each frequency takes; infinite for frequency 0. Rounded, because
# the last digit of a logarithm is not the same on every processor.
with np.errstate(divide="ignore"):
    _BITS = np.round(SCALE_BITS - np.log2(np.arange(SCALE + 1)), 6)


def geometric(n_marked: Sequence[int], n_members: Sequence[int]) -> Tables:
    """Tables of gap classes when ``n_marked`` of ``n_members`` are marked at random.

    The chance that a gap is at least ``a`` is (1 - n_marked / n_members) ** a,
    computed in 32-bit fixed point by squaring.

    Args:
        n_marked: at least 1, at most ``n_members``.
        n_members: below 2^32.
    """
    tables = np.zeros((len(n_marked), 256), np.uint32)
    for table, marked, members in zip(tables, n_marked, n_members, strict=True):
        last = class_of(members - marked)  # of the largest possible gap
        # The chance to reach each class, times 2^32; q ** 2^b and q ** (2^b + 2^(b-1)) from
        # octave b.
        power = ((members - marked) << 32) // members
        reached = [1 << 32, power]
        while len(reached) <= last:
            square = power * power >> 32
            reached += square, square * power >> 32
            power = square
        reached[last + 1 :] = [0]
        freqs = [(a - b >> 32 - SCALE_BITS) or 1 for a, b in pairwise(reached)]
        freqs[freqs.index(max(freqs))] += SCALE - sum(freqs)
        table[: last + 1] = freqs
    return tables


def fitted(counts: Counts) -> Tables:
    """Tables close to ``counts`` in which every symbol that occurs has a frequency."""
    return _fit(counts, STORED) * np.uint32(SCALE // STORED)


def _fit(counts: Counts, scale: int) -> Tables:
    total = counts.sum(axis=1, keepdims=True)
    freqs = (counts * scale * 2 + total) // (2 * total)
    freqs[(counts > 0) & (freqs == 0)] = 1
    excess = freqs.sum(axis=1) - scale
    for row in np.flatnonzero(excess > 0):  # rare symbols rounded up to 1: the frequent ones pay
        while excess[row] > 0:
            top = int(freqs[row].argmax())
            taken = min(int(excess[row]), max(1, int(freqs[row, top]) // 8))
            freqs[row, top] -= taken
            excess[row] -= taken
    freqs[np.arange(len(freqs)), freqs.argmax(axis=1)] -= excess
    return np.asarray(freqs, np.uint32)


def fitted_symmetric(counts: Counts) -> Tables:
    """Like `fitted`, with equal frequencies for the two signs of a step."""
    pairs = np.zeros_like(counts)
    pairs[:, :128] = counts.reshape(-1, 128, 2).sum(axis=2)
    by_class = _fit(pairs, STORED // 2)[:, :128]
    return np.asarray(np.repeat(by_class, 2, axis=1) * np.uint32(SCALE // STORED))


def cost_bits(counts: Counts, tables: Tables) -> npt.NDArray[np.float64]:
    """Bits that symbols with these counts take under their tables; inf where one has no code."""
    with np.errstate(invalid="ignore"):
        bits = counts * _BITS[tables]
    return np.asarray(np.rint(np.where(counts > 0, bits, 0.0).sum(axis=-1)))


def stored_bytes(tables: Tables, *, symmetric: bool = False) -> npt.NDArray[np.int64]:
    """Size of what `dump` or `dump_symmetric` makes of each table."""
    stored = tables // np.uint32(SCALE // STORED)
    if symmetric:
        stored = stored[:, 0::2]
    used = stored > 0
    first, last = used.argmax(axis=1), used.shape[1] - 1 - used[:, ::-1].argmax(axis=1)
    wide = stored > 127
    rows = np.arange(len(tables))
    return np.asarray(2 + last - first + wide.sum(axis=1) - wide[rows, last])


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
