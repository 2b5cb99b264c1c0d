"""The choices of an encoder, in C and in NumPy: the same, whatever the counts."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsediff.dtypes import DTYPES
from sparsediff.kernels import Survey, reference, tiers
from sparsediff.kernels import payloads as of_reference
from sparsediff.kernels.steps import keys, words_of_keys
from tests.support.pairs import Array

compiled = pytest.importorskip("sparsediff.kernels.compiled", reason="built without a C compiler")


@given(st.integers(0, 2**32), st.sampled_from([1, 2, 33, 64, 65, 256, 2048]), st.data())
def test_choice_of_tiers_agrees(seed: int, n_classes: int, data: st.DataObject) -> None:
    rng = np.random.default_rng(seed)
    steps = np.zeros((n_classes, 256), np.int64)
    n_symbols = data.draw(st.integers(1, 256))
    spread, most = data.draw(st.floats(0, 4)), 2 ** data.draw(st.integers(0, 25)) // n_classes
    for row in steps:
        row[rng.permutation(256)[:n_symbols]] = rng.exponential(most / n_symbols, n_symbols)
    steps = (steps * np.exp(-spread * rng.random((n_classes, 1)))).astype(np.int64)
    unchanged = rng.exponential(most * data.draw(st.floats(0, 50)) / 100, n_classes)
    members = steps.sum(axis=1) + unchanged.astype(np.int64)
    members[0] += 1
    survey = Survey(members, steps, 1)
    scale = data.draw(st.floats(1, 40))
    assert compiled.choose_tiers(survey, scale) == tiers.choose_tiers(survey, scale)


def cost(n: Array, s: Array) -> int:
    """Of classes of n members, s of each step, as one tier: its entropy as anyone would reckon."""
    each = np.append(s.sum(axis=0), n.sum() - s.sum()).astype(float)
    bits = n.sum() * np.log2(n.sum()) - sum(x * np.log2(x) for x in each if x)
    return round(3 * float(bits)) + 8 * int(np.count_nonzero(s.sum(axis=0))) + 48


@pytest.mark.parametrize("most", [1, 1 << 12, 1 << 24])
@pytest.mark.parametrize("n_classes", [8, 33, 50])
def test_tiers_are_the_cheapest(n_classes: int, most: int) -> None:
    """Of all partitions into 32 tiers at most, where so many or more would be worth it, too."""
    rng = np.random.default_rng(most)
    most //= n_classes if most > n_classes else 1
    members = rng.integers(1, most + 1, n_classes)
    steps = np.zeros((n_classes, 256), np.int64)
    shares = rng.random((n_classes, 4)) * (np.arange(n_classes) % 2)[:, None]
    steps[:, :4] = (members[:, None] * shares / 4).astype(np.int64)

    @cache
    def of(i: int, j: int) -> int:
        return cost(members[i:j], steps[i:j])

    @cache
    def cheapest(j: int, n_most: int) -> int:
        if not j:
            return 0
        return min(cheapest(i, n_most - 1) + of(i, j) for i in range(j) if n_most > 1 or not i)

    survey = Survey(members, steps, 1)
    bounds, _, estimate = compiled.choose_tiers(survey, 3.0)
    assert tiers.choose_tiers(survey, 3.0)[0] == bounds
    assert len(bounds) <= 32
    if most > 1 << 12:
        assert len(bounds) == min(n_classes, 32)
    assert sum(map(of, bounds, [*bounds[1:], n_classes])) == cheapest(n_classes, 32)
    assert 8 * estimate == cheapest(n_classes, 32)


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.data())
def test_choice_of_tables_agrees(seed: int, data: st.DataObject) -> None:
    """Of tiers in which gaps are geometric, nearly or not at all, and steps of either sign."""
    rng, dtype = np.random.default_rng(seed), DTYPES["BF16"]
    bounds = sorted({0, *data.draw(st.lists(st.integers(1, 255), max_size=4))})
    base = np.zeros(0, np.uint16)
    for first in bounds:
        n = 2 ** data.draw(st.integers(0, 17))
        words = rng.integers(first << 7, first + 1 << 7, n).astype(np.uint16)
        base = np.append(base, words | (rng.random(n) < 0.5).astype(np.uint16) << 15)
    base = rng.permutation(base)
    n_changed = data.draw(st.integers(1, 3000))
    gaps = rng.geometric(data.draw(st.floats(0.002, 1)), n_changed)
    if data.draw(st.booleans()):
        gaps = gaps % 7 + 1
    at = np.cumsum(gaps) - 1
    at = at[at < base.size] if at[0] < base.size else np.zeros(1, np.int64)
    steps = np.minimum(rng.geometric(data.draw(st.floats(0.001, 1)), at.size), 20000)
    steps[rng.random(at.size) < data.draw(st.sampled_from([0, 0.1, 0.5]))] *= -1
    target = base.copy()
    target[at] = words_of_keys(keys(base[at], dtype) + steps.astype(np.uint16), dtype)
    marks = [data.draw(st.booleans()) for _ in bounds]
    payloads = []
    for differ, payload_of in (
        (reference.Differ(dtype, bounds, marks), of_reference.payload_of),
        (compiled.Differ(dtype, bounds, marks), compiled.payload_of),
    ):
        differ.feed(base, target, np.zeros(256, np.int64))
        payloads.append(payload_of(differ))
    assert payloads[0] == payloads[1]
    patcher = compiled.patcher(payloads[0], base.size, dtype)
    patcher.feed(base)
    patcher.finish()
    assert np.array_equal(base, target)


def test_choices_refuse_counts_that_do_not_fit() -> None:
    one, steps = np.ones(1, np.int64), np.zeros((1, 256), np.int64)
    more = steps.copy()
    more[0, 3] = 2
    for members, found in ((0 * one, steps), (-one, steps), (one, more), (one << 27, steps)):
        with pytest.raises(AssertionError):
            compiled.choose_tiers(Survey(members, found, 0))
