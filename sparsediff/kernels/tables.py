"""Frequency tables of the entropy coder: which ones a bucket's tiers take, and as what bytes.

Enters: the symbols of tiers. Leaves: 14-bit frequencies, and their serialised form. All
arithmetic is on integers, so every machine gets the same tables (format.md, "Frequency
tables"); only `geometric` is part of the format, the rest is a choice of the encoder's.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from sparsediff.errors import CorruptError
from sparsediff.kernels.numbers import Int64s, log2_table
from sparsediff.kernels.rans import Tables
from sparsediff.kernels.symbols import (
    GAPS_GEOMETRIC,
    GAPS_TABLE,
    N_SYMBOLS,
    SCALE,
    SCALE_BITS,
    STEPS_AS_BEFORE,
    STEPS_SYMMETRIC,
    STEPS_TABLE,
    STORED,
    TierCode,
    class_of,
)
from sparsediff.kernels.varint import Reader

_NO_CODE = 1 << 60  # bits
_MILLION = 1_000_000

# Millionths of a bit that a symbol of each frequency takes.
MICROBITS = np.rint(_MILLION * (SCALE_BITS - log2_table(SCALE + 1))).astype(np.int64)


def geometric(n_marked: int, n_members: int) -> bytes:
    """Table of gap classes when ``n_marked`` of ``n_members`` are marked at random.

    The chance that a gap is at least ``a`` is (1 - n_marked / n_members) ** a,
    computed in 32-bit fixed point by squaring.

    Args:
        n_marked: at least 1, at most ``n_members``.
        n_members: below 2^32.
    """
    table = np.zeros(N_SYMBOLS, "<u4")
    last = class_of(n_members - n_marked)  # of the largest possible gap
    # The chance to reach each class, times 2^32; q ** 2^b and q ** (2^b + 2^(b-1)) from octave b.
    power = ((n_members - n_marked) << 32) // n_members
    reached = [1 << 32, power]
    while len(reached) <= last:
        square = power * power >> 32
        reached += square, square * power >> 32
        power = square
    reached[last + 1 :] = [0]
    freqs = [(a - b >> 32 - SCALE_BITS) or 1 for a, b in pairwise(reached)]
    freqs[freqs.index(max(freqs))] += SCALE - sum(freqs)
    table[: last + 1] = freqs
    return table.tobytes()


def tier_tables(tiers: Sequence[TierCode]) -> tuple[list[bytes], bytes]:
    """The cheapest tables for the gaps and the steps of tiers, all of which changed.

    Gaps may follow from the two counts of a tier; steps may be coded with equal frequencies for
    the two signs, or with the table of the tier before.

    Returns:
        heads: for each tier the kinds of its tables and what is stored of them.
        tables: uint32, (n_tables, 256): of gaps, where there are any, and steps of each tier, in
            order.
    """
    heads: list[bytes] = []
    tables: list[Tables] = []
    previous = np.zeros((1, N_SYMBOLS), np.uint32)  # codes nothing
    for tier in tiers:
        kinds, stored = GAPS_GEOMETRIC, b""
        if tier.n_marked:
            counts = _histogram(tier.gap_symbols)
            table = np.frombuffer(geometric(tier.n_marked, tier.n_members), "<u4")[None]
            own = fitted(counts[None])
            form = dump(own[0])
            if cost_bits(counts, table[0]) - cost_bits(counts, own[0]) > 8 * len(form):
                kinds, stored, table = GAPS_TABLE, form, own
            tables.append(table)
        counts = _histogram(tier.step_symbols)
        both, even = fitted(counts[None]), fitted_symmetric(counts[None])
        both_form, even_form = dump(both[0]), dump_symmetric(even[0])
        both_bits = cost_bits(counts, both[0]) + 8 * len(both_form)
        even_bits = cost_bits(counts, even[0]) + 8 * len(even_form)
        if cost_bits(counts, previous[0]) <= min(both_bits, even_bits):
            kinds |= STEPS_AS_BEFORE << 1
        elif even_bits <= both_bits:
            kinds |= STEPS_SYMMETRIC << 1
            stored += even_form
            previous = even
        else:
            kinds |= STEPS_TABLE << 1
            stored += both_form
            previous = both
        tables.append(previous)
        heads.append(bytes([kinds]) + stored)
    return heads, np.concatenate(tables).astype("<u4").tobytes()


def load(reader: Reader, *, is_symmetric: bool) -> bytes:
    """A table, uint32, (256,), from what is stored of it.

    First symbol, last symbol, all frequencies but the last, which sum to what they must with it.

    Args:
        reader: of a payload.
        is_symmetric: whether a frequency is that of both signs of a step.

    Raises:
        CorruptError: the bytes are not a table.
    """
    first, last = reader.byte(), reader.byte()
    if first > last:
        raise CorruptError("frequency table runs backwards")
    table = np.zeros(N_SYMBOLS, "<u4")
    scale = left = STORED // 2 if is_symmetric else STORED
    for symbol in range(first, last):
        freq = reader.varint()
        left -= freq
        if left <= 0:
            raise CorruptError("frequency table sums past its scale", expected=scale)
        table[symbol] = freq
    table[last] = left
    if is_symmetric:
        if table[N_SYMBOLS // 2 :].any():
            raise CorruptError("step class out of range")
        table = np.repeat(table[: N_SYMBOLS // 2], 2)
    return (table * np.uint32(SCALE // STORED)).astype("<u4").tobytes()


def _histogram(symbols: bytes) -> Int64s:
    return np.bincount(np.frombuffer(symbols, np.uint8), minlength=N_SYMBOLS)


def fitted(counts: Int64s) -> Tables:
    """Tables close to ``counts``, a row each, in which every symbol that occurs has a frequency."""
    return _fit(counts, STORED) * np.uint32(SCALE // STORED)


def _fit(counts: Int64s, scale: int) -> Tables:
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


def fitted_symmetric(counts: Int64s) -> Tables:
    """Like `fitted`, with equal frequencies for the two signs of a step."""
    pairs = np.zeros_like(counts)
    pairs[:, :128] = counts.reshape(-1, 128, 2).sum(axis=2)
    by_class = _fit(pairs, STORED // 2)[:, :128]
    return np.asarray(np.repeat(by_class, 2, axis=1) * np.uint32(SCALE // STORED))


def cost_bits(counts: Int64s, table: Tables) -> int:
    """Bits that symbols with these counts take under a table; very many where one has no code."""
    if table[counts > 0].all():
        return (2 * int(counts @ MICROBITS[table]) + _MILLION) // (2 * _MILLION)
    return _NO_CODE


def dump(table: Tables) -> bytes:
    """Serialise a table that `fitted` made: a quarter of its frequencies."""
    return _dump(table // np.uint32(SCALE // STORED))


def dump_symmetric(table: Tables) -> bytes:
    """Serialise a table that `fitted_symmetric` made: one frequency for each class."""
    return _dump(table[0::2] // np.uint32(SCALE // STORED))


def _dump(freqs: Tables) -> bytes:
    """First symbol, last symbol, all frequencies but the last as varints of two bytes at most."""
    first, *_, last = used if len(used := np.flatnonzero(freqs).tolist()) > 1 else 2 * used
    out = bytearray([first, last])
    for f in freqs[first:last].tolist():
        out += bytes([f]) if f < 128 else bytes([f & 127 | 128, f >> 7])
    return bytes(out)
