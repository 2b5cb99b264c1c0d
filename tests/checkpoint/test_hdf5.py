"""HDF5: contiguous datasets are located where the format's own library has them."""

from __future__ import annotations

import io
import random
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparsediff.checkpoint.formats import Span, find_spans, hdf5
from sparsediff.checkpoint.formats.span import MalformedError
from sparsediff.disk.inputs import InputFile
from tests.support.h5files import EARLIEST, LATEST
from tests.support.pairs import step_of_training
from tests.support.patches import round_trip

FILES = {"earliest": EARLIEST, "latest": LATEST}
LAYOUTS = {
    **{f"layers/dense_{i}/vars/0": ("F32", (20, 60)) for i in range(3)},
    **{f"layers/dense_{i}/vars/1": ("F16", (30,)) for i in range(3)},
    "optimizer/step": ("I64", ()),
    "odd": ("U8", (3, 4)),
}

KINDS = (
    *("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "bool"),
    *(">i4", ">f8", "c8", "S3", "V2", "V5"),
)


def spans_in(data: bytes, tmp_path: Path) -> dict[str, Span]:
    path = tmp_path / "m.weights.h5"
    path.write_bytes(data)
    found = find_spans(InputFile.of(path))
    assert [s.offset for s in found] == sorted(s.offset for s in found)
    return {s.name: s for s in found}


@pytest.mark.parametrize("version", FILES)
def test_datasets_are_located(version: str, tmp_path: Path) -> None:
    data = FILES[version]
    found = spans_in(data, tmp_path)
    assert {name: (s.dtype.name, s.shape) for name, s in found.items()} == LAYOUTS
    for i in range(3):
        for name, dtype in (("0", "<f4"), ("1", "<f2")):
            span = found[f"layers/dense_{i}/vars/{name}"]
            values = np.frombuffer(data, dtype, int(np.prod(span.shape)), span.offset)
            assert (values == i + 1).all()


def test_keras_archive(tmp_path: Path) -> None:
    """A zip archive with the weights in it as HDF5."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("metadata.json", '{"keras_version": "3.0.0"}')
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", EARLIEST)
    assert {*spans_in(out.getvalue(), tmp_path)} == {*LAYOUTS}


def test_patch_of_changed_weights(tmp_path: Path) -> None:
    before, after = step_of_training(1200, 1e-4)
    place = EARLIEST.index(np.full(1200, 2, "<f4").tobytes())
    for name, words in (("base", before), ("target", after)):
        raw = EARLIEST[:place] + words.tobytes() + EARLIEST[place + 4800 :]
        (tmp_path / name).write_bytes(raw)
    (tmp_path / "work").mkdir()
    round_trip(tmp_path / "base", tmp_path / "target", tmp_path / "work")


# Against the format's own library, where it is installed


def test_all_kinds_of_datasets(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as f:
        for i in range(60):  # more than one node of a tree
            f[f"layers/dense_{i}/vars/0"] = np.full((7, 3), i, "<f4")
        group = f.create_group("kinds")
        for name in KINDS:
            group[name] = np.zeros((3, 2), name)
        group["scalar"] = np.float64(3)
        group["text"] = "of any length"
        group["soft"] = h5py.SoftLink("/kinds/f4")
        group["hard"] = group["f4"]
        f["names/é"] = np.zeros(3, "<f4")
        group.attrs["long"] = ["name" * 100] * 150
        f["chunked"] = h5py.Empty("f4")
        f.create_dataset("packed", data=np.zeros((100, 100)), chunks=(10, 10), compression="gzip")
        f.create_dataset("unwritten", (50, 5), "f4")
        f.create_dataset("none", (0, 5), "f4")
        f.create_group("new", track_order=True)["x"] = np.zeros(9, "<f2")
        f["link/x"] = h5py.ExternalLink("/etc/passwd", "/")
    expected: dict[str, Any] = {}
    with h5py.File(path) as f:

        def visit(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset) and item.id.get_offset() is not None:
                expected[name] = (item.id.get_offset(), item.id.get_storage_size())

        f.visititems(visit)
    found = spans_in(path.read_bytes(), tmp_path)
    # A dataset of two names is located once, by one of them.
    places = {name: (s.offset, s.nbytes) for name, s in found.items()}
    assert sorted(places.values()) == sorted(expected.values())
    assert len({*places} ^ {*expected}) in (0, 2)
    kinds = {n.removeprefix("kinds/"): (s.dtype.name, s.shape) for n, s in found.items()}
    for kind, name in (("f2", "F16"), ("f8", "F64"), ("i1", "I8"), ("u8", "U64"), ("V2", "BF16")):
        assert kinds[kind] == (name, (3, 2))
    assert kinds[">i4"] == ("U8", (3, 2, 4))
    assert kinds["c8"] == ("U8", (3, 2, 8))
    assert kinds["scalar"] == ("F64", ())


# Broken ones


def test_cut_off_files_are_bytes(tmp_path: Path) -> None:
    for data in FILES.values():
        for n in (0, 8, 95, 96, 1000, len(data) - 1):
            assert spans_in(data[:n], tmp_path) == {}
        with pytest.raises(MalformedError, match="cut off"):
            hdf5.find_spans(InputFile.of(tmp_path / "m.weights.h5"))


@pytest.mark.parametrize("version", FILES)
def test_mutated_files_end_soon(version: str, tmp_path: Path) -> None:
    """Pointers that lead to other places, cycles among them; numbers of all sizes."""
    good = FILES[version]
    path = tmp_path / "a.h5"
    numbers = (int.from_bytes(good[at : at + 8], "little") for at in range(len(good) - 8))
    pointers = [at for at, number in enumerate(numbers) if 0 < number < len(good)]
    results: Counter[str] = Counter()
    for seed in range(400):
        rng = random.Random(seed)
        bad = bytearray(good)
        for _ in range(rng.randint(1, 3)):
            at, other = rng.choice(pointers), rng.choice(pointers)
            value = rng.choice([good[other : other + 8], other.to_bytes(8, "little"), b"\xff" * 8])
            bad[at : at + 8] = value
        path.write_bytes(bad)
        try:
            found = hdf5.find_spans(InputFile.of(path))
        except MalformedError:
            results["malformed"] += 1
            continue
        results["read"] += 1
        end = 0
        for span in found or ():
            assert span.offset >= end
            assert span.dtype.n_bytes(span.shape) == span.nbytes
            end = span.offset + span.nbytes
        assert end <= len(good)
    assert results["malformed"] > 20
    assert results["read"] > 20


def test_headers_are_read_only_so_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hdf5, "_MAX_READ", 3000)
    (tmp_path / "a.h5").write_bytes(EARLIEST)
    with pytest.raises(MalformedError, match="too large"):
        hdf5.find_spans(InputFile.of(tmp_path / "a.h5"))


def test_addresses_that_count_from_elsewhere_are_not_understood(tmp_path: Path) -> None:
    (tmp_path / "a.h5").write_bytes(EARLIEST[:24] + b"\1" + EARLIEST[25:])  # the base address
    assert hdf5.find_spans(InputFile.of(tmp_path / "a.h5")) is None
    (tmp_path / "a.h5").write_bytes(LATEST[:9] + b"\4" + LATEST[10:])  # 4 bytes an address
    assert hdf5.find_spans(InputFile.of(tmp_path / "a.h5")) is None
