"""Archives: the tensors of their members are found, and hostile ones are bytes, soon."""

from __future__ import annotations

import io
import os
import tarfile
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparsediff.checkpoint.formats import Span, archives, find_spans, opaque, tars
from sparsediff.checkpoint.formats.span import MalformedError
from sparsediff.disk.inputs import InputFile, Window
from sparsediff.errors import CorruptError, UsageError
from tests.conftest import Run
from tests.support.pairs import RNG, bf16, safetensors_bytes, step_of_training, words
from tests.support.patches import round_trip

TAR: dict[str, Any] = {
    "ustar": tarfile.USTAR_FORMAT,
    "gnu": tarfile.GNU_FORMAT,
    "pax": tarfile.PAX_FORMAT,
}
KINDS = (*TAR, "zip")
LONG = "d" * 90 + "/" + "e" * 140


def tar_bytes(members: Mapping[str, bytes], kind: str = "pax", **fields: Any) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=TAR[kind]) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for key, value in fields.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def zip_bytes(members: Mapping[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data, method)  # with no time of today
    return out.getvalue()


def archive_bytes(members: Mapping[str, bytes], kind: str) -> bytes:
    return zip_bytes(members) if kind == "zip" else tar_bytes(members, kind)


def safe(seed: int = 0, names: tuple[str, ...] = ("a", "b"), n: int = 5000) -> bytes:
    rng = RNG(seed)
    return safetensors_bytes({name: ("F32", (n,), rng.bytes(4 * n)) for name in names})


def torch_bytes(seed: int = 0) -> bytes:
    generator = torch.Generator().manual_seed(seed)
    out = io.BytesIO()
    torch.save({"layers.0": {"weight": torch.randn(70, 60, generator=generator)}}, out)
    return out.getvalue()


def distributed(tmp_path: Path, **tensors: torch.Tensor) -> Path:
    from torch.distributed.checkpoint.state_dict_saver import save

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # there is one process only
        save(tensors, checkpoint_id=tmp_path / "saved", no_dist=True)
    return tmp_path / "saved"


def npy_bytes(array: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def spans_in(data: bytes, tmp_path: Path, name: str = "a.nemo") -> dict[str, Span]:
    """Spans by name, after a look at whether they are such as a patch may have."""
    path = tmp_path / name
    path.write_bytes(data)
    found = find_spans(InputFile.of(path))
    end = 0
    for span in found:
        assert span.offset >= end
        assert span.nbytes == span.dtype.n_bytes(span.shape)
        end = span.offset + span.nbytes
    assert end <= len(data)
    assert len({s.name for s in found}) == len(found)
    return {s.name: s for s in found}


def content(data: bytes, span: Span) -> bytes:
    return data[span.offset : span.offset + span.nbytes]


# What is found


@pytest.mark.parametrize("kind", KINDS)
def test_tensors_of_all_formats_are_found(kind: str, tmp_path: Path) -> None:
    array = np.arange(5000, dtype="<i4").reshape(100, 50)
    members = {
        "./model_config.yaml": b"precision: bf16\n" * 500,
        "./model_weights.ckpt": torch_bytes(),
        "./s.safetensors": safe(),
        "./arrays/steps.npy": npy_bytes(array),
    }
    data = archive_bytes(members, kind)
    found = spans_in(data, tmp_path)
    layouts = {name: (s.dtype.name, s.shape) for name, s in found.items()}
    assert layouts == {
        "layers.0.weight": ("F32", (70, 60)),
        "a": ("F32", (5000,)),
        "b": ("F32", (5000,)),
        "steps": ("I32", (100, 50)),
    }
    assert content(data, found["steps"]) == array.tobytes()
    assert content(data, found["a"]) in members["./s.safetensors"]


@pytest.mark.parametrize("outer", KINDS)
@pytest.mark.parametrize("inner", KINDS)
def test_archives_in_archives(inner: str, outer: str, tmp_path: Path) -> None:
    data = archive_bytes({"models/x": archive_bytes({"s": safe()}, inner)}, outer)
    found = spans_in(data, tmp_path)
    assert list(found) == ["a", "b"]
    assert content(data, found["b"]) == safe()[-20000:]


def test_names_that_several_members_have_say_which(tmp_path: Path) -> None:
    members = {"r0.st": safe(0), "./r1.st": safe(1, ("b", "", "c")), "c": os.urandom(9 << 20)}
    assert list(spans_in(tar_bytes(members), tmp_path)) == [
        *("a", "r0.st::b", "r1.st::b", "r1.st", "c", "c#2")
    ]


@pytest.mark.parametrize("kind", ["gnu", "pax"])
def test_long_names(kind: str, tmp_path: Path) -> None:
    members = {f"{LONG}/é{i}.st": safe(i) for i in range(2)}
    found = spans_in(tar_bytes(members, kind), tmp_path)
    assert list(found) == [f"{LONG}/é{i}.st::{n}" for i in range(2) for n in "ab"]


def test_names_split_in_two_fields(tmp_path: Path) -> None:
    name = "d" * 90 + "/" + "e" * 90
    found = spans_in(tar_bytes({name: safe(0), "x": safe(1)}, "ustar"), tmp_path)
    assert f"{name}::a" in found


def test_what_is_said_of_one_member_does_not_hold_for_the_next(tmp_path: Path) -> None:
    members = {LONG: safe(0), "x": safe(1)}
    assert "x::a" in spans_in(tar_bytes(members, "gnu"), tmp_path)
    assert "x::a" in spans_in(tar_bytes(members, "pax"), tmp_path)


def test_members_agree_with_tarfile(tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        archive.pax_headers = {"comment": "of all"}
        for i, kind in enumerate((b"5", b"0", b"1", b"2", b"3", b"6", b"0", b"7")):
            info = tarfile.TarInfo(f"{LONG}é{i}" if i % 3 else f"n{i}")
            info.type, info.linkname, info.mtime = kind, LONG, 1.5
            info.size = 700 * i if kind in b"07" else 0
            archive.addfile(info, io.BytesIO(os.urandom(info.size)))
    path = tmp_path / "a.tar"
    path.write_bytes(out.getvalue())
    with tarfile.open(path) as archive:
        expected = [(m.name, m.offset_data, m.size) for m in archive if m.isreg()]
    found = tars.find_members(InputFile.of(path))
    assert found is not None
    assert [(m.name, m.offset, m.nbytes) for m in found] == expected


def test_sizes_in_binary_and_in_pax(tmp_path: Path) -> None:
    """As of members of 8 GiB and more; the file is of holes."""
    size = (8 << 30) + 5
    for kind in ("gnu", "pax"):
        info = tarfile.TarInfo("big")
        info.size = size
        path = tmp_path / kind
        path.write_bytes(info.tobuf(TAR[kind]))
        with open(path, "r+b") as f:
            at = f.seek(0, 2)
            f.truncate(at + size + 507 + 1024)
        assert tars.find_members(InputFile.of(path)) == [tars.Member("big", at, size)]
        (span,) = find_spans(InputFile.of(path))
        assert (span.name, span.dtype.name, span.nbytes) == ("big", "U8", size)


def test_distributed_checkpoint_in_an_archive(tmp_path: Path) -> None:
    """Its names are in another member."""
    saved = distributed(tmp_path, w=torch.randn(90, 50), v=torch.randn(2000))
    members = {f"model/{p.name}": p.read_bytes() for p in sorted(saved.iterdir())}
    assert {"model/.metadata", "model/__0_0.distcp"} == set(members)
    assert {*spans_in(tar_bytes(members), tmp_path)} == {"v", "w"}
    in_zip = zip_bytes({"inner.tar": tar_bytes(members)})
    assert {*spans_in(in_zip, tmp_path)} == {"v", "w"}
    del members["model/.metadata"]
    assert not {"v", "w"} & {*spans_in(tar_bytes(members), tmp_path)}


def test_names_in_an_archive_never_lead_to_files_on_disk(tmp_path: Path) -> None:
    saved = distributed(tmp_path, secret=torch.randn(90, 50))
    data = tar_bytes({f"{saved}/__0_0.distcp": (saved / "__0_0.distcp").read_bytes()})
    (span,) = spans_in(data, saved).values()
    assert "secret" not in span.name


def test_members_of_no_known_format(tmp_path: Path) -> None:
    """Skeleton, unless they are large, alone or together."""
    rng = RNG(0)
    small = {f"{i}.txt": rng.bytes(1 << 20) for i in range(8)}
    assert list(spans_in(tar_bytes(small | {"s": safe()}), tmp_path)) == ["a", "b"]
    more = small | {"s": safe(), "tiny": b"x" * 100, "last.txt": rng.bytes(1 << 17)}
    assert list(spans_in(tar_bytes(more), tmp_path)) == [*small, "a", "b", "last.txt"]
    large = {"large": rng.bytes(opaque.MAX_SKELETON + 1), "0.txt": rng.bytes(1 << 20)}
    (span,) = spans_in(zip_bytes(large), tmp_path).values()
    assert (span.name, span.shape) == ("large", (opaque.MAX_SKELETON + 1,))


def test_compressed_members_are_bytes(tmp_path: Path) -> None:
    members = {"s.st": safe(n=300_000), "rest": RNG(1).bytes(7 << 20)}
    assert zip_bytes(members, zipfile.ZIP_DEFLATED) != zip_bytes(members)
    found = spans_in(zip_bytes(members, zipfile.ZIP_DEFLATED), tmp_path)
    assert {name: s.dtype.name for name, s in found.items()} == {"s.st": "U8", "rest": "U8"}


def test_archives_without_anything_to_find(tmp_path: Path) -> None:
    for data in (
        bytes(10240),
        tar_bytes({}),
        tar_bytes({"empty": b""}),
        zip_bytes({}),
        zip_bytes({"a": b"text"}),
    ):
        assert spans_in(data, tmp_path) == {}


# What comes of it


@pytest.mark.parametrize("kind", KINDS)
def test_patch_is_as_small_as_that_of_the_members(kind: str, tmp_path: Path) -> None:
    pairs = [step_of_training(40_000, 1e-6, seed) for seed in range(2)]
    sizes = {}
    for form in ("files", "archive"):
        paths = [tmp_path / form / step for step in ("base", "target")]
        for step, path in enumerate(paths):
            members = {
                f"{i}.st": safetensors_bytes({"w": words("BF16", bf16(pair[step]))})
                for i, pair in enumerate(pairs)
            } | {"config.yaml": f"step: {step}\n".encode()}
            path.mkdir(parents=True)
            if form == "archive":
                (path / "model.nemo").write_bytes(archive_bytes(members, kind))
            for name, data in members.items() if form == "files" else ():
                (path / name).write_bytes(data)
        (tmp_path / form / "work").mkdir()
        sizes[form] = round_trip(paths[0], paths[1], tmp_path / form / "work")
    assert sizes["archive"] < sizes["files"] + 1000


def test_stats_name_the_tensors(cli: Run, tmp_path: Path) -> None:
    for i in range(2):
        (tmp_path / f"{i}.nemo").write_bytes(tar_bytes({"m.st": safe(i, ("decoder.weight",))}))
    code, out, _ = cli("stats", tmp_path / "0.nemo", tmp_path / "1.nemo", "--json")
    assert code == 0
    assert "decoder.weight" in out


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_mutated_archives_come_back(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever is broken in one, a patch to it and from it is made and is exact."""
    tmp_path = tmp_path_factory.mktemp("mutated")
    kind = data.draw(st.sampled_from(KINDS))
    inner = archive_bytes({"s.st": safe(n=2500)}, data.draw(st.sampled_from(KINDS)))
    members = {"w.ckpt": torch_bytes(), LONG[:80]: inner, "config": b"x" * 600}
    good = archive_bytes(members, kind)
    bad = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(bad) - 1))
        how = data.draw(st.sampled_from(["flip", "cut", "insert", "number"]))
        if how == "flip":
            bad[at] ^= data.draw(st.integers(1, 255))
        elif how == "cut":
            del bad[at : at + data.draw(st.sampled_from([1, 512, 1 << 20]))]
        elif how == "insert":
            bad[at:at] = bytes(data.draw(st.sampled_from([1, 512])))
        else:
            value = data.draw(st.sampled_from([b"\xff" * 8, b"7" * 11, b"\x80" + b"\xff" * 11]))
            bad[at : at + len(value)] = value
        if not bad:
            break
    for name, raw in (("good", good), ("bad", bytes(bad))):
        (tmp_path / name).write_bytes(raw)
    spans_in(bytes(bad), tmp_path)
    (tmp_path / "work").mkdir()
    round_trip(tmp_path / "good", tmp_path / "bad", tmp_path / "work")
    round_trip(tmp_path / "bad", tmp_path / "good", tmp_path / "work")


# Hostile ones


def resummed(header: bytes) -> bytes:
    header = header[:148] + b" " * 8 + header[156:]
    return header[:148] + b"%06o\0 " % sum(header) + header[156:]


def header(name: bytes = b"x", size: bytes = b"0" * 11 + b"\0", kind: bytes = b"0") -> bytes:
    raw = name.ljust(100, b"\0") + bytes(24) + size.ljust(12, b"\0") + bytes(20) + kind
    return resummed(raw.ljust(257, b"\0") + b"ustar\x0000".ljust(255, b"\0"))


def block(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def member(name: bytes, data: bytes, kind: bytes = b"0") -> bytes:
    return header(name, b"%011o\0" % len(data), kind) + block(data)


END = bytes(1024)
GOOD = member(b"s.st", safe())

BROKEN = {
    "member beyond the file": GOOD + header(size=b"%011o\0" % 100_000) + END,
    "size of 2^63": GOOD + header(size=b"\x80\0\0\0\x80" + bytes(7)) + END,
    "size of 2^88": GOOD + header(size=b"\x80" + b"\xff" * 11) + END,
    "negative size": GOOD + header(size=b"\xff" * 12) + END,
    "size of letters": GOOD + header(size=b"12345678x90\0") + END,
    "wrong sum": GOOD + header()[:-1] + b"x" + END,
    "text between": GOOD + b"hello" * 400,
    "cut in a header": GOOD + header()[:100],
    "cut in a member": GOOD[:-1024],
    "long name without end": GOOD + header(size=b"%011o\0" % 5000, kind=b"L") + END,
    "pax without end": GOOD + header(size=b"%011o\0" % 5000, kind=b"x") + END,
    "pax of no lines": GOOD + member(b"x", b"no line", b"x") + GOOD + END,
    "pax line of nothing": GOOD + member(b"x", b"0 a=b\n", b"x") + GOOD + END,
    "pax line that stays": GOOD + member(b"x", b"4 a=b\n", b"x") + GOOD + END,
    "pax line beyond": GOOD + member(b"x", b"99 a=b\n", b"x") + GOOD + END,
    "pax size of letters": GOOD + member(b"x", b"10 size=x\n", b"x") + GOOD + END,
    "pax size beyond": GOOD + member(b"x", b"17 size=99999999\n", b"x") + GOOD + END,
    "pax size of 2^64": GOOD + member(b"x", b"28 size=9999999999999999999\n", b"x") + GOOD + END,
    "long name above the limit": GOOD + member(b"x", bytes((1 << 20) + 1), b"L") + GOOD + END,
    "pax above the limit": GOOD + member(b"x", bytes((1 << 20) + 1), b"x") + GOOD + END,
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_tars_are_bytes(case: str, tmp_path: Path) -> None:
    data = BROKEN[case]
    assert list(spans_in(GOOD + END, tmp_path)) == ["a", "b"]
    assert spans_in(data, tmp_path) == {}
    with pytest.raises(MalformedError, match=r"a\.nemo.*: malformed tar archive: "):
        tars.find_members(InputFile.of(tmp_path / "a.nemo"))
    # In an archive it costs its own tensors, and those of no other member.
    outer = zip_bytes({"bad.tar": data, "s.st": safe(1, ("c",))})
    assert list(spans_in(outer, tmp_path)) == ["c"]


@pytest.mark.parametrize(
    "data",
    [
        GOOD + member(b"x", safe(), b"S") + END,
        GOOD + member(b"x", b"22 GNU.sparse.major=1\n", b"x") + GOOD + END,
    ],
)
def test_files_with_holes_are_bytes(data: bytes, tmp_path: Path) -> None:
    assert spans_in(data, tmp_path) == {}
    assert tars.find_members(InputFile.of(tmp_path / "a.nemo")) is None


@pytest.mark.parametrize("said", [b"10 size=0\n", b"10 path=b\n", b"22 GNU.sparse.size=99\n"])
def test_what_a_tar_says_of_all_its_members_is_not_ignored(said: bytes, tmp_path: Path) -> None:
    assert spans_in(GOOD + END, tmp_path)
    assert spans_in(member(b"x", b"13 comment=x\n", b"g") + GOOD + END, tmp_path)
    assert not spans_in(member(b"x", said, b"g") + GOOD + END, tmp_path)


def test_end_marks_may_be_missing(tmp_path: Path) -> None:
    for data in (GOOD, GOOD + bytes(512), GOOD + END + b"what follows"):
        assert list(spans_in(data, tmp_path)) == ["a", "b"]


def test_broken_members_are_bytes(tmp_path: Path) -> None:
    bad = {
        "cut.safetensors": safe()[:-1],
        "cut.pt": torch_bytes()[:-100],
        "cut.gguf": b"GGUF\3\0\0\0" + b"\xff" * 5000,
        "cut.npy": npy_bytes(np.zeros(2000))[:-1],
        "cut.npz": b"PK\3\4" + bytes(5000),
        "deep.safetensors": (60_008).to_bytes(8, "little") + b'{"a":' * 12_000 + b"{}      ",
    }
    for kind in KINDS:
        found = spans_in(archive_bytes(bad | {"good": safe()}, kind), tmp_path, "m.safetensors.tar")
        assert list(found) == ["a", "b"]


def test_bombs_of_archives_in_archives(tmp_path: Path) -> None:
    data = safe()
    for depth in range(1, 12):
        data = tar_bytes({"x": data}) if depth % 2 else zip_bytes({"x": data})
        names = list(spans_in(data, tmp_path))
        assert names == (["a", "b"] if depth <= 3 else [])


def test_zip_entries_that_share_bytes_are_bytes(tmp_path: Path) -> None:
    data = bytearray(zip_bytes({"x.st": safe(), "y.st": safe()}))
    second = data.rindex(b"PK\1\2")
    data[second + 42 : second + 46] = bytes(4)  # where the first one lies
    assert spans_in(bytes(data), tmp_path) == {}


def test_too_many_members_are_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tars, "MAX_HEADERS", 50)
    for n, is_found in ((49, True), (51, False)):
        empty = {f"{i}": b"" for i in range(n - 1)}
        for kind in KINDS:
            assert bool(spans_in(archive_bytes({**empty, "s": safe()}, kind), tmp_path)) == is_found
        assert spans_in(header() * (n - 1) + GOOD, tmp_path).keys() == (
            {"a", "b"} if is_found else set()
        )


@pytest.mark.parametrize("kind", [b"x", b"L", b"K", b"g"])
def test_headers_of_headers_of_headers(kind: bytes, tmp_path: Path) -> None:
    """`tarfile` calls itself for each."""
    more = b"16 comment=name\n" if kind == b"g" else b"13 path=name\n"
    data = member(b"x", more, kind) * 3000 + GOOD + END
    found = spans_in(data, tmp_path)
    assert list(found) == ["a", "b"]


def test_names_that_no_manifest_could_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "n" * 5000
    found = spans_in(tar_bytes({name: safe(0), "x": safe(1)}), tmp_path)
    assert max(map(len, found)) == 1000
    for limit in ("_MAX_NAMES", "_MAX_SPANS"):
        with monkeypatch.context() as patch:
            patch.setattr(archives, limit, 3)
            assert spans_in(tar_bytes({name: safe(0), "x": safe(1)}), tmp_path) == {}


def test_a_window_shows_nothing_beyond_itself(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(bytes(range(100)))
    window = Window(Path("d/m"), 10, InputFile.of(path), 20, {"d/n": (30, 5)})
    assert window.read(3, 7) == bytes(range(23, 30))
    assert window.beside("n").read(0, 5) == bytes(range(30, 35))
    window.check_unchanged()
    for offset, size in ((3, 8), (-1, 2), (11, 0)):
        with pytest.raises(CorruptError):
            window.read(offset, size)
    with pytest.raises(UsageError):
        window.beside("x")
