"""Integers written as JSON: compiled and reference agree on every text, and on what is none."""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsediff.kernels import integers as reference

compiled = pytest.importorskip("sparsediff.kernels.compiled", reason="built without a C compiler")

LEAST, MOST = -(1 << 63), (1 << 64) - 1
NUMBERS = st.integers(LEAST - 2, MOST + 2) | st.integers(-20, 20)
RANGES = st.tuples(st.integers(LEAST, 0), st.integers(0, MOST)) | st.sampled_from(
    [(0, 1 << 53), (-(1 << 53), 1 << 53), (0, 1 << 63), (LEAST, MOST)]
)
Read = Callable[[bytes, int, int], tuple[bytes, bytes] | None]
BOTH = pytest.mark.parametrize("read", [compiled.read_integers, reference.read_integers])


@st.composite
def texts(draw: st.DrawFn) -> bytes:
    """JSON of integers or of lists of them, as it should be or with a few bytes otherwise."""
    lists = st.lists(st.lists(NUMBERS, max_size=4), max_size=6)
    value = draw(st.lists(NUMBERS, max_size=8) | lists)
    text = bytearray(json.dumps(value, separators=(",", ":")).encode())
    for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):
        at = draw(st.integers(0, len(text)))
        text[at : at + draw(st.integers(0, 1))] = [draw(st.sampled_from(b"[],-+0019. e\n\0n\xff"))]
    return bytes(text)


@given(texts(), RANGES)
def test_compiled_and_reference_agree(text: bytes, limits: tuple[int, int]) -> None:
    assert compiled.read_integers(text, *limits) == reference.read_integers(text, *limits)


@BOTH
@pytest.mark.parametrize(
    ("text", "values", "ends"),
    [
        (b"[]", [], []),
        (b"[0]", [0], []),
        (b"[1,-2,18446744073709551615]", [1, (1 << 64) - 2, (1 << 64) - 1], []),
        (b"[-9223372036854775808]", [1 << 63], []),
        (b"[[]]", [], [0]),
        (b"[[1],[],[2,3]]", [1, 2, 3], [1, 1, 3]),
    ],
)
def test_numbers(read: Read, text: bytes, values: list[int], ends: list[int]) -> None:
    assert read(text, LEAST, MOST) == (array("Q", values).tobytes(), array("Q", ends).tobytes())


@BOTH
@pytest.mark.parametrize(
    "text",
    [
        *(b"", b"[", b"]", b"1", b"[1", b"1]", b"[1]]", b"[1],", b"[,]", b"[1,]", b"[,1]", b"[1 ]"),
        *(b"[01]", b"[00]", b"[-0]", b"[-]", b"[--1]", b"[+1]", b"[1.0]", b"[1e3]", b"[0x1]"),
        *(b"[null]", b"[true]", b'["1"]', b"[{}]", b"[1,[2]]", b"[[1],2]", b"[[[1]]]", b"[[1]"),
        *(
            b"[[1]]]",
            b"[[1][2]]",
            b"[[1],]",
            b"[[1,]]",
            b"[[,]]",
            b"[[1\0]]",
            b"[18446744073709551616]",
        ),
        *(b"[-9223372036854775809]", b"[" + b"9" * 5000 + b"]", b"[" * 5000),
    ],
)
def test_anything_else(read: Read, text: bytes) -> None:
    assert read(text, LEAST, MOST) is None


@BOTH
def test_limits_belong_to_the_range(read: Read) -> None:
    assert read(b"[-3,5]", -3, 5) is not None
    assert read(b"[-4,5]", -3, 5) is None
    assert read(b"[-3,6]", -3, 5) is None
