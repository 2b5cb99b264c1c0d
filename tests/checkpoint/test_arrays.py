"""npy and npz: located where numpy put them, refused where they contradict themselves."""

from __future__ import annotations

import io
import os
import struct
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsediff import open_patch
from sparsediff.checkpoint import formats
from sparsediff.checkpoint.formats import Span, npz, opaque
from sparsediff.disk.inputs import InputFile
from sparsediff.errors import CorruptError
from sparsediff.patch import manifest
from tests.conftest import Run
from tests.support.pairs import RNG, Array, step_of_training
from tests.support.patches import round_trip
from tests.support.refusals import EXIT, refused

TYPES = {
    "|b1": "BOOL", "|i1": "I8", "<i2": "I16", "<i4": "I32", "<i8": "I64", "|u1": "U8",
    "<u2": "U16", "<u4": "U32", "<u8": "U64", "<f2": "F16", "<f4": "F32", "<f8": "F64",
    "<c8": "C64", "<m8[s]": "I64", "<M8[ms]": "I64",
}  # fmt: skip


def spans(path: Path) -> list[Span]:
    return formats.find_spans(InputFile.of(path))


def content(path: Path, span: Span) -> bytes:
    return path.read_bytes()[span.offset :][: span.nbytes]


def npy_bytes(array: Any, version: tuple[int, int] | None = None) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.asanyarray(array), version)
    return stream.getvalue()


def with_header(text: str, data: bytes = b"", version: int = 1) -> bytes:
    length = len(text.encode()).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes([version, 0]) + length + text.encode() + data


# npy


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("descr", sorted(TYPES))
def test_array_is_located(descr: str, order: Any, version: int, tmp_path: Path) -> None:
    array = np.arange(24).astype(descr[:3]).reshape(2, 3, 4).astype(descr, order=order)
    path = tmp_path / "weights.v1.npy"
    path.write_bytes(npy_bytes(array, (version, 0)))
    (span,) = spans(path)
    assert (span.name, span.dtype.name) == ("weights.v1", TYPES[descr])
    assert span.shape == ((2, 3, 4) if order == "C" else (4, 3, 2))
    assert span.offset + span.nbytes == path.stat().st_size
    assert content(path, span) == array.tobytes("A")


@pytest.mark.parametrize(
    ("array", "dtype", "shape"),
    [
        (np.zeros((), "<f4"), "F32", ()),
        (np.zeros((0, 5), "<f2"), "F16", (0, 5)),
        (np.zeros((3,), ">f4"), "U8", (3, 4)),
        (np.zeros((3, 2), "<c16"), "F64", (3, 2, 2)),
        (np.zeros((3,), "U5"), "U8", (3, 20)),
        (np.zeros((3,), "S5"), "U8", (3, 5)),
        (np.zeros((3,), "|V7"), "U8", (3, 7)),
    ],
)
def test_odd_arrays(array: Array, dtype: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(npy_bytes(array))
    (span,) = spans(tmp_path / "a.npy")
    assert (span.dtype.name, span.shape, span.nbytes) == (dtype, shape, array.nbytes)


def test_bfloat16_of_ml_dtypes(tmp_path: Path) -> None:
    """Which numpy writes as records of two bytes, in one order, unlike its own ``|V2``."""
    text = "{'descr': '<V2', 'fortran_order': False, 'shape': (3,), }"
    (tmp_path / "a.npy").write_bytes(with_header(text, b"abcdef"))
    (span,) = spans(tmp_path / "a.npy")
    assert (span.dtype.name, span.shape) == ("BF16", (3,))


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(3, [("a", "<f4"), ("b", "<i8")]),
        np.array([None, {}], object),
    ],
)
def test_arrays_that_stay_bytes(array: Array, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    assert spans(tmp_path / "a.npy") == []


@pytest.mark.parametrize(
    "text",
    [
        '{"shape":(3L,),"fortran_order":False,"descr":"<f4"}',
        "{'descr':'<f4','fortran_order':False,'shape':(3,)}\n",
        " {'fortran_order': False, 'descr': '<f4', 'shape': (3), }   ",
    ],
)
def test_headers_of_other_writers(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(with_header(text, b"x" * 12))
    (span,) = spans(tmp_path / "a.npy")
    assert (span.dtype.name, span.shape) == ("F32", (3,))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "{}",
        "[]",
        "__import__('os').abort()",
        "{'descr': '<f4', 'fortran_order': False}",
        "{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (1,)}",
        "{'descr': '<f4', 'fortran_order': 1, 'shape': (1,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1,,1)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1 1,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (0, 9999999999999999999,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (0, 999999999999999999,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (%s)}" % ("1," * 65),
        "{'descr': '<U0', 'fortran_order': False, 'shape': (1,)}",
        "{'descr': '|O8', 'fortran_order': False, 'shape': (1,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), 'more': True}",
        "{" * 60_000,
        "{" + "'descr': " * 7_000 + "}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (" + " " * 60_000,
    ],
)
def test_headers_that_are_not_understood_are_bytes(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(with_header(text, b"x" * 16))
    assert spans(tmp_path / "a.npy") == []


@pytest.mark.parametrize("version", [2, 3])
def test_long_header_is_not_read(version: int, tmp_path: Path) -> None:
    text = "{'descr': '<f4', 'fortran_order': False, 'shape': (1,)}" + " " * (1 << 17)
    (tmp_path / "a.npy").write_bytes(with_header(text, b"x" * 4, version))
    assert spans(tmp_path / "a.npy") == []


@pytest.mark.parametrize(
    ("shape", "word"),
    [("(5,)", "F32[5]"), ("(4294967296, 4294967296, 4294967296)", "F32[4294967296")],
)
def test_array_that_exceeds_the_file(shape: str, word: str, cli: Run, tmp_path: Path) -> None:
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}"
    bad = tmp_path / "bad.npy"
    bad.write_bytes(with_header(text, b"x" * 16))
    result = cli("make", bad, bad, "-o", tmp_path / "p")
    refused(result, EXIT["corrupt"], "malformed npy", str(bad), "'bad'", "16 bytes", word)
    os.rename(bad, tmp_path / "bytes")  # what does not claim to be an array is not refused
    assert spans(tmp_path / "bytes") == []


def test_cut_off_npy_is_bytes_or_refused(tmp_path: Path) -> None:
    whole = npy_bytes(np.arange(3, dtype="<f4"))
    path = tmp_path / "a.npy"
    for n in range(len(whole)):
        path.write_bytes(whole[:n])
        if n < 10:
            assert spans(path) == []
        else:
            with pytest.raises(CorruptError, match="malformed npy"):
                spans(path)


def test_bytes_after_an_array_are_skeleton(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(npy_bytes(np.zeros(3)) + npy_bytes(np.ones(3)))
    (span,) = spans(tmp_path / "a.npy")
    assert span.nbytes == 24
    with open(tmp_path / "a.npy", "ab") as f:
        f.truncate(formats.MAX_SKELETON_BYTES + 1000)
    (span,) = spans(tmp_path / "a.npy")  # more than can be carried whole: bytes in buckets
    assert (span.name, span.nbytes) == ("", formats.MAX_SKELETON_BYTES + 1000)


def test_limit_of_skeletons_is_that_of_the_manifest() -> None:
    assert formats.MAX_SKELETON_BYTES == manifest.MAX_SKELETON_BYTES


def test_single_arrays_match_whatever_the_files_are_called(tmp_path: Path) -> None:
    before, after = step_of_training(50_000, 1e-5)
    np.save(tmp_path / "step1.npy", before)
    np.save(tmp_path / "step2.npy", after)
    n = round_trip(tmp_path / "step1.npy", tmp_path / "step2.npy", tmp_path)
    assert n < 0.6 * after.nbytes


# npz


def test_npz_names_and_places(tmp_path: Path) -> None:
    arrays: dict[str, Array] = {
        "layer/weight": np.arange(6, dtype="<f4").reshape(2, 3),
        "bias": np.ones(3, "<f2"),
        "größe": np.asfortranarray(np.ones((2, 5), "<i8")),
        "records": np.zeros(2, [("a", "<f4")]),
    }
    path = tmp_path / "m.npz"
    np.savez(path, **arrays)  # type: ignore[arg-type]
    found = {s.name: s for s in spans(path)}
    assert list(found) == ["layer/weight", "bias", "größe"]
    assert [s.shape for s in found.values()] == [(2, 3), (3,), (5, 2)]
    for name, span in found.items():
        assert content(path, span) == arrays[name].tobytes("A")


def test_deflated_arrays_are_skeleton_while_that_is_small(tmp_path: Path) -> None:
    small, large = tmp_path / "small.npz", tmp_path / "large.npz"
    np.savez_compressed(small, a=np.zeros(9), b=np.ones(9))
    assert spans(small) == []
    noise = RNG(0).bytes(opaque.MAX_SKELETON)
    np.savez_compressed(large, a=np.frombuffer(noise, np.uint8), b=np.ones(9))
    found = spans(large)
    assert [(s.name, s.dtype.name) for s in found] == [("a.npy", "U8"), ("b.npy", "U8")]
    same, other = large, tmp_path / "other.npz"
    np.savez_compressed(other, a=np.frombuffer(noise, np.uint8), b=np.zeros(9))
    assert round_trip(same, other, tmp_path) < 2000


def test_entry_names_never_collide(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    array = npy_bytes(np.zeros(3))
    with zipfile.ZipFile(path, "w") as z:
        for name in ("x", "x.npy", "x.npy.npy", ".npy", "y.npy"):
            z.writestr(name, array)
    found = [s.name for s in spans(path)]
    assert found == ["x.npy", "x.npy.npy", ".npy", "y"]


def test_npz_is_known_by_its_content(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", w=np.zeros(4))
    os.rename(tmp_path / "a.npz", tmp_path / "a.bin")
    assert [s.name for s in spans(tmp_path / "a.bin")] == ["w"]
    with zipfile.ZipFile(tmp_path / "b.bin", "w") as z:
        z.writestr("text", b"x")
    assert spans(tmp_path / "b.bin") == []
    (tmp_path / "c.npz").write_bytes(b"no archive")
    assert spans(tmp_path / "c.npz") == []


def test_array_in_npz_that_exceeds_its_entry(cli: Run, tmp_path: Path) -> None:
    bad = tmp_path / "bad.npz"
    with zipfile.ZipFile(bad, "w") as z:
        text = "{'descr': '<f4', 'fortran_order': False, 'shape': (5,)}"
        z.writestr("w.npy", with_header(text, b"x" * 16))
        z.writestr("v.npy", b"x" * 100)
    result = cli("make", bad, bad, "-o", tmp_path / "p")
    refused(result, EXIT["corrupt"], "malformed npy", str(bad), "'w'", "16 bytes")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Two stored arrays, zipped without numpy's ZIP64 fields."""
    path = tmp_path / "bad.npz"
    with zipfile.ZipFile(path, "w") as z:
        for name in ("a.npy", "b.npy"):
            z.writestr(name, npy_bytes(np.arange(4)))
    return path


def test_cut_off_npz_is_bytes_or_refused(archive: Path) -> None:
    whole = archive.read_bytes()
    assert len(spans(archive)) == 2
    for n in range(len(whole)):
        archive.write_bytes(whole[:n])
        if n < 35:  # not even a header and a name
            assert spans(archive) == []
        else:
            with pytest.raises(CorruptError, match="malformed zip"):
                spans(archive)


def test_every_flipped_byte_of_an_npz(archive: Path) -> None:
    """Located, bytes or refused; never anything else, and never outside the file."""
    whole = archive.read_bytes()
    for i in range(len(whole)):
        for flip in (0xFF, 0x01):
            archive.write_bytes(whole[:i] + bytes([whole[i] ^ flip]) + whole[i + 1 :])
            with suppress(CorruptError):
                found = spans(archive)
                assert all(s.offset + s.nbytes <= len(whole) for s in found)


TRICKS: dict[str, tuple[list[tuple[str, int, str, Any]], str]] = {
    # what: [(structure, its index, offset and format in it), value], what the line says
    "overlap": ([("central", 1, "<L 42", 1)], "is not where"),
    "same place": ([("central", 1, "<L 42", 0)], "is not where"),
    "outside": ([("central", 1, "<L 42", 0xFFFFFF)], "outside"),
    "no header there": ([("central", 0, "<L 42", 1)], "is not where"),
    "data past the directory": (
        [("central", 1, "<L 20", 9999), ("central", 1, "<L 24", 9999), ("local", 1, "<L 18", 9999),
         ("local", 1, "<L 22", 9999)],
        "exceeds the archive",
    ),
    "two sizes": ([("central", 0, "<L 24", 1), ("local", 0, "<L 22", 1)], "two sizes"),
    "another size": ([("local", 0, "<L 18", 1)], "two sizes"),
    "another method": ([("local", 0, "<H 8", 8)], "two methods"),
    "another name": ([("local", 0, "5s 30", b"c.npy")], "is not where"),
    "longer name": ([("local", 0, "<H 26", 9)], "zip entry"),
    "one name twice": (
        [("local", 1, "5s 30", b"a.npy"), ("central", 1, "5s 46", b"a.npy")],
        "have the same name",
    ),
    "no 64-bit sizes": ([("central", 0, "<L 24", 0xFFFFFFFF)], "without its zip64 sizes"),
    "another disk": ([("central", 0, "<H 34", 1)], "another disk"),
    "disks": ([("end", 0, "<H 4", 1)], "several disks"),
    "too many": ([("end", 0, "<H 8", 9), ("end", 0, "<H 10", 9)], "exceeds the file"),
    "too few": ([("end", 0, "<H 8", 1), ("end", 0, "<H 10", 1)], "more than its entries"),
    "directory elsewhere": ([("end", 0, "<L 16", 0)], "outside the archive"),
    "directory too long": ([("end", 0, "<L 12", 0xFFFFFFF0)], "exceeds the file"),
    "no directory": ([("central", 1, "<L 0", 0)], "bad entry"),
    "longer entry": ([("central", 1, "<H 28", 0xFFFF)], "ends inside an entry"),
    "no end": ([("end", 0, "<L 0", 0)], "no zip directory"),
    "comment": ([("end", 0, "<H 20", 3)], "no zip directory"),
}  # fmt: skip


@pytest.mark.parametrize("trick", sorted(TRICKS))
def test_zip_tricks(trick: str, archive: Path, cli: Run, tmp_path: Path) -> None:
    changes, word = TRICKS[trick]
    raw = bytearray(archive.read_bytes())
    signatures = {"local": b"PK\3\4", "central": b"PK\1\2", "end": b"PK\5\6"}
    for structure, index, place, value in changes:
        at = -1
        for _ in range(index + 1):
            at = raw.index(signatures[structure], at + 1)
        kind, offset = place.split()
        struct.pack_into(kind, raw, at + int(offset), value)
    archive.write_bytes(raw)
    result = cli("make", archive, archive, "-o", tmp_path / "p")
    refused(result, EXIT["corrupt"], "malformed zip", str(archive), word)


@pytest.mark.parametrize("field", ["signature", "place", "length", "entries", "start"])
def test_zip64_tricks(field: str, archive: Path, cli: Run, tmp_path: Path) -> None:
    raw = archive.read_bytes()
    at = raw.index(b"PK\5\6")
    _, _, _, _, n, length, start, _ = struct.unpack_from("<4s4H2LH", raw, at)
    values = {"signature": 0x06064B50, "place": at, "length": 44, "entries": n, "start": start}

    def write() -> None:
        end64 = struct.pack("<LQ2H2L4Q", *(values[k] for k in ("signature", "length")), 45, 45,
                            0, 0, n, values["entries"], length, values["start"])  # fmt: skip
        locator = struct.pack("<4sLQL", b"PK\6\7", 0, values["place"], 1)
        end = struct.pack(
            "<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, (1 << 32) - 1, (1 << 32) - 1, 0
        )
        archive.write_bytes(raw[:at] + end64 + locator + end)

    write()
    assert [s.name for s in spans(archive)] == ["a", "b"]
    values[field] = (1 << 60) + 1 if field != "signature" else 0
    write()
    result = cli("make", archive, archive, "-o", tmp_path / "p")
    refused(result, EXIT["corrupt"], "malformed zip", str(archive))


def test_archive_of_too_many_entries_is_bytes(
    archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(npz, "MAX_ENTRIES", 1)
    assert spans(archive) == []


def test_encrypted_and_unusual_entries_are_skeleton(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as z:
        z.writestr("a.npy", npy_bytes(np.arange(4)), zipfile.ZIP_LZMA)
        z.writestr("b.npy", npy_bytes(np.arange(4)))
        z.comment = b"PK\5\6 and a comment that looks like an end of the directory"
    assert [s.name for s in spans(path)] == ["b"]
    raw = bytearray(path.read_bytes())
    raw[raw.rindex(b"PK\1\2") + 8] |= 1
    path.write_bytes(raw)
    assert spans(path) == []


# Round trips


@st.composite
def pairs_of_arrays(draw: st.DrawFn) -> tuple[dict[str, Array], dict[str, Array]]:
    """Arrays of any type, shape and order, and the same after some words changed."""
    before: dict[str, Array] = {}
    after: dict[str, Array] = {}
    for k in range(draw(st.integers(1, 4))):
        descr = draw(st.sampled_from([*TYPES, ">f4", "<c16", "S3", "U2", ">i2"]))
        shape = tuple(draw(st.lists(st.integers(0, 9), max_size=4)))
        order: Any = draw(st.sampled_from("CF"))
        rng = RNG(draw(st.integers(0, 99)))
        for arrays, share in ((before, 0.0), (after, draw(st.sampled_from([0, 0.1, 1])))):
            n = int(np.prod(shape)) * np.dtype(descr).itemsize
            raw = np.frombuffer(RNG(k).bytes(n), np.uint8).copy() & 0x3F
            raw[rng.random(n) < share] ^= 1
            arrays[f"a{k}"] = raw.view(descr).reshape(shape).copy(order=order)
    if draw(st.booleans()):
        after["new"] = np.arange(draw(st.integers(0, 99)), dtype="<f4")
    return before, after


@given(pair=pairs_of_arrays(), deflated=st.booleans())
def test_npz_round_trip(
    pair: tuple[dict[str, Array], dict[str, Array]],
    deflated: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    place = tmp_path_factory.mktemp("npz")
    save: Any = np.savez_compressed if deflated else np.savez
    for name, arrays in zip(("a.npz", "b.npz"), pair, strict=True):
        save(place / name, **arrays)
        if not deflated:
            assert [s.name for s in spans(place / name)] == list(arrays)
            for s in spans(place / name):
                assert content(place / name, s) == arrays[s.name].tobytes("A")
    round_trip(place / "a.npz", place / "b.npz", place)


def test_directory_of_arrays(cli: Run, tmp_path: Path) -> None:
    before, after = step_of_training(20_000, 1e-6)
    for name, values in (("base", before), ("target", after)):
        (tmp_path / name / "optimizer").mkdir(parents=True)
        np.save(tmp_path / name / "w.npy", values.astype("<f2"))
        np.save(tmp_path / name / "optimizer" / "w.npy", np.asfortranarray(values.reshape(100, -1)))
        np.savez(tmp_path / name / "rest.npz", w=values[:10], step=np.int64(len(name)))
    round_trip(tmp_path / "base", tmp_path / "target", tmp_path)
    with open_patch(tmp_path / "p.sdiff") as patch:
        names = [(t.name, t.dtype.name, t.base_file) for t in patch.manifest.tensors]
    assert names == [("w", "F32", 0), ("w", "F32", 1), ("step", "I64", 1), ("w", "F16", 2)]
    code, out, _ = cli("stats", tmp_path / "p.sdiff")
    assert code == 0
    assert "step" in out
