"""Numbers, bits and tables: the small parts the codec is made of."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsediff.errors import CorruptError
from sparsediff.kernels import numbers, rans, symbols, tables
from sparsediff.kernels.varint import Reader, varint

# From the table in docs/format.md.
WORKED = {0: 0, 1: 1, 2: 2, 3: 3, 4: 4, 5: 4, 6: 5, 7: 5, 8: 6, 11: 6, 12: 7, 15: 7, 16: 8, 23: 8}
EDGES = [0, 1, 2, 3, 2**31, 2**53 - 1, 2**53, 2**53 + 1, 2**54 - 1, 2**62 - 1, 2**62, 2**63 - 1]


def number_class(value: int) -> int:
    """Class of one non-negative number, as docs/format.md words it."""
    if value < 2:
        return value
    octave = value.bit_length() - 1
    return 2 * octave + (value >> (octave - 1) & 1)


def test_number_classes_worked_examples() -> None:
    values = np.array(list(WORKED), np.uint64)
    assert list(numbers.number_classes(values)) == list(WORKED.values())
    assert [symbols.class_of(value) for value in WORKED] == list(WORKED.values())
    edges = numbers.number_classes(np.array(EDGES, np.uint64))
    assert list(map(symbols.class_of, EDGES)) == list(edges)


@given(st.lists(st.integers(0, 2**63 - 1) | st.sampled_from(EDGES), max_size=300))
def test_numbers_round_trip(values: list[int]) -> None:
    array = np.array(values, np.uint64)
    classes = numbers.number_classes(array)
    assert [number_class(v) for v in values] == list(classes)
    writer = numbers.BitWriter()
    for part in np.array_split(np.arange(array.size), 3):
        c = classes[part]
        writer.put(array[part] - numbers.CLASS_START[c], numbers.CLASS_WIDTH[c])
    pieces = numbers.read_numbers(classes.astype(np.uint8), writer.getvalue())
    assert [v for _, piece in pieces for v in piece.tolist()] == values


@pytest.mark.parametrize("p", [0.5, 0.1, 0.01, 0.001])
def test_half_octaves_lose_little_on_a_geometric_distribution(p: float) -> None:
    values = np.arange(int(40 / p), dtype=np.uint64)
    chance = p * (1 - p) ** values.astype(np.float64)
    classes = numbers.number_classes(values)
    by_class = np.bincount(classes, weights=chance)
    by_class = by_class[by_class > 0]
    coded = -(by_class * np.log2(by_class)).sum() + (chance * numbers.CLASS_WIDTH[classes]).sum()
    assert 0 <= coded + (chance * np.log2(chance)).sum() < 0.02


def test_bits_are_packed_least_significant_first() -> None:
    writer = numbers.BitWriter()
    writer.put(np.array([0b1, 0b101, 0b11], np.uint64), np.array([1, 3, 7]))
    assert writer.getvalue() == bytes([0b0011_1011, 0b000])


def test_read_numbers_extra_of_wrong_length_is_refused() -> None:
    with pytest.raises(CorruptError, match="wrong length"):
        next(numbers.read_numbers(np.array([8, 8], np.uint8), b""))


@given(st.integers(1, 2**24), st.data())
def test_geometric_table_is_complete(n_members: int, data: st.DataObject) -> None:
    n_marked = data.draw(st.integers(1, n_members))
    table = np.frombuffer(tables.geometric(n_marked, n_members), np.uint32)
    last = number_class(n_members - n_marked)
    assert table.sum() == symbols.SCALE
    assert np.all(table[: last + 1] > 0)
    assert not table[last + 1 :].any()


def test_geometric_table_matches_the_distribution() -> None:
    p = 0.01
    table = np.frombuffer(tables.geometric(10_000, 1_000_000), np.uint32)
    for c in set(range(20)) - {int(table.argmax())}:  # the largest takes up the rounding
        start, width = int(numbers.CLASS_START[c]), 1 << int(numbers.CLASS_WIDTH[c])
        chance = (1 - p) ** start - (1 - p) ** (start + width)
        assert abs(table[c] / symbols.SCALE - chance) < 2 / symbols.SCALE


def test_logarithms_are_right() -> None:
    n = symbols.SCALE + 1
    exact = np.log2(np.maximum(np.arange(n), 1))
    assert np.abs(numbers.log2_table(n) - exact).max() < 2.0**-46
    assert np.array_equal(tables.MICROBITS, np.rint(1e6 * (symbols.SCALE_BITS - exact)))


counts = st.dictionaries(st.integers(0, 250), st.integers(1, 10**9), min_size=1).map(
    lambda d: np.array([d.get(i, 0) for i in range(256)], np.int64)
)


@given(counts)
def test_fitted_table_codes_every_symbol_and_survives_storage(c: np.ndarray) -> None:
    table = tables.fitted(c[None])[0]
    assert table.sum() == symbols.SCALE
    assert np.all(table[c > 0] > 0)
    reader = Reader(tables.dump(table))
    assert tables.load(reader, is_symmetric=False) == table.tobytes()
    reader.end()


@given(counts)
def test_symmetric_table_codes_every_symbol_and_survives_storage(c: np.ndarray) -> None:
    table = tables.fitted_symmetric(c[None])[0]
    assert table.sum() == symbols.SCALE
    assert np.all(table[c > 0] > 0)
    assert np.array_equal(table[0::2], table[1::2])
    reader = Reader(tables.dump_symmetric(table))
    assert tables.load(reader, is_symmetric=True) == table.tobytes()
    reader.end()


@given(st.integers(0, 2**63 - 1))
def test_varint_round_trip(value: int) -> None:
    reader = Reader(varint(value))
    assert reader.varint() == value
    reader.end()


@pytest.mark.parametrize("data", [b"", b"\x80", b"\xff" * 8 + b"\xff", b"\x80" * 9 + b"\x01"])
def test_varint_cut_or_too_long_is_refused(data: bytes) -> None:
    with pytest.raises(CorruptError):
        Reader(data).varint()


@given(
    st.lists(st.binary(min_size=1, max_size=200), min_size=1, max_size=4),
    st.sampled_from([1, 2, 8, 64]),
)
def test_rans_round_trip(runs: list[bytes], lanes: int) -> None:
    sizes = [len(r) for r in runs]
    counts = [np.bincount(np.frombuffer(r, np.uint8), minlength=256) for r in runs]
    tabs = tables.fitted(np.stack(counts))
    coded = rans.encode(runs, tabs, lanes)
    assert rans.decode(coded, sizes, tabs, lanes) == runs
    for bad in (coded[:-2], coded + b"\0\0", coded[: 4 * lanes - 1]):
        with pytest.raises(CorruptError):
            rans.decode(bad, sizes, tabs, lanes)


def test_rans_costs_the_entropy() -> None:
    rng = np.random.default_rng(0)
    symbols = np.minimum(rng.geometric(0.3, 100_000), 255).astype(np.uint8)
    c = np.bincount(symbols, minlength=256)
    table = tables.fitted(c[None])[0]
    coded = rans.encode([symbols.tobytes()], table[None], 8)
    assert 8 * len(coded) < 1.002 * tables.cost_bits(c, table) + 8 * 32
