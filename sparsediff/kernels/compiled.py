"""The compiled kernels: same names, same results as the reference, bit for bit.

Enters and leaves: what `reference` and `rans` say. The loops are in ``native/``;
they release the interpreter lock and never leave the buffers given.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from sparsediff.dtypes import DType
from sparsediff.errors import CorruptError
from sparsediff.kernels import _native
from sparsediff.kernels.numbers import Bytes, Int64s, class_of
from sparsediff.kernels.rans import Tables
from sparsediff.kernels.reference import Extents, TakenIn, TierCode
from sparsediff.kernels.steps import N_SYMBOLS, Survey, Words
from sparsediff.kernels.tables import MICROBITS
from sparsediff.kernels.tiers import LOG2

_KINDS = ("float", "signed", "unsigned")

_FEW_CLASSES = 16  # of steps, which are small as a rule
_SUM_BYTES = 16  # of an XXH3-128

use = _native.use
literals = _native.literals


@contextmanager
def _corrupt() -> Iterator[None]:
    try:
        yield
    except ValueError as e:
        raise CorruptError(str(e)) from None


def _layout(dtype: DType) -> tuple[int, int, int]:
    return dtype.word_bits, _KINDS.index(dtype.kind), dtype.class_shift


def survey(base: Words, target: Words, dtype: DType, *, by_class: bool = True) -> Survey:
    """See `steps.survey`."""
    word_bits, kind, shift = _layout(dtype)
    members = np.zeros(dtype.n_classes if by_class else 1, np.int64)
    steps = np.zeros((members.size, N_SYMBOLS), np.int64)
    if not by_class:
        shift = word_bits - 1  # leaves nothing of the magnitude
    largest = _native.survey(word_bits, kind, shift, base, target, members, steps)
    return Survey(members, steps, largest)


def count_steps(base: Words, target: Words, dtype: DType, counts: Int64s) -> int:
    """See `steps.count_steps`."""
    word_bits, kind, _ = _layout(dtype)
    return _native.survey(
        word_bits, kind, word_bits - 1, base, target, np.zeros(1, np.int64), counts
    )


def count_parts(
    base: Words, target: Words, dtype: DType, ends: Sequence[int]
) -> tuple[Int64s, list[int]]:
    """See `steps.count_parts`."""
    word_bits, kind, _ = _layout(dtype)
    at, largest = np.array(ends, np.int64), np.zeros(len(ends), np.uint64)
    needed = _FEW_CLASSES
    while True:
        by_class = np.zeros((len(ends), needed), np.int64)
        _native.count_parts(word_bits, kind, base, target, at, by_class, largest)
        needed = class_of(max(int(largest.max()), 1) - 1) + 1
        if needed <= by_class.shape[1]:
            return by_class[:, :needed], largest.tolist()


def take_in(
    base: Extents,
    target: Extents,
    memory: Sequence[Words],
    ends: Sequence[int],
    piece_words: int,
    dtype: DType,
    differ: Differ | None,
) -> TakenIn | None:
    """See `reference.take_in`."""
    n_parts = len(ends)
    by_class = np.zeros((n_parts, N_SYMBOLS // 2), np.int64)
    largest = np.zeros(n_parts, np.uint64)
    sums = [_room_for_sums(n_parts) for _ in memory]
    at = np.array(ends, np.int64)
    sides = (_extents(base), memory[0], sums[0]), (_extents(target), memory[1], sums[1])
    if differ is not None:
        is_read = differ.native.take_in(piece_words, at, by_class, largest, *sides)
    else:
        word_bits, kind, _ = _layout(dtype)
        is_read = _native.take_in(word_bits, kind, piece_words, at, by_class, largest, *sides)
    if not is_read:
        return None
    n_classes = class_of(max(int(largest.max()), 1) - 1) + 1
    counts = by_class[:, :n_classes].copy()
    return TakenIn(_in_hex(sums[0]), _in_hex(sums[1]), counts, largest.tolist())


def rebuild(
    base: Extents,
    target: Extents,
    ends: Sequence[int],
    piece_words: int,
    dtype: DType,
    patcher: Patcher | None,
) -> tuple[list[str], list[str]] | None:
    """See `reference.rebuild`."""
    base_sums, target_sums = (_room_for_sums(len(ends)) for _ in range(2))
    memory = np.empty(min(piece_words, ends[-1]), dtype.numpy)
    side, places, at = (_extents(base), memory, base_sums), _extents(target), np.array(ends)
    if patcher is None:
        word_bits, kind, _ = _layout(dtype)
        is_done = _native.rebuild(word_bits, kind, piece_words, at, side, places, target_sums)
        target_sums = base_sums
    else:
        with _corrupt():
            is_done = patcher.native.rebuild(piece_words, at, side, places, target_sums)
    return (_in_hex(base_sums), _in_hex(target_sums)) if is_done else None


def _extents(extents: Extents) -> Int64s:
    return np.array(extents, np.int64)


def _room_for_sums(n_parts: int) -> Bytes:
    return np.empty((n_parts, _SUM_BYTES), np.uint8)


def _in_hex(sums: Bytes) -> list[str]:
    text, digits = sums.tobytes().hex(), 2 * _SUM_BYTES
    return [text[at : at + digits] for at in range(0, len(text), digits)]


class Differ:
    """See `reference.Differ`."""

    def __init__(self, dtype: DType, bounds: list[int], marks_unchanged: list[bool]) -> None:
        self.native = _native.Diff(*_layout(dtype), bounds, bytes(marks_unchanged))

    def feed(self, base: Words, target: Words, counts: Int64s) -> int:
        """See `reference.Differ.feed`."""
        return self.native.feed(base, target, counts)

    def finish(self) -> list[TierCode]:
        """See `reference.Differ.finish`."""
        return [TierCode(*tier) for tier in self.native.finish()]


class Patcher:
    """See `reference.Patcher`."""

    def __init__(self, dtype: DType, bounds: list[int], tiers: list[TierCode]) -> None:
        rows = [
            (t.n_members, t.n_changed, t.gap_symbols, t.gap_extra, t.step_symbols, t.step_extra)
            for t in tiers
        ]
        with _corrupt():
            self.native = _native.Patch(*_layout(dtype), bounds, rows)

    def feed(self, words: Words) -> None:
        """See `reference.Patcher.feed`."""
        with _corrupt():
            self.native.feed(words)

    def finish(self) -> None:
        """See `reference.Patcher.finish`."""
        with _corrupt():
            self.native.finish()


def choose_tiers(survey: Survey, scale: float = 1.0) -> tuple[list[int], list[bool], float]:
    """See `tiers.choose_tiers`."""
    return _native.choose_tiers(survey.members, survey.steps, scale, LOG2)


def tier_tables(tiers: Sequence[TierCode]) -> tuple[list[bytes], Tables]:
    """See `tables.tier_tables`."""
    rows = [(t.n_members, t.gap_symbols, t.step_symbols) for t in tiers]
    heads, tables = _native.tier_tables(rows, MICROBITS)
    return heads, np.frombuffer(tables, np.uint32).reshape(-1, N_SYMBOLS)


def geometric(n_marked: Sequence[int], n_members: Sequence[int]) -> Tables:
    """See `tables.geometric`."""
    rows = b"".join(map(_native.geometric, n_marked, n_members))
    return np.frombuffer(rows, np.uint32).reshape(-1, N_SYMBOLS)


def histogram(symbols: bytes) -> Int64s:
    """See `steps.histogram`."""
    counts = np.zeros(N_SYMBOLS, np.int64)
    _native.histogram(symbols, counts)
    return counts


def rans_encode(runs: Sequence[bytes], tables: Tables, lanes: int) -> bytes:
    """See `rans.encode`."""
    sizes = [len(r) for r in runs]
    return _native.rans_encode(b"".join(runs), sizes, np.ascontiguousarray(tables), lanes)


def rans_decode(data: bytes, sizes: Sequence[int], tables: Tables, lanes: int) -> list[bytes]:
    """See `rans.decode`."""
    symbols = bytearray(sum(sizes))
    with _corrupt():
        _native.rans_decode(data, sizes, np.ascontiguousarray(tables), lanes, symbols)
    ends = np.cumsum(sizes).tolist()
    return [bytes(symbols[end - n : end]) for n, end in zip(sizes, ends, strict=True)]
