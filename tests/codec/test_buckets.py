"""Buckets: words to payload and back, for every dtype and bit pattern."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sparsediff import kernels
from sparsediff.checksum import Verified
from sparsediff.codec import bucket
from sparsediff.codec.zstd import compress
from sparsediff.dtypes import DTYPES, DType
from sparsediff.errors import CorruptError
from sparsediff.kernels import steps
from sparsediff.kernels.numbers import CHUNK
from sparsediff.kernels.symbols import MODE_TIERS
from sparsediff.stats.bound import Bound
from tests.support.pairs import Array, bf16, step_of_training


def encode(base: Array, target: Array, dtype: DType) -> bytes:
    return bucket.encode(base, target, dtype, steps.survey(base, target, dtype))


def encode_tiers(base: Array, target: Array, dtype: DType) -> bytes:
    choice = bucket.choose(steps.survey(base, target, dtype), base.size)
    differ = kernels.Differ(dtype, *choice.tiers)
    differ.feed(base, target, np.zeros(256, np.int64))
    return kernels.payload_of(differ)


def decode(payload: bytes, base: Array | None, like: Array, dtype: DType) -> Array:
    out = np.empty_like(like) if base is None else base.copy()
    decoder = bucket.Decoder(Verified(payload), out.size, dtype, has_base=base is not None)
    decoder.feed(out)
    decoder.finish()
    return out


dtypes = st.sampled_from(list(DTYPES.values()))


@st.composite
def word_pairs(draw: st.DrawFn) -> tuple[Array, Array, DType]:
    """Base and target words of any dtype and any bits, special values among them."""
    dtype = draw(dtypes)
    n = draw(st.integers(1, 400))
    sign, top = 1 << (dtype.word_bits - 1), (1 << dtype.word_bits) - 1
    infinity = (sign - 1) >> dtype.mantissa_bits << dtype.mantissa_bits
    special = [
        0,
        1,
        sign,
        sign | 1,
        top,
        sign - 1,
        infinity,
        infinity | 1,
        sign | infinity,
        top - 1,
    ]
    elements = st.sampled_from(special) | st.integers(0, top)
    array = hnp.arrays(np.dtype(dtype.numpy), n, elements=elements, fill=elements)
    base, other = draw(array), draw(array)
    share = draw(st.sampled_from([0.01, 0.3, 0.6, 0.99, 1.0]))
    changed = np.random.default_rng(draw(st.integers(0, 9))).random(n) < share
    return base, np.where(changed, other, base), dtype


@given(word_pairs())
def test_payload_round_trip_any_bits(pair: tuple[Array, Array, DType]) -> None:
    base, target, dtype = pair
    payload = bucket.encode(None, target, dtype, None)
    assert np.array_equal(decode(payload, None, target, dtype), target)
    if np.array_equal(base, target):
        return  # such a bucket has no payload
    assert np.array_equal(decode(encode(base, target, dtype), base, target, dtype), target)
    payload = encode_tiers(base, target, dtype)
    assert payload[0] == MODE_TIERS
    assert np.array_equal(decode(payload, base, target, dtype), target)


@given(dtypes, st.data())
def test_keys_are_an_order_preserving_bijection(dtype: DType, data: st.DataObject) -> None:
    top = (1 << dtype.word_bits) - 1
    words = np.array(data.draw(st.lists(st.integers(0, top), min_size=1)), dtype.numpy)
    keys = steps.keys(words, dtype)
    assert np.array_equal(steps.words_of_keys(keys, dtype), words)
    if dtype.kind == "float" and dtype.name in ("F16", "F32", "F64"):
        with np.errstate(invalid="ignore"):
            values = words.view(np.dtype(f"f{dtype.word_bytes}"))
            finite = np.isfinite(values)
            order = np.argsort(keys[finite], kind="stable")
            assert np.all(np.diff(values[finite][order].astype(np.float64)) >= 0)


def test_every_16_bit_word_to_every_neighbour() -> None:
    words = np.arange(1 << 16, dtype=np.uint16)
    for name in ("BF16", "F16", "I16", "U16"):
        for shift in (1, 0x8000, 0xFFFF):
            target = words + np.uint16(shift)
            payload = encode_tiers(words, target, DTYPES[name])
            assert np.array_equal(decode(payload, words, target, DTYPES[name]), target)


def test_zero_and_minus_zero_are_different() -> None:
    base = np.array([0, 0x8000] * 50, np.uint16)
    target = base ^ np.uint16(0x8000)
    assert np.array_equal(
        decode(encode(base, target, DTYPES["BF16"]), base, target, DTYPES["BF16"]), target
    )


def test_chunk_borders_do_not_matter() -> None:
    n = 2 * CHUNK + 77
    before, after = step_of_training(n, 3e-6)
    base, target = bf16(before), bf16(after)
    target[[0, CHUNK - 1, CHUNK, n - 1]] ^= 1
    assert np.array_equal(
        decode(encode(base, target, DTYPES["BF16"]), base, target, DTYPES["BF16"]), target
    )


def bound_bytes(base: Array, target: Array, dtype: DType) -> float:
    bound = Bound()
    bound.add(dtype, base, target)
    return bound.bits() / 8


@pytest.mark.parametrize(
    ("lr", "low", "high"),
    [(3e-8, 0.0015, 0.0025), (3e-7, 0.01, 0.02), (1e-6, 0.03, 0.05), (4e-6, 0.09, 0.13)],
)
def test_bf16_payload_is_within_5_percent_of_the_bound(lr: float, low: float, high: float) -> None:
    before, after = step_of_training(1 << 21, lr)
    base, target = bf16(before), bf16(after)
    assert low < np.mean(base != target) < high
    assert (
        len(encode(base, target, DTYPES["BF16"]))
        < 1.05 * bound_bytes(base, target, DTYPES["BF16"]) + 100
    )


@pytest.mark.parametrize("name", ["F32", "F16", "F8_E4M3", "F8_E5M2", "I8", "F64", "BF16"])
@pytest.mark.parametrize("lr", [1e-6, 1e-3])
def test_payload_is_never_larger_than_zstd_on_planes(name: str, lr: float) -> None:
    before, after = step_of_training(1 << 18, lr)
    dtype = DTYPES[name]
    base: Array
    target: Array
    if name == "BF16":
        base, target = bf16(before), bf16(after)
    elif dtype.kind == "float" and dtype.word_bits > 8:
        kind = np.dtype(f"f{dtype.word_bytes}")
        base, target = (a.astype(kind).view(dtype.numpy) for a in (before, after))
    else:
        base, target = ((a * 1000).astype(np.int8).view(np.uint8) for a in (before, after))
    planes = min(
        len(compress(w.view(np.uint8).reshape(-1, dtype.word_bytes).T.tobytes(), 3))
        for w in (target, target ^ base)
    )
    assert len(encode(base, target, dtype)) <= planes + 1


@pytest.mark.parametrize("period", [7, 64, 1000])
def test_regular_pattern_is_left_to_zstd(period: int) -> None:
    base = np.random.default_rng(0).integers(0, 1 << 16, 1 << 21, dtype=np.uint16)
    target = base.copy()
    target[::period] ^= 1
    xor = compress((target ^ base).view(np.uint8).reshape(-1, 2).T.tobytes(), 3)
    payload = encode(base, target, DTYPES["U16"])
    assert len(payload) <= len(xor) + 1
    assert np.array_equal(decode(payload, base, target, DTYPES["U16"]), target)


def test_damaged_payload_raises_only_our_error() -> None:
    before, after = step_of_training(3000, 3e-6)
    base, target = bf16(before), bf16(after)
    dtype = DTYPES["BF16"]
    for payload in (
        encode_tiers(base, target, dtype),
        bucket._encode_planes(target, None),
        bucket._encode_planes(target, base),
    ):
        rng = np.random.default_rng(0)
        for _ in range(2000):
            bad = bytearray(payload)
            for _ in range(rng.integers(1, 4)):
                bad[rng.integers(len(bad))] ^= 1 << rng.integers(8)
            with contextlib.suppress(CorruptError):
                decode(bytes(bad), base, target, dtype)
        for n in range(0, len(payload), 7):
            with pytest.raises(CorruptError):
                decode(payload[:n], base, target, dtype)


def test_payload_with_wrong_base_raises_only_our_error() -> None:
    before, after = step_of_training(3000, 3e-6)
    base, target = bf16(before), bf16(after)
    payload = encode_tiers(base, target, DTYPES["BF16"])
    with pytest.raises(CorruptError):
        decode(payload, target[::-1].copy(), target, DTYPES["BF16"])
    with pytest.raises(CorruptError, match="without a base"):
        decode(payload, None, target, DTYPES["BF16"])
