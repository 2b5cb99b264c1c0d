"""The compiled kernels: same names, same results as the reference, bit for bit.

Enters and leaves: what `reference`, `steps` and `rans` say, with views of memory in the place of
arrays. The loops are in ``native/``; they release the interpreter lock and never leave the buffers
given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Literal, TypeVar

from sparsediff.checksum import Sums
from sparsediff.dtypes import DType
from sparsediff.errors import CorruptError
from sparsediff.kernels import _native
from sparsediff.kernels.symbols import (
    N_SYMBOLS,
    Counts,
    Extents,
    Sampled,
    Survey,
    TakenIn,
    Tiers,
    Words,
)

T = TypeVar("T")

_FORMATS: dict[int, Literal["B", "H", "I", "Q"]] = {1: "B", 2: "H", 4: "I", 8: "Q"}
_KINDS = ("float", "signed", "unsigned")

use = _native.use
read_integers = _native.read_integers  # see `integers.read_integers`


def _read(call: Callable[..., T], *args: Any) -> T:
    """What a call on bytes of a payload gives, which may be any bytes."""
    try:
        return call(*args)
    except ValueError as e:
        raise CorruptError(str(e)) from None


@cache
def _layout(dtype: DType) -> tuple[int, int, int]:
    return dtype.word_bits, _KINDS.index(dtype.kind), dtype.class_shift


def _words(memory: bytearray, dtype: DType) -> Words:
    return memoryview(memory).cast(_FORMATS[dtype.word_bytes])


def room(n_words: int, dtype: DType) -> Words:
    """See `steps.room`."""
    return _words(_native.room(n_words * dtype.word_bytes), dtype)


def choose_by_sample(
    base: Extents, target: Extents, stride: int, size: int, dtype: DType
) -> Sampled | None:
    """See `reference.choose_by_sample`."""
    found = _native.choose_by_sample(*_layout(dtype), base, target, stride, size)
    if found is None:
        return None
    choice, words = found
    return choice, words and (_words(words[0], dtype), _words(words[1], dtype))


def survey(base: Words, target: Words, dtype: DType, *, by_class: bool = True) -> Survey:
    """See `steps.survey`."""
    word_bits, kind, shift = _layout(dtype)
    if not by_class:
        shift = word_bits - 1  # leaves nothing of the magnitude
    members, steps, largest = _native.survey(word_bits, kind, shift, base, target)
    n = len(members) // 8
    return Survey(
        memoryview(members).cast("q"), memoryview(steps).cast("q", (n, N_SYMBOLS)), largest
    )


def count_steps(base: Words, target: Words, dtype: DType, counts: Counts) -> int:
    """See `steps.count_steps`."""
    word_bits, kind, _ = _layout(dtype)
    return _native.count_steps(word_bits, kind, base, target, counts)


def count_parts(
    base: Words, target: Words, dtype: DType, ends: Sequence[int]
) -> tuple[list[list[int]], list[int]]:
    """See `steps.count_parts`."""
    word_bits, kind, _ = _layout(dtype)
    return _native.count_parts(word_bits, kind, base, target, ends)


def differences(base: Words, target: Words) -> tuple[Words, Words, Words]:
    """See `steps.differences`."""
    positions, *words = _native.differences(base.itemsize, base, target)
    old, new = (memoryview(w).cast(_FORMATS[base.itemsize]) for w in words)
    return memoryview(positions).cast("i"), old, new


def take_in(
    base: Extents,
    target: Extents,
    memory: Sequence[Words] | None,
    ends: Sequence[int],
    piece_words: int,
    dtype: DType,
    tiers: Tiers | None,
) -> TakenIn | None:
    """See `reference.take_in`."""
    sides = zip((base, target), memory or (None, None), strict=True)
    found = _native.take_in(*_layout(dtype), tiers, piece_words, ends, *sides)
    return found and TakenIn(*found)


def rebuild(
    base: Extents,
    target: Extents,
    ends: Sequence[int],
    piece_words: int,
    dtype: DType,
    patcher: Patcher | None,
) -> tuple[Sums, Sums] | None:
    """See `reference.rebuild`."""
    if patcher is None:
        word_bits, kind, _ = _layout(dtype)
        return _native.rebuild(word_bits, kind, piece_words, ends, base, target)
    return _read(patcher.native.rebuild, piece_words, ends, base, target)


class Differ:
    """See `reference.Differ`."""

    def __init__(self, dtype: DType, bounds: list[int], marks_unchanged: list[bool]) -> None:
        self.native = _native.Diff(*_layout(dtype), bounds, marks_unchanged)

    def feed(self, base: Words, target: Words, counts: Counts) -> int:
        """See `reference.Differ.feed`."""
        return self.native.feed(base, target, counts)


def payload_of(differ: Differ) -> bytes:
    """See `payloads.payload_of`."""
    return differ.native.payload()


class Patcher:
    """See `reference.Patcher`, and `payloads.patcher`."""

    def __init__(self, payload: bytes, n_words: int, dtype: DType) -> None:
        self.native = _read(_native.Patch, *_layout(dtype), payload, n_words)

    def feed(self, words: Words) -> None:
        """See `reference.Patcher.feed`."""
        _read(self.native.feed, words)

    def finish(self) -> None:
        """See `reference.Patcher.finish`."""
        _read(self.native.finish)


patcher = Patcher


def choose_tiers(survey: Survey, scale: float = 1.0) -> tuple[list[int], list[bool], float]:
    """See `tiers.choose_tiers`."""
    return _native.choose_tiers(survey.members, survey.steps, scale)


def literals(data: Words | bytes, stride: int) -> int:
    """See `steps.literals`."""
    return _native.literals(data, stride)


def planes(target: Words, base: Words | None, starts: Sequence[int], size: int) -> bytearray:
    """See `steps.planes`."""
    return _native.planes(target.itemsize, target, base, starts, size)


def from_planes(planes: bytes, first: int, words: Words, *, is_xor: bool) -> None:
    """See `steps.from_planes`."""
    _native.from_planes(planes, first, words.itemsize, words, is_xor)
