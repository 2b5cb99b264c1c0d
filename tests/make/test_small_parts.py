"""Buckets of very many small parts: what is done for all of them at once is what each gives."""

from __future__ import annotations

import json
import mmap
import platform
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsediff.apply import apply_patch
from sparsediff.checkpoint import open_checkpoint
from sparsediff.checksum import PartChecksums, checksum
from sparsediff.errors import CorruptError
from sparsediff.kernels import steps
from sparsediff.make import make_patch
from sparsediff.make.plan import plan
from sparsediff.patch import words
from tests.codec.test_buckets import word_pairs
from tests.support.costs import cost
from tests.support.pairs import bf16, step_of_training, write_safetensors
from tests.support.pairs import words as stored

SIZES = st.lists(st.integers(1, 400), min_size=1, max_size=12)


@given(pair=word_pairs(), cuts=st.lists(st.integers(0, 1 << 20), max_size=8))
def test_steps_of_parts_are_those_counted_part_by_part(pair, cuts) -> None:  # type: ignore[no-untyped-def]
    base, target, dtype = pair
    ends = sorted({*(1 + c % base.size for c in cuts), base.size})
    by_class, largest = steps.count_parts(base, target, dtype, ends)
    start = 0
    for i, end in enumerate(ends):
        counts = np.zeros(256, np.int64)
        found = steps.count_steps(base[start:end], target[start:end], dtype, counts)
        both = counts.reshape(128, 2).sum(axis=1)
        assert largest[i] == found
        assert by_class[i] == both[: len(by_class[i])].tolist()
        assert not both[len(by_class[i]) :].any()
        start = end


@given(SIZES, st.integers(1, 300))
def test_checksums_of_parts_do_not_depend_on_how_they_are_fed(sizes: list[int], cut: int) -> None:
    parts = [bytes([i]) * n for i, n in enumerate(sizes)]
    at_once, by_turns = PartChecksums(), PartChecksums()
    at_once.extend(b"".join(parts), np.cumsum(sizes).tolist())
    for i, part in enumerate(parts):
        if i % 3 == 2:
            by_turns.extend(part, [len(part)])
        else:
            for start in range(0, len(part), cut):
                by_turns.update(i, part[start : start + cut])
    each = [checksum(part) for part in parts]
    expected = checksum(bytes.fromhex("".join(each))), "".join(text[:2] for text in each)
    assert at_once.sums() == by_turns.sums() == expected


@pytest.fixture
def sides(tmp_path: Path) -> tuple[Path, Path]:
    """Tensors small and large, in one order here and in another there."""
    rng = np.random.default_rng(5)
    sizes = [3, 700_000, *rng.integers(1, 90, 5000).tolist(), 600_000, 7]
    base = {f"w{i}": rng.integers(0, 1 << 16, n).astype(np.uint16) for i, n in enumerate(sizes)}
    target = {name: a.copy() for name, a in reversed(base.items())}
    for array in target.values():
        array[rng.random(array.size) < 0.01] += 1
    paths = tmp_path / "base.safetensors", tmp_path / "target.safetensors"
    for path, tensors in zip(paths, (base, target), strict=True):
        write_safetensors(path, {n: ("BF16", a.shape, a.tobytes()) for n, a in tensors.items()})
    return paths


def test_runs_have_the_words_of_all_parts(
    sides: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(words, "MAX_RUN_PARTS", 1000)
    opened = open_checkpoint(sides[0]), open_checkpoint(sides[1])
    manifest = plan(*opened)
    seen: list[int] = []
    for bucket, record in enumerate(manifest.buckets):
        sources = [
            words.base_source(manifest, lambda _, o, b: opened[0].files[0].source.read_into(o, b)),
            words.target_source(
                manifest, 0, lambda _, o, b: opened[1].files[0].source.read_into(o, b)
            ),
        ]
        whole = words.room(manifest, bucket, 2)
        ends = [
            run.part + len(run.ends) for run in words.runs(manifest, bucket, sources, into=whole)
        ]
        assert ends[-1] == len(manifest.parts[bucket])
        seen.append(len(ends))
        at = 0
        for part in manifest.parts[bucket]:
            for side, source in zip(whole, sources, strict=True):
                file, offset = source.place(part.tensor)
                read = np.empty(part.n_words, np.uint16)
                source.read(file, offset + part.start * read.itemsize, read)
                assert np.array_equal(side[at : at + part.n_words], read)
            at += part.n_words
        assert at == record.n_words
        at = 0
        for run in words.runs(manifest, bucket, sources):
            for side, read in zip(whole, run.words, strict=True):
                assert np.array_equal(side[at : at + run.ends[-1]], read)
            target = run._replace(words=run.words[1:])
            for offset, placed in words.target_places(manifest, target):
                read = np.empty_like(placed)
                sources[1].read(0, offset, read)
                assert np.array_equal(placed, read)
            at += run.ends[-1]
        assert at == record.n_words
    assert max(seen) > 5


def test_patch_of_many_small_tensors_gives_the_target(
    sides: tuple[Path, Path], tmp_path: Path
) -> None:
    made = make_patch(*sides, tmp_path / "p.sdiff", jobs=2)
    apply_patch(sides[0], tmp_path / "p.sdiff", tmp_path / "out.safetensors")
    assert (tmp_path / "out.safetensors").read_bytes() == sides[1].read_bytes()
    assert sum(t.n_stepped for t in made.manifest.tensors) > 10_000
    assert all(t.median == 1 for t in made.manifest.tensors if t.n_stepped)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="asks for what glibc can do")
def test_small_buckets_take_their_memory_one_after_the_other(tmp_path: Path) -> None:
    before, after = (stored("BF16", bf16(a)) for a in step_of_training(400_000, 3e-6))

    def faults(n_files: int) -> int:
        paths = [tmp_path / f"{side}{n_files}" for side in ("base", "target")]
        for path, tensor in zip(paths, (before, after), strict=True):
            for i in range(n_files):
                write_safetensors(path / f"{i}.safetensors", {"w": tensor})
        made = cost("make", *paths, "-o", tmp_path / f"{n_files}.sdiff", "--jobs", 1)
        assert made.code == 0
        return made.n_faults

    words_alone = 2 * 800_000 // mmap.PAGESIZE
    assert (faults(32) - faults(12)) / 20 < words_alone / 2


HEADERS = {
    "colons in strings": ('{"a:":{"dtype":"U8","shape":[1],"data_offsets":[0,1],":":":"}}', True),
    "spaces": ('{ "a" : {"dtype" : "U8", "shape":[1], "data_offsets":\\n[0,1]}}', True),
    "name twice": (
        '{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},'
        '"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
        False,
    ),
    "name twice, with space": (
        '{"a" :{"dtype":"U8","shape":[1],"data_offsets":[0,1]},'
        '"a" :{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
        False,
    ),
    "name twice in an entry": (
        '{"a":{"dtype":"U8","shape":[2],"shape":[1],"data_offsets":[0,1]}}',
        False,
    ),
    "name twice, deeper": (
        '{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":{"y":1,"y":2}}}',
        False,
    ),
    "true for 1": ('{"a":{"dtype":"U8","shape":[true],"data_offsets":[0,1]}}', False),
    "text for a shape": ('{"a":{"dtype":"U8","shape":"","data_offsets":[0,1]}}', False),
    "fraction": ('{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1.0]}}', False),
    "unknown dtype": ('{"a":{"dtype":"F9","shape":[1],"data_offsets":[0,1]}}', True),
    "list for a dtype": ('{"a":{"dtype":[],"shape":[1],"data_offsets":[0,1]}}', False),
    "surrogate": ('{"\\\\ud800":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', False),
}


@pytest.mark.parametrize(("header", "is_good"), HEADERS.values(), ids=HEADERS)
def test_headers_are_judged_alike_however_many_tensors_there_are(
    header: str, is_good: bool, tmp_path: Path
) -> None:
    raw = header.encode().decode("unicode_escape").encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + b"\x00")
    if not is_good:
        with pytest.raises(CorruptError):
            open_checkpoint(path)
        return
    (span,) = open_checkpoint(path).files[0].spans
    assert (span.name, span.nbytes) == (next(iter(json.loads(raw))), 1)
    assert span.offset == 8 + len(raw)


def test_files_of_like_headers_share_what_is_known_of_them(
    sides: tuple[Path, Path], tmp_path: Path
) -> None:
    base, other = (open_checkpoint(path) for path in sides)  # the same tensors in another order
    copy = shutil.copy(sides[0], tmp_path / "copy.safetensors")
    renamed = shutil.copy(sides[0], tmp_path / "copy.bin")
    longer = tmp_path / "longer.safetensors"
    longer.write_bytes(sides[0].read_bytes() + b"!")
    assert open_checkpoint(copy, like=base).files[0].spans is base.files[0].spans
    assert open_checkpoint(renamed, like=base).files[0].spans == base.files[0].spans
    found = open_checkpoint(sides[1], like=base).files[0].spans
    assert found == other.files[0].spans != base.files[0].spans
    with pytest.raises(CorruptError):
        open_checkpoint(longer, like=base)


def test_plan_does_not_depend_on_what_is_shared(sides: tuple[Path, Path], tmp_path: Path) -> None:
    copy = shutil.copy(sides[0], tmp_path / "copy.safetensors")
    empty = tmp_path / "empty.safetensors"
    write_safetensors(empty, {"none": ("F32", (0,), b""), "one": ("F32", (1,), bytes(4))})
    for base, target in ((sides[0], copy), sides, (empty, empty)):
        opened = open_checkpoint(base)
        plans = [plan(opened, open_checkpoint(target, like=like)) for like in (None, opened)]
        assert plans[0] == plans[1]
        assert any(t.base_file == 0 for t in plans[0].tensors)
