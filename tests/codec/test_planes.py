"""A sample decides whether byte planes are tried: what it misses makes no patch larger."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsediff.codec import bucket
from sparsediff.dtypes import DTYPES, DType
from sparsediff.kernels import survey
from tests.support.pairs import Array

BASES = ("normal", "zeros", "sparse", "small integers", "constant", "ramp")
CHANGES = ("by one", "by few", "any bits", "every n-th", "a run", "to zero")


def words_like(kind: str, n: int, dtype: DType, random: np.random.Generator) -> Array:
    normal = (random.standard_normal(n, np.float32) * np.float32(0.02)).view(np.uint32)
    match kind:
        case "normal":
            words = normal
        case "zeros":
            words = np.zeros(n, np.uint32)
        case "sparse":
            words = normal * (random.random(n) < 10 ** random.uniform(-3, 0))
        case "small integers":
            return random.integers(0, 100, n).astype(dtype.numpy)
        case "constant":
            words = np.full(n, 0x3F800000, np.uint32)
        case _:
            return np.arange(n).astype(dtype.numpy)
    bits = words.astype(np.uint64) << np.uint64(32) >> np.uint64(64 - dtype.word_bits)
    return bits.astype(dtype.numpy)


def changed(words: Array, how: str, share: float, random: np.random.Generator) -> Array:
    target, one = words.copy(), words.dtype.type(1)
    at = random.random(words.size) < share
    match how:
        case "by one":
            target[at] += one
        case "by few":
            target[at] += random.integers(1, 9, at.sum()).astype(words.dtype)
        case "any bits":
            target[at] ^= random.integers(0, 200, at.sum()).astype(words.dtype)
        case "every n-th":
            target[:: max(2, int(0.5 / share))] += one
        case "a run":
            start = int(random.integers(words.size))
            target[start : start + max(1, int(share * words.size))] ^= one
        case _:
            target[at] = 0
    return target


@settings(max_examples=300)
@given(
    st.sampled_from(list(DTYPES.values())),
    st.sampled_from(BASES),
    st.sampled_from(CHANGES),
    st.floats(-5.5, 0.0),
    st.integers(1 << 16, bucket.SMALL_BYTES),
    st.integers(0, 1 << 20),
)
def test_a_small_bucket_is_as_small_as_if_all_was_tried(
    dtype: DType, kind: str, how: str, log_share: float, n_bytes: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    base = words_like(kind, n_bytes // dtype.word_bytes, dtype, random)
    target = changed(base, how, 10**log_share, random)
    if np.array_equal(base, target):
        return
    found = bucket.encode(base, target, dtype, survey(base, target, dtype))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(bucket, "planes_may_win", lambda *_: True)
        tried = bucket.encode(base, target, dtype, survey(base, target, dtype))
    assert len(found) <= 1.001 * len(tried)


def test_words_that_become_alike_are_noticed() -> None:
    random = np.random.default_rng(1)
    base = random.integers(0, 256, 1 << 19).astype(np.uint8) * (random.random(1 << 19) < 0.005)
    target = np.zeros_like(base)  # a state that is begun anew
    payload = bucket.encode(base, target, DTYPES["U8"], survey(base, target, DTYPES["U8"]))
    assert payload[0] == bucket.MODE_PLANES
    assert len(payload) < 100
