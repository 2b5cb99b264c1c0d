"""Checkpoints to test with: odd but valid safetensors files, and training-like changes."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Stored = tuple[str, tuple[int, ...], bytes]  # dtype, shape, data

RNG = np.random.default_rng


def bf16(values: Array) -> npt.NDArray[np.uint16]:
    """Round float32 values to bf16 words, to nearest even."""
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def step_of_training(n: int, lr: float, seed: int = 0, sigma: float = 0.02) -> tuple[Array, Array]:
    """Float32 masters before and after one Adam-like step."""
    rng = RNG(seed)
    before = (rng.standard_normal(n) * sigma).astype(np.float32)
    gradient = rng.standard_normal(n)
    update = lr * np.clip(0.6 * gradient + 0.4 * np.sign(gradient), -3, 3)
    return before, (before - update).astype(np.float32)


def safetensors_bytes(
    tensors: Mapping[str, Stored],
    metadata: dict[str, str] | None = None,
    *,
    indent: int | None = None,
    reverse_header: bool = False,
    pad: int = 0,
) -> bytes:
    """A safetensors file; the options make headers that are odd but valid."""
    header: dict[str, Any] = {}
    end = 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {
            "dtype": dtype,
            "shape": list(shape),
            "data_offsets": [end, end + len(data)],
        }
        end += len(data)
    if reverse_header:
        header = dict(reversed(header.items()))
    if metadata is not None:
        header = {"__metadata__": metadata} | header
    text = json.dumps(header, indent=indent).encode() + b" " * pad
    return len(text).to_bytes(8, "little") + text + b"".join(d for _, _, d in tensors.values())


def write_safetensors(path: Path, tensors: Mapping[str, Stored], **options: Any) -> Path:
    """Write `safetensors_bytes` to ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(safetensors_bytes(tensors, **options))
    return path


def words(dtype: str, array: Array) -> Stored:
    """A stored tensor from an array of words."""
    return dtype, array.shape, array.tobytes()


def training_pair(n: int = 50_000, lr: float = 3e-6, seed: int = 0) -> tuple[Stored, Stored]:
    """One bf16 tensor before and after a step."""
    before, after = step_of_training(n, lr, seed)
    return words("BF16", bf16(before)), words("BF16", bf16(after))


def change_some(data: bytes, share: float, seed: int = 0) -> bytes:
    """``data`` with about ``share`` of its bytes replaced."""
    rng = RNG(seed)
    array = np.frombuffer(data, np.uint8).copy()
    at = np.flatnonzero(rng.random(array.size) < share)
    array[at] ^= rng.integers(1, 256, at.size, dtype=np.uint8)
    return array.tobytes()


def model_directory(path: Path, lr: float | None = None, seed: int = 0) -> Path:
    """A sharded checkpoint directory with a config; ``lr`` applies one step to it."""
    shards: dict[str, dict[str, Stored]] = {}
    weight_map: dict[str, str] = {}
    for layer in range(4):
        shard = f"model-0000{layer // 2 + 1}-of-00002.safetensors"
        for k, kind in enumerate(("self_attn.q_proj", "mlp.up_proj", "input_layernorm")):
            shape = (64,) if kind == "input_layernorm" else (128, 64)
            before, after = step_of_training(int(np.prod(shape)), lr or 0.0, seed + 10 * layer + k)
            values = before if lr is None else after
            name = f"model.layers.{layer}.{kind}.weight"
            dtype = "F32" if kind == "input_layernorm" else "BF16"
            data = values if dtype == "F32" else bf16(values)
            shards.setdefault(shard, {})[name] = words(dtype, data.reshape(shape))
            weight_map[name] = shard
    for shard, tensors in shards.items():
        write_safetensors(path / shard, tensors, metadata={"format": "pt"})
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (path / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    (path / "config.json").write_text(json.dumps({"hidden_size": 64, "lr": lr}, indent=2))
    (path / "tokenizer").mkdir(exist_ok=True)
    (path / "tokenizer" / "vocab.txt").write_text("\n".join(f"token{i}" for i in range(500)))
    (path / "empty").write_bytes(b"")
    return path


def tree(path: Path) -> dict[str, bytes]:
    """Content of every file below ``path``; of the file itself under the empty name."""
    if path.is_file():
        return {"": path.read_bytes()}
    return {
        os.path.relpath(os.path.join(directory, name), path): Path(directory, name).read_bytes()
        for directory, _, names in os.walk(path, followlinks=True)
        for name in names
    }
