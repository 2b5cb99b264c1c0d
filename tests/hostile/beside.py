"""Writes the hostile files that name others, which lie beside them in the checkpoint of a run;
`write.py` writes them with all the others.
"""

from __future__ import annotations

import json
import pickle
from typing import Any

NAMES = {".onnx": "m.onnx", ".json": "m.safetensors.index.json", ".metadata": ".metadata"}
"""What they are called there, by how they end here."""


def files() -> dict[str, bytes]:
    """Models of ONNX, indices of shards, and metadata of ``.distcp`` files."""
    models = {
        "up": _model(location=b"../../../../etc/passwd"),
        "root": _model(location=b"/etc/passwd"),
        "nul": _model(location=b"m.data\0.txt"),
        "here": _model(location=b"."),
        "nothing": _model(location=b""),
        "screen": _model(location=b"\33[2J\xe2\x80\xae"),
        "latin": _model(location=b"\xff"),
        "two": _model(location=b"m.data") + _model(location=b"n.data"),
        "beyond": _model(location=b"m.data", offset=b"1", length=b"5"),
        "digits": _model(location=b"m.data", length=b"9" * 4_096),
        "long": _model(location=b"../" * 3_000),
        "cut": _model(location=b"m.data")[:-9],
        "nested": _nested(500),
    }
    shards: dict[str, Any] = {
        "up": {"weight_map": {"a": "../../../../etc/passwd"}},
        "root": {"weight_map": {"a": "/etc/passwd"}},
        "nul": {"weight_map": {"a": "m.data\0"}},
        "surrogate": {"weight_map": {"a": "\ud800"}},
        "screen": {"weight_map": {"a": "\33[2J\u202e"}},
        "number": {"weight_map": {"a": 1}},
        "list": {"weight_map": ["m.data"]},
    }
    made = {f"beside-{kind}.onnx": data for kind, data in models.items()}
    made |= {f"beside-{kind}.json": json.dumps(d).encode() for kind, d in shards.items()}
    made["beside-nested.json"] = b'{"weight_map":' + b"[" * 20_000
    made["beside-digits.json"] = b'{"weight_map":' + b"9" * 5_000 + b"}"
    made["beside-reduce.metadata"] = b"\x80\x02cos\nsystem\nX\x0f\0\0\0touch was-run.x\x85R"
    made["beside-nothing.metadata"] = b"."
    return made


def right() -> dict[str, bytes]:
    """The same of what is there."""
    return {
        "beside-right.onnx": _model(location=b"m.data", length=b"3"),
        "beside-right.json": json.dumps({"weight_map": {"a": "m.data"}}).encode(),
        "beside-right.metadata": pickle.dumps({}, 2),
    }


def _field(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _model(**place: bytes) -> bytes:
    """With one tensor, that lies somewhere else."""
    return b"\x08\x07" + _field(7, _field(5, _tensor(**place))) + _field(8, b"\x10\x0d")


def _tensor(**place: bytes) -> bytes:
    entries = (_field(1, key.encode()) + _field(2, value) for key, value in place.items())
    return _field(8, b"w") + b"".join(_field(13, entry) for entry in entries) + b"\x70\x01"


def _nested(n: int) -> bytes:
    """Graphs in attributes in nodes in graphs, and in the last one a tensor somewhere else."""
    graph = _field(5, _tensor(location=b"n.data"))
    for _ in range(n):
        graph = _field(1, _field(5, _field(6, graph)))
    return b"\x08\x07" + _field(7, graph) + _field(8, b"\x10\x0d")
