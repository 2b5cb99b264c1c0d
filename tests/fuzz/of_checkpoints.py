"""Readers of checkpoints, format by format."""

from __future__ import annotations

import io
import json
import pickle
import re
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from sparsediff import make_patch
from sparsediff.checkpoint import Checkpoint, CheckpointFile
from sparsediff.checkpoint.formats import find_references, find_spans, pickles
from sparsediff.disk.inputs import InputFile
from sparsediff.errors import CorruptError
from tests import oracle
from tests.checkpoint.test_archives import tar_bytes, zip_bytes
from tests.checkpoint.test_arrays import npy_bytes
from tests.checkpoint.test_gguf import F32, Q8_0, VOCABULARY, gguf_bytes
from tests.fuzz.inputs import MemoryInput
from tests.fuzz.target import Target, agree, files, room
from tests.fuzz.watch import FindingError, unwatched
from tests.hostile import write as hostile
from tests.support import h5files, torchfiles
from tests.support.pairs import RNG, safetensors_bytes


def _spans(name: str, data: bytes) -> None:
    """Spans of a file in order, in the file, without overlap; and now and then, a whole patch."""
    file = MemoryInput(Path(name), data)
    spans = find_spans(cast(Any, file))
    end = 0
    for span in spans:
        if not end <= span.offset <= span.offset + span.nbytes <= len(data):
            raise FindingError(f"span {span} after {end}, in {len(data)} bytes")
        if span.dtype.n_bytes(span.shape) != span.nbytes:
            raise FindingError(f"span {span} of another size")
        end = span.offset + span.nbytes
        span.name.encode()
    if spans and len(data) < 1 << 13 and zlib.crc32(data) % 64 == 0:
        _carried(file, spans)


def _carried(file: MemoryInput, spans: list[Any]) -> None:
    """What a patch from nothing carries is the file, says the independent reader."""
    patch = io.BytesIO()
    target = Checkpoint(file.path, False, [CheckpointFile("", file, spans)])
    with unwatched():  # payloads wait in a temporary file
        make_patch(Checkpoint(Path("nothing"), True, []), target, patch, jobs=1)
    agree("file", oracle.apply({}, patch.getvalue()), {"": file.data})


def _safetensors() -> list[bytes]:
    tensors = {"a": ("F32", (3, 5), bytes(60)), "b": ("BF16", (), b"ab"), "c": ("F4", (4,), b"xy")}
    plain = safetensors_bytes(tensors)
    return [
        plain,
        safetensors_bytes(tensors, metadata={"format": "pt"}, reverse_header=True, pad=8),
        safetensors_bytes({}),
        *files(".safetensors"),
    ]


def _torch(legacy: bool) -> list[bytes]:
    """What torch itself saves, where it is installed, and what is written byte by byte."""
    path = room() / "old.pt"
    tensors = {"w": ("Float", (5, 3), RNG(0).bytes(60)), "b": ("Half", (4,), b"abcdefgh")}
    torchfiles.write_archive(path, torchfiles.old_archive(tensors))
    found = [] if legacy else [path.read_bytes()]
    try:
        import torch
    except ImportError:
        return found + files(".pt", ".bin")
    shared = torch.arange(12.0)
    states: list[Any] = [
        {"w": torch.ones(5, 3)},
        {"t": shared[2:8].reshape(2, 3), "s": shared, "n": 5},
        [torch.zeros(3, dtype=torch.bfloat16), {"x": (None,)}],
    ]
    for value in states:
        out = io.BytesIO()
        torch.save(value, out, _use_new_zipfile_serialization=not legacy)
        # Before 1.6, a storage is named by its address, which is another one each time.
        found.append(re.sub(rb"\d{10,}", lambda m: b"7" * len(m[0]), out.getvalue()))
    return found + files(".pt", ".bin")


def _pickle(data: bytes) -> None:
    """A pickle by itself, and in the place of the one in an archive of torch."""
    archive = hostile.archive({"a/data.pkl": data, "a/data/0": bytes(64), "a/version": b"3\n"})
    _spans("x.pt", archive)
    try:
        pickles.load(data)
    except pickles.PickleError:
        raise CorruptError("no pickle") from None


def _pickles() -> list[bytes]:
    old = torchfiles.old_pickle({"w": ("Float", (2, 3), "0", 16), "b": ("Half", (4,), "0", 8)})
    values: list[object] = [{"a": [1, 2.5, None, True, "x", b"y", (1,)]}, {1, 2}, [[]] * 9, 2**70]
    protocols = [pickle.dumps(v, p) for v in values for p in (0, 2, 4, 5)]
    return [old, *protocols, *files("-bare.pt", ".bin")]


def _gguf() -> list[bytes]:
    tensors = [("norm", [12], F32, bytes(48)), ("q", [64, 3], Q8_0, RNG(0).bytes(204))]
    return [
        gguf_bytes(tensors, VOCABULARY[:1] + VOCABULARY[3:]),
        gguf_bytes(tensors, alignment=8, version=2),
        *files(".gguf"),
    ]


def _npy() -> list[bytes]:
    arrays = [np.arange(6.0).reshape(2, 3), np.zeros((), ">i2"), np.asfortranarray(np.eye(3))]
    return [*(npy_bytes(a) for a in arrays), *files(".npy")]


def _npz() -> list[bytes]:
    members = {"a.npy": npy_bytes(np.arange(30)), "b/c.npy": npy_bytes(np.ones(3, "<f2"))}
    return [zip_bytes(members), zip_bytes(members, 8), *files(".npz")]


def _archives() -> list[bytes]:
    """Members are looked into from 16 KiB on."""
    inner = safetensors_bytes({"a": ("F32", (4096,), RNG(0).bytes(1 << 14))})
    members = {"m/a.safetensors": inner, "m/config.json": b"{}", "long" * 40: b"x"}
    kinds = [tar_bytes(members, kind) for kind in ("pax", "gnu", "ustar") if kind != "ustar"]
    return [*kinds, zip_bytes(members), *files(".tar", ".npz")]


def _references(name: str, data: bytes) -> None:
    find_references(cast(InputFile, MemoryInput(Path(name), data)))


def _listing(data: bytes) -> None:
    """A JSON file under each of the names that mean something."""
    errors = []
    for name in ("m.index.json", "model_index.json", "modules.json", "metadata.json", "_METADATA"):
        try:
            _references(name, data)
        except CorruptError as e:
            errors.append(e)
    if errors:
        raise errors[0]


def _listings() -> list[bytes]:
    rows: list[object] = [
        {"metadata": {"total_size": 5}, "weight_map": {"a": "x.safetensors", "b": "y.safetensors"}},
        {"_class_name": "P", "unet": ["diffusers", "UNet"], "tok": ["transformers", "Tokenizer"]},
        [{"idx": 0, "name": "0", "path": "", "type": "T"}, {"path": "1_Pooling", "type": "P"}],
        {"sharded_backend": "torch_dist", "common_backend": "torch"},
        {"tree_metadata": {"a": {"key_metadata": []}}, "use_zarr3": True},
    ]
    return [json.dumps(row).encode() for row in rows]


def _metadata(data: bytes) -> None:
    _references(".metadata", data)


def _onnx() -> list[bytes]:
    def field(number: int, content: bytes) -> bytes:
        return bytes([number << 3 | 2, len(content)]) + content

    entry = field(13, field(1, b"location") + field(2, b"w.bin"))[0:]
    length = field(13, field(1, b"length") + field(2, b"40"))
    tensor = field(8, b"w") + entry + length + b"\x70\x01"
    graph = field(7, field(5, tensor) + field(1, field(4, b"Add")))
    return [b"\x08\x07" + graph + field(8, b"\x10\x0d")]


def _file(name: str) -> Callable[[bytes], None]:
    def read(data: bytes) -> None:
        _spans(name, data)
        _references(name, data)

    return read


TARGETS = {
    "safetensors": Target(_file("x.safetensors"), _safetensors),
    "torch": Target(_file("x.pt"), lambda: _torch(False)),
    "torch-legacy": Target(_file("x.bin"), lambda: _torch(True)),
    "rank": Target(_file("mp_rank_00_model_states.pt"), lambda: _torch(False)),
    "pickle": Target(_pickle, _pickles),
    "gguf": Target(_file("x.gguf"), _gguf),
    "npy": Target(_file("x.npy"), _npy),
    "npz": Target(_file("x.npz"), _npz),
    "hdf5": Target(_file("x.h5"), lambda: [h5files.EARLIEST, h5files.LATEST, *files(".h5")]),
    "archive": Target(_file("x.nemo"), _archives),
    "listing": Target(_listing, _listings),
    "metadata": Target(_metadata, _pickles),
    "onnx": Target(partial(_references, "x.onnx"), _onnx),
}
