"""The compiled kernels against the reference: same results, bit for bit, also on damaged input."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsediff.codec import bucket
from sparsediff.codec.zstd import compress
from sparsediff.dtypes import DTYPES, DType
from sparsediff.errors import CorruptError
from sparsediff.kernels import NAME, payloads, reference, steps
from tests.codec.test_buckets import word_pairs
from tests.support.pairs import Array, bf16, step_of_training, words, write_safetensors

compiled = pytest.importorskip("sparsediff.kernels.compiled", reason="built without a C compiler")
_native = pytest.importorskip("sparsediff.kernels._native")


def instruction_sets() -> Iterator[str]:
    for name in ("baseline", "avx2", "avx512", "neon"):
        try:
            yield compiled.use(name)
        except LookupError:
            continue
    compiled.use(None)


@pytest.fixture(params=list(instruction_sets()), autouse=True)
def instructions(request: pytest.FixtureRequest) -> Iterator[str]:
    yield compiled.use(request.param)
    compiled.use(None)


def choice_of(base: Array, target: Array, dtype: DType) -> bucket.Choice:
    return bucket.choose(steps.survey(base, target, dtype), base.size)


OF_REFERENCE = SimpleNamespace(
    Differ=reference.Differ, payload_of=payloads.payload_of, patcher=payloads.patcher
)


def diff(kernels: Any, choice: bucket.Choice, pair: tuple[Array, Array, DType], cut: int) -> Any:
    base, target, dtype = pair
    differ = kernels.Differ(dtype, choice.bounds, choice.marks_unchanged)
    counts = np.zeros(256, np.int64)
    pieces = (slice(0, cut), slice(cut, base.size))
    largest = [differ.feed(base[p], target[p], counts) for p in pieces]
    return kernels.payload_of(differ), counts.tolist(), largest


def patch(kernels: Any, payload: bytes, base: Array, dtype: DType, cut: int) -> Array | str:
    """What the words become, or that they do not."""
    out = base.copy()
    try:
        patcher = kernels.patcher(payload, out.size, dtype)
        patcher.feed(out[:cut])
        patcher.feed(out[cut:])
        patcher.finish()
    except CorruptError:
        return "corrupt"
    return out


@given(word_pairs(), st.data())
def test_diff_and_patch_agree_for_any_bits(
    pair: tuple[Array, Array, DType], data: st.DataObject
) -> None:
    base, target, dtype = pair
    for by_class in (True, False):
        a, b = (k.survey(base, target, dtype, by_class=by_class) for k in (steps, compiled))
        assert a.largest == b.largest
        for name in ("members", "steps"):
            assert np.array_equal(getattr(a, name), np.asarray(getattr(b, name)))
    found = [np.ones(256, np.int64) for _ in range(2)]
    largest = [
        k.count_steps(base, target, dtype, counts)
        for k, counts in zip((steps, compiled), found, strict=True)
    ]
    assert largest[0] == largest[1]
    assert np.array_equal(found[0], found[1])
    choice = choice_of(base, target, dtype)
    if data.draw(st.booleans()):  # what the sample said about the halves may be wrong
        choice = bucket.Choice(choice.bounds, [not m for m in choice.marks_unchanged], 0)
    cut = data.draw(st.integers(0, base.size))
    if np.array_equal(base, target):
        return  # such a bucket has no payload
    expected = diff(OF_REFERENCE, choice, pair, cut)
    assert diff(compiled, choice, pair, cut) == expected
    for kernels in (OF_REFERENCE, compiled):
        assert np.array_equal(patch(kernels, expected[0], base, dtype, cut), target)


@given(word_pairs(), st.lists(st.integers(0, 1 << 20), max_size=8))
def test_steps_of_parts_agree(pair: tuple[Array, Array, DType], cuts: list[int]) -> None:
    base, target, dtype = pair
    ends = [*sorted(c % (base.size + 1) for c in cuts), base.size]
    expected = steps.count_parts(base, target, dtype, ends)
    assert compiled.count_parts(base, target, dtype, ends) == expected


@given(word_pairs())
def test_differences_agree(pair: tuple[Array, Array, DType]) -> None:
    base, target, _ = pair
    found, expected = compiled.differences(base, target), steps.differences(base, target)
    for one, other in zip(found, expected, strict=True):
        assert np.asarray(one).dtype == other.dtype
        assert np.array_equal(one, other)


@pytest.mark.parametrize("ends", [[], [3], [5], [3, 2, 4], [-1, 4]])
def test_parts_that_do_not_fit_are_not_counted(ends: list[int]) -> None:
    with pytest.raises(AssertionError):
        _native.count_parts(16, 0, *(np.zeros(4, np.uint16) for _ in range(2)), ends)


@given(st.lists(st.binary(max_size=12) | st.integers(0, 40), max_size=30), st.integers(2, 9))
def test_literals_agree_and_zstd_pays_for_them(pieces: list[bytes | int], stride: int) -> None:
    data = b""
    for piece in pieces:  # new bytes, or some from before
        data += piece if isinstance(piece, bytes) else data[piece : 2 * piece + 5]
    found = steps.literals(data, 1)
    assert compiled.literals(data, 1) == found
    for every in (steps.literals, compiled.literals):
        assert every(data, stride) == every(data[::stride], 1)
    assert 8 * len(compress(data, level=3)) >= found


@given(word_pairs(), st.data())
def test_patch_agrees_on_damaged_tiers(
    pair: tuple[Array, Array, DType], data: st.DataObject
) -> None:
    """Symbols and extra bits that no words have, and what damage makes of a payload."""
    base, target, dtype = pair
    if np.array_equal(base, target):
        return
    choice = choice_of(base, target, dtype)
    differ = reference.Differ(dtype, choice.bounds, choice.marks_unchanged)
    differ.feed(base, target, np.zeros(256, np.int64))
    tiers = differ.finish()
    for i, tier in enumerate(tiers):
        for name in ("gap_symbols", "gap_extra", "step_symbols", "step_extra"):
            field = bytearray(getattr(tier, name))
            if field and data.draw(st.booleans()):
                field[data.draw(st.integers(0, len(field) - 1))] = data.draw(st.integers(0, 255))
            if "extra" in name and data.draw(st.integers(0, 9)) == 0:
                field = field[:-1] if data.draw(st.booleans()) else field + b"\0"
            changes: dict[str, Any] = {name: bytes(field)}
            tiers[i] = tiers[i]._replace(**changes)
    payload = bytearray(payloads.encode(tiers, choice.bounds))
    for _ in range(data.draw(st.sampled_from([0, 0, 1, 2]))):
        first = min(len(payload), data.draw(st.sampled_from([40, 1 << 20])))
        at = data.draw(st.integers(0, first - 1))
        payload[at] ^= 1 << data.draw(st.integers(0, 7))
    payload = payload[: len(payload) - data.draw(st.sampled_from([0, 0, 0, 1, 2, len(payload)]))]
    payload += bytes(data.draw(st.sampled_from([0, 0, 0, 1])))
    other = data.draw(st.sampled_from([base, target]))
    cut = data.draw(st.integers(0, base.size))
    expected, found = (
        patch(k, bytes(payload), other, dtype, cut) for k in (OF_REFERENCE, compiled)
    )
    assert type(expected) is type(found)
    assert np.array_equal(expected, found)


def test_long_runs_and_many_tiers_agree() -> None:
    for name in ("BF16", "F16", "F32", "F64", "F8_E4M3", "I8"):
        dtype = DTYPES[name]
        rng = np.random.default_rng(0)
        n = (1 << 18) + 33
        if name == "BF16":
            base = bf16((rng.standard_normal(n) * 0.02).astype(np.float32))
        else:
            base = rng.integers(0, 1 << min(dtype.word_bits, 63), n).astype(dtype.numpy)
        for density in (1e-4, 0.02, 0.5, 0.98):
            step = rng.integers(1, 4, n).astype(dtype.numpy)
            target = np.where(rng.random(n) < density, base + step, base)
            choice = choice_of(base, target, dtype)
            pair = (base, target, dtype)
            expected = diff(OF_REFERENCE, choice, pair, 1000)
            assert diff(compiled, choice, pair, 77)[:2] == expected[:2]
            found = patch(compiled, expected[0], base, dtype, 12345)
            assert np.array_equal(found, target)


def test_buffers_of_the_wrong_size_are_refused() -> None:
    dtype = DTYPES["BF16"]
    a, b = np.zeros(10, np.uint16), np.zeros(11, np.uint16)
    counts = np.zeros(256, np.int64)
    differ = compiled.Differ(dtype, [0], [False])
    for base, target, n in ((a, b, counts), (a.view(np.uint8)[:3], a.view(np.uint8)[:3], counts)):
        with pytest.raises(AssertionError):
            differ.feed(base, target, n)
    with pytest.raises(AssertionError):
        differ.feed(a, a, counts[:255])
    with pytest.raises((BufferError, TypeError)):
        differ.feed(a, a, bytes(2048))
    with pytest.raises(AssertionError):
        compiled.Differ(dtype, [0, 300], [False, False])
    with pytest.raises(AssertionError):
        compiled.Differ(dtype, [1], [False])
    compiled.payload_of(differ)
    with pytest.raises(AssertionError):
        differ.feed(a, a, counts)


@given(word_pairs(), st.data())
def test_planes_agree_and_come_back(pair: tuple[Array, Array, DType], data: st.DataObject) -> None:
    base, target, _ = pair
    size = data.draw(st.integers(0, base.size))
    starts = data.draw(st.lists(st.integers(0, base.size - size), max_size=4))
    for against in (None, base):
        found = compiled.planes(target, against, starts, size)
        assert bytes(found) == steps.planes(target, against, starts, size).tobytes()
        whole = bytes(compiled.planes(target, against, [0], base.size))
        cut = data.draw(st.integers(0, base.size))
        for kernels in (steps, compiled):
            out = base.copy()
            for piece in (slice(0, cut), slice(cut, None)):
                first = piece.start
                kernels.from_planes(whole, first, out[piece], is_xor=against is not None)
            assert np.array_equal(out, target)


def test_planes_end_where_they_do() -> None:
    words = np.zeros(10, np.uint16)
    for starts, size in (([-1], 2), ([9], 2), ([0], 11), ([0], -1), ([11], 0)):
        with pytest.raises(AssertionError):
            compiled.planes(words, None, starts, size)
    with pytest.raises(AssertionError):
        compiled.planes(words, words[:9], [0], 1)
    for first in (-1, 1):
        with pytest.raises(AssertionError):
            compiled.from_planes(bytes(20), first, words, is_xor=True)
    with pytest.raises(AssertionError):
        compiled.from_planes(bytes(19), 0, words, is_xor=False)


def test_every_kernel_makes_the_same_patch(tmp_path: Path, instructions: str) -> None:
    before, after = step_of_training(1 << 20, 3e-6)
    pair = {"base": np.tile(bf16(before), 17), "target": np.tile(bf16(after), 17)}  # sampled
    for name, array in pair.items():
        write_safetensors(tmp_path / name, {"w": words("BF16", array)})
    made = {}
    for kernels in ("reference", instructions):
        out = tmp_path / f"{kernels}.sdiff"
        command = [sys.executable, "-m", "sparsediff", "make", "base", "target", "-o", str(out)]
        environment = os.environ | {"SPARSEDIFF_KERNELS": kernels}
        subprocess.run(command, cwd=tmp_path, env=environment, check=True)
        made[kernels] = out.read_bytes()
    assert made["reference"] == made[instructions]


def test_unknown_kernels_are_a_usage_error(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sparsediff", "--version"]
    environment = os.environ | {"SPARSEDIFF_KERNELS": "abacus"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "SPARSEDIFF_KERNELS=abacus" in done.stderr


def test_compiled_kernels_are_used_by_default() -> None:
    if "SPARSEDIFF_KERNELS" not in os.environ:
        assert NAME.startswith("compiled")
