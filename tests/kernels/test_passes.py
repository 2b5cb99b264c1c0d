"""A bucket's words gone through in one native call, against each step by itself."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsediff import checksum
from sparsediff.codec import bucket
from sparsediff.dtypes import DTYPES, DType
from sparsediff.errors import CorruptError
from sparsediff.kernels import payloads, reference, steps
from tests.codec.test_buckets import word_pairs
from tests.kernels.test_compiled import choice_of, instructions
from tests.support.pairs import Array

compiled = pytest.importorskip("sparsediff.kernels.compiled", reason="built without a C compiler")
_native = pytest.importorskip("sparsediff.kernels._native")

__all__ = ["instructions"]  # for all of them

Extents = list[tuple[int, int, int]]


@pytest.fixture(scope="module")
def descriptor() -> Iterator[int]:
    with tempfile.TemporaryFile() as file:
        yield file.fileno()


def scattered(descriptor: int, words: Array, cuts: Sequence[int], start: int) -> Extents:
    """Write words into a file, with bytes of something else between the runs."""
    extents: Extents = []
    ends = [0, *sorted(c % (words.size + 1) for c in cuts), words.size]
    for a, b in pairwise(ends):
        data = words[a:b].tobytes()
        os.pwrite(descriptor, data + b"\xa5" * 3, start)
        extents.append((descriptor, start, len(data)))
        start += len(data) + 3
    return extents


def ends_of(n_words: int, cuts: Sequence[int]) -> list[int]:
    """Where parts end, of which none is empty."""
    return sorted({c % n_words for c in cuts} - {0} | {n_words})


def sums_of(words: Array, ends: Sequence[int]) -> checksum.Sums:
    """By the other binding, part by part."""
    each = [checksum.checksum(words[a:b]) for a, b in pairwise([0, *ends])]
    return checksum.checksum(bytes.fromhex("".join(each))), "".join(s[:2] for s in each)


def payload_of(base: Array, target: Array, dtype: DType) -> bytes:
    """By the reference."""
    choice = choice_of(base, target, dtype)
    differ = reference.Differ(dtype, choice.bounds, choice.marks_unchanged)
    differ.feed(base, target, np.zeros(256, np.int64))
    return payloads.payload_of(differ)


cuts = st.lists(st.integers(0, 1 << 20), max_size=8)


@given(word_pairs(), cuts, cuts, st.integers(1, 3000), st.booleans(), st.booleans())
def test_what_it_finds_is_what_the_steps_find(
    descriptor: int,
    pair: tuple[Array, Array, DType],
    of_files: list[int],
    of_parts: list[int],
    piece_words: int,
    keeps: bool,
    codes: bool,
) -> None:
    base, target, dtype = pair
    os.ftruncate(descriptor, 0)
    extents = [
        scattered(descriptor, base, of_files, 1),
        scattered(descriptor, target, of_files[::2], 1 << 23),
    ]
    memory = [np.empty(base.size, base.dtype) for _ in range(2)] if keeps else None
    ends = ends_of(base.size, of_parts)
    tiers = choice_of(base, target, dtype).tiers if codes else None
    found = compiled.take_in(*extents, memory, ends, piece_words, dtype, tiers)
    assert (found.base, found.target) == (sums_of(base, ends), sums_of(target, ends))
    assert found.counts == steps.count_parts(base, target, dtype, ends)
    if memory:
        assert np.array_equal(memory[0], base)
        assert np.array_equal(memory[1], target)
    changed = not np.array_equal(base, target)
    assert found.payload == (payload_of(base, target, dtype) if codes and changed else b"")


@given(word_pairs(), cuts, cuts, st.integers(1, 3000), st.booleans())
def test_what_it_rebuilds_is_what_the_steps_rebuild(
    descriptor: int,
    pair: tuple[Array, Array, DType],
    of_files: list[int],
    of_parts: list[int],
    piece_words: int,
    writes: bool,
) -> None:
    base, target, dtype = pair
    os.ftruncate(descriptor, 0)
    source = scattered(descriptor, base, of_files, 1)
    # Places of other sizes, and what was there between them stays.
    places = scattered(descriptor, np.zeros_like(base), of_files[1:], 1 << 23)
    before = os.pread(descriptor, 1 << 22, 1 << 23)
    if not writes:
        places = [(-1, at, size) for _, at, size in places]
    ends = ends_of(base.size, of_parts)
    cases: list[tuple[Any, Array]] = [(None, base)]
    if not np.array_equal(base, target):
        payload = payload_of(base, target, dtype)
        cases.append((compiled.patcher(payload, base.size, dtype), target))
    for patcher, expected in cases:
        found = compiled.rebuild(source, places, ends, piece_words, dtype, patcher)
        assert found is not None
        assert found == (sums_of(base, ends), sums_of(expected, ends))
        if patcher is not None:
            patcher.finish()
        if writes:
            written = b"".join(os.pread(fd, size, at) for fd, at, size in places)
            assert written == expected.tobytes()
            after = bytearray(os.pread(descriptor, 1 << 22, 1 << 23))
            for _, at, size in places:
                after[at - (1 << 23) : at - (1 << 23) + size] = bytes(size)
            assert after == before
        else:
            assert os.pread(descriptor, 1 << 22, 1 << 23) == before


def test_what_cannot_be_read_or_written_is_not_rebuilt(descriptor: int) -> None:
    os.ftruncate(descriptor, 40)
    read_only = os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY)
    whole, beyond, full = (descriptor, 0, 40), (descriptor, 2, 40), (read_only, 0, 40)
    dtype, words = DTYPES["BF16"], np.zeros(20, np.uint16)
    changed = words.copy()
    changed[7] = 1
    payload = payload_of(words, changed, dtype)
    try:
        for source, place in ((beyond, whole), (whole, full), (whole, (1 << 20, 0, 40))):
            patcher = compiled.patcher(payload, 20, dtype)
            assert compiled.rebuild([source], [place], [20], 4, dtype, patcher) is None
            with pytest.raises(AssertionError):
                patcher.finish()
    finally:
        os.close(read_only)
    corrupt = compiled.patcher(payload_of(words[:19], changed[:19], dtype), 20, dtype)
    assert compiled.rebuild([whole], [whole], [20], 4, dtype, corrupt) is not None
    with pytest.raises(CorruptError):
        corrupt.finish()
    for places in ([(descriptor, 0, 38)], [(descriptor, 0, 42)], [], [(descriptor, 0, -40)]):
        with pytest.raises(AssertionError, match="do not fit"):
            compiled.rebuild([whole], places, [20], 4, dtype, None)


def taken(extents: list[Extents], size: int | None, ends: list[int], n: int = 4) -> object:
    memory = None if size is None else [np.empty(size, np.uint16) for _ in range(2)]
    return compiled.take_in(*extents, memory, ends, n, DTYPES["BF16"], None)


def test_what_cannot_be_read_is_nothing(descriptor: int) -> None:
    os.ftruncate(descriptor, 40)
    whole, beyond, closed = (descriptor, 0, 40), (descriptor, 2, 40), (1 << 20, 0, 40)
    assert taken([[whole], [whole]], 20, [20]) is not None
    for one in (beyond, closed):
        assert taken([[whole], [one]], 20, [20]) is None
        assert taken([[one], [whole]], None, [20]) is None
    tiers = [0], [False]
    for memory in (None, [np.empty(20, np.uint16) for _ in range(2)]):
        assert compiled.take_in([whole], [beyond], memory, [20], 4, DTYPES["BF16"], tiers) is None


def test_tiers_that_do_not_fit_are_refused(descriptor: int) -> None:
    os.ftruncate(descriptor, 40)
    whole, dtype = [(descriptor, 0, 40)], DTYPES["BF16"]
    assert compiled.take_in(whole, whole, None, [20], 4, dtype, ([0, 9], [True, False]))
    for bounds, marks in (
        ([0, 9], [True]),
        ([0], [0, 0]),
        ([], []),
        ([1], [0]),
        ([0, 256], [0, 0]),
    ):
        with pytest.raises(AssertionError):
            compiled.take_in(whole, whole, None, [20], 4, dtype, (bounds, marks))


@pytest.mark.parametrize(
    ("sizes", "size", "ends", "n"),
    [
        ([40], 20, [], 4),
        ([40], 20, [19], 4),
        ([40], 20, [21], 4),
        ([40], 20, [5, 5, 20], 4),
        ([40], 20, [7, 6, 20], 4),
        ([40], 20, [0, 20], 4),
        ([40], 20, [-20, 20], 4),
        ([40], 20, [20], 0),
        ([40], 19, [20], 4),
        ([40], None, [20], 0),
        ([20, 18], None, [20], 4),
        ([20, 18], 20, [20], 4),
        ([20, 22], 20, [20], 4),
        ([44, -4], 20, [20], 4),
        ([1 << 62, 1 << 62, 1 << 62, (1 << 62) + 40], 20, [20], 4),
    ],
)
def test_what_does_not_fit_is_not_taken_in(
    descriptor: int, sizes: list[int], size: int | None, ends: list[int], n: int
) -> None:
    os.ftruncate(descriptor, 40)
    with pytest.raises(AssertionError, match="do not fit"):
        taken([[(descriptor, 0, s) for s in sizes], [(descriptor, 0, 40)]], size, ends, n)


@given(word_pairs(), cuts, st.integers(1, 40), st.integers(0, 40))
def test_what_is_chosen_by_a_sample_is_chosen_of_its_survey(
    descriptor: int, pair: tuple[Array, Array, DType], of_files: list[int], size: int, more: int
) -> None:
    base, target, dtype = pair
    os.ftruncate(descriptor, 0)
    sides = (
        scattered(descriptor, base, of_files, 1),
        scattered(descriptor, target, of_files[::2], 1 << 23),
    )
    stride = (size + more) * dtype.word_bytes
    found = compiled.choose_by_sample(*sides, stride, size * dtype.word_bytes, dtype)
    starts = range(0, base.size, size + more)
    b, t = (np.concatenate([a[at : at + size] for at in starts]) for a in (base, target))
    assert found is not None
    choice, sample = found
    assert choice == bucket.choose(steps.survey(b, t, dtype), base.size)
    if np.array_equal(b, t):
        assert sample is None
    else:
        assert [words.tolist() for words in sample] == [b.tolist(), t.tolist()]


def test_nothing_is_chosen_by_what_cannot_be_read(descriptor: int) -> None:
    os.ftruncate(descriptor, 40)
    dtype = DTYPES["BF16"]
    whole, beyond = [(descriptor, 0, 40)], [(descriptor, 2, 40)]
    assert compiled.choose_by_sample(whole, beyond, 4, 4, dtype) is None
    assert compiled.choose_by_sample(whole, beyond, 40, 4, dtype) is not None
    for stride, size in ((4, 0), (4, 6), (0, 0), (-4, -4), (4, 3), (5, 4)):
        with pytest.raises(AssertionError, match="do not fit"):
            compiled.choose_by_sample(whole, whole, stride, size, dtype)
    for others in ([], [(descriptor, 0, 38)], [(descriptor, 0, -40)], [(descriptor, 0, 1 << 62)]):
        with pytest.raises(AssertionError, match="do not fit"):
            compiled.choose_by_sample(whole, others, 4, 4, dtype)
    for empty in ([], [(descriptor, 0, 0)]):
        with pytest.raises(AssertionError, match="do not fit"):
            compiled.choose_by_sample(empty, empty, 4, 4, dtype)
