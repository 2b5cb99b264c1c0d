"""The compiled kernels against the reference: same results, bit for bit, also on damaged input."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsediff.codec import bucket
from sparsediff.codec.zstd import compress
from sparsediff.dtypes import DTYPES, DType
from sparsediff.errors import CorruptError
from sparsediff.kernels import NAME, TierCode, rans, reference, steps, tables
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


def diff(kernels: Any, choice: bucket.Choice, pair: tuple[Array, Array, DType], cut: int) -> Any:
    base, target, dtype = pair
    differ = kernels.Differ(dtype, choice.bounds, choice.marks_unchanged)
    counts = np.zeros(256, np.int64)
    pieces = (slice(0, cut), slice(cut, base.size))
    largest = [differ.feed(base[p], target[p], counts) for p in pieces]
    return differ.finish(), counts.tolist(), largest


def patch(
    kernels: Any, choice: bucket.Choice, tiers: list[TierCode], base: Array, dtype: DType, cut: int
) -> Array | str:
    """What the words become, or that they do not."""
    out = base.copy()
    try:
        patcher = kernels.Patcher(dtype, choice.bounds, tiers)
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
            assert np.array_equal(getattr(a, name), getattr(b, name))
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
    expected = diff(reference, choice, pair, cut)
    assert diff(compiled, choice, pair, cut) == expected
    tiers = [
        t if t.marks_unchanged == m else reference.remark(t)
        for t, m in zip(expected[0], choice.marks_unchanged, strict=True)
    ]
    for kernels in (reference, compiled):
        assert np.array_equal(patch(kernels, choice, tiers, base, dtype, cut), target)


@given(word_pairs(), st.lists(st.integers(0, 1 << 20), max_size=8))
def test_steps_of_parts_agree(pair: tuple[Array, Array, DType], cuts: list[int]) -> None:
    base, target, dtype = pair
    ends = [*sorted(c % (base.size + 1) for c in cuts), base.size]
    found, largest = compiled.count_parts(base, target, dtype, ends)
    expected, expected_largest = steps.count_parts(base, target, dtype, ends)
    assert np.array_equal(found, expected)
    assert largest == expected_largest


@pytest.mark.parametrize("ends", [[], [3], [5], [3, 2, 4], [-1, 4]])
def test_parts_that_do_not_fit_are_not_counted(ends: list[int]) -> None:
    with pytest.raises(AssertionError):
        _native.count_parts(
            16,
            0,
            *(np.zeros(4, np.uint16) for _ in range(2)),
            np.array(ends, np.int64),
            np.zeros((len(ends), 4), np.int64),
            np.zeros(len(ends), np.uint64),
        )


@given(st.lists(st.binary(max_size=12) | st.integers(0, 40), max_size=30))
def test_literals_agree_and_zstd_pays_for_them(pieces: list[bytes | int]) -> None:
    data = b""
    for piece in pieces:  # new bytes, or some from before
        data += piece if isinstance(piece, bytes) else data[piece : 2 * piece + 5]
    found = steps.literals(data)
    assert compiled.literals(data) == found
    assert 8 * len(compress(data, level=3)) >= found


@given(word_pairs(), st.data())
def test_patch_agrees_on_damaged_tiers(
    pair: tuple[Array, Array, DType], data: st.DataObject
) -> None:
    base, target, dtype = pair
    choice = choice_of(base, target, dtype)
    tiers = diff(reference, choice, pair, 0)[0]
    for i, tier in enumerate(tiers):
        for name in ("gap_symbols", "gap_extra", "step_symbols", "step_extra"):
            field = bytearray(getattr(tier, name))
            if field and data.draw(st.booleans()):
                field[data.draw(st.integers(0, len(field) - 1))] = data.draw(st.integers(0, 255))
            if "extra" in name and data.draw(st.integers(0, 9)) == 0:
                field = field[:-1] if data.draw(st.booleans()) else field + b"\0"
            tiers[i] = tiers[i]._replace(**{name: bytes(field)})
    other = data.draw(st.sampled_from([base, target]))
    cut = data.draw(st.integers(0, base.size))
    expected, found = (patch(k, choice, tiers, other, dtype, cut) for k in (reference, compiled))
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
            tiers = diff(reference, choice, pair, 1000)
            assert diff(compiled, choice, pair, 77)[:2] == tiers[:2]
            found = patch(compiled, choice, tiers[0], base, dtype, 12345)
            assert np.array_equal(found, target)


@given(
    st.lists(st.binary(min_size=1, max_size=3000), min_size=1, max_size=4),
    st.sampled_from([1, 2, 8, 64]),
    st.data(),
)
def test_entropy_coder_agrees(runs: list[bytes], lanes: int, data: st.DataObject) -> None:
    sizes = [len(r) for r in runs]
    counts = [np.bincount(np.frombuffer(r, np.uint8), minlength=256) for r in runs]
    tabs = tables.fitted(np.stack(counts))
    coded = rans.encode(runs, tabs, lanes)
    assert compiled.rans_encode(runs, tabs, lanes) == coded
    assert compiled.rans_decode(coded, sizes, tabs, lanes) == runs
    bad = bytearray(coded)
    for _ in range(data.draw(st.integers(0, 3))):
        bad[data.draw(st.integers(0, len(bad) - 1))] ^= data.draw(st.integers(1, 255))
    bad = bad[: data.draw(st.sampled_from([len(bad), len(bad) - 1, len(bad) - 2]))]
    results: list[object] = []
    for decode in (rans.decode, compiled.rans_decode):
        try:
            results.append(decode(bytes(bad), sizes, tabs, lanes))
        except CorruptError:
            results.append("corrupt")
    assert results[0] == results[1]


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
    with pytest.raises(AssertionError):
        compiled.rans_decode(b"", [1], np.zeros((1, 256), np.uint32), 1)
    differ.finish()
    with pytest.raises(AssertionError):
        differ.feed(a, a, counts)


def test_tables_that_change_under_the_decoder_do_no_harm() -> None:
    table = np.array([0] * 255 + [1 << 14], np.uint32).tobytes()
    both = bytearray(table * 2)  # tables and output at once
    with contextlib.suppress(ValueError):
        compiled._native.rans_decode(b"\0\0\1\0", [2047, 1], both, 1, both)

    class Endless(list[int]):
        def __len__(self) -> int:
            return 1 << 62

    for sizes in (Endless([1]), [1] * 200, [1 << 63], [-1]):
        with pytest.raises((AssertionError, MemoryError, OverflowError)):
            compiled._native.rans_decode(b"", sizes, table, 1, bytearray(1))


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
