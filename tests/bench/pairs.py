"""Make the pairs of checkpoints that the benchmark patches, one file each.

`python -m tests.bench.pairs KIND DIRECTORY MIB` writes one of them; the runner
calls it as a process of its own to stay small (see `process`).
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SIGMA = 0.02


@dataclass(frozen=True)
class Kind:
    """One kind of pair: what it is called, what it stands for, how it is made."""

    title: str
    about: str
    dtype: str = ""
    lr: float = 0.0
    needs: tuple[str, ...] = ()


_STEP = "Gaussian weights, σ = 0.02, one Adam-like step of float32 masters, lr {lr:g}"
KINDS = {
    "bf16-0.2": Kind("bf16, 0.2 %", _STEP, "BF16", 3e-8),
    "bf16-2": Kind("bf16, 2 %", _STEP, "BF16", 4.7e-7),
    "bf16-10": Kind("bf16, 10 %", _STEP, "BF16", 3.4e-6),
    "fp16": Kind("fp16", _STEP, "F16", 1e-7),
    "fp8": Kind("fp8 E4M3", _STEP, "F8_E4M3", 1e-5),
    "real": Kind(
        "bf16, real policy gradient",
        "two consecutive steps of the trainer of examples/tiny_rl.py, AdamW at lr 1e-6",
        needs=("torch", "transformers"),
    ),
    "dense": Kind(
        "bf16, dense",
        "as after supervised fine-tuning: every master moved by a Gaussian of σ = {lr:g}",
        "BF16",
        3.2e-4,
    ),
    "same": Kind("bf16, unchanged", "base and target are equal; shows what start-up costs", "BF16"),
    "adam": Kind(
        "fp32 optimizer state",
        "exp_avg and exp_avg_sq of Adam before and after one step: every word changes",
        "F32",
    ),
}
QUICK = ["fp8", "real", "same"]


def shapes(n: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Tensors of a small Llama of about ``n`` elements: four layers, as wide as that takes."""
    h = max(32, round((n / 59) ** 0.5 / 32) * 32)
    yield "model.embed_tokens.weight", (16 * h, h)
    for layer in range(4):
        at = f"model.layers.{layer}"
        yield f"{at}.input_layernorm.weight", (h,)
        yield f"{at}.mlp.down_proj.weight", (h, 11 * h // 4)
        yield f"{at}.mlp.gate_proj.weight", (11 * h // 4, h)
        yield f"{at}.mlp.up_proj.weight", (11 * h // 4, h)
        yield f"{at}.self_attn.k_proj.weight", (h // 4, h)
        yield f"{at}.self_attn.o_proj.weight", (h, h)
        yield f"{at}.self_attn.q_proj.weight", (h, h)
        yield f"{at}.self_attn.v_proj.weight", (h // 4, h)
    yield "model.norm.weight", (h,)


def _casts() -> dict[str, Callable[[Any], Any]]:
    """From float32 masters to the words that are stored."""
    import numpy as np

    from tests.support.pairs import bf16

    def fp8(values: Any) -> Any:
        half = (values * 2.0**-7 / (7 * SIGMA)).astype(np.float16).view(np.uint16)
        return (((half & 0x7FFF) + 0x40) >> 7 & 0x7F | half >> 8 & 0x80).astype(np.uint8)

    return {"BF16": bf16, "F16": lambda a: a.astype(np.float16).view(np.uint16), "F8_E4M3": fp8}


def _weights(kind: Kind, name: str, mib: float) -> tuple[dict[str, Any], dict[str, Any]]:
    import numpy as np

    from tests.support.pairs import step_of_training, words

    base, target = {}, {}
    casts = _casts()
    n = int(mib * 2**20) // int(casts[kind.dtype](np.zeros(1, np.float32)).itemsize)
    for seed, (tensor, shape) in enumerate(shapes(n)):
        before, after = step_of_training(int(np.prod(shape)), kind.lr, seed)
        dtype = kind.dtype
        if len(shape) == 1:  # a norm's weights lie around 1, and are never stored as fp8
            before, after = before + np.float32(1), after + np.float32(1)
            dtype = "BF16" if dtype == "F8_E4M3" else dtype
        if name == "dense":
            moves = np.random.default_rng(1000 + seed).standard_normal(before.size)
            after = (before + kind.lr * moves).astype(np.float32)
        base[tensor] = words(dtype, casts[dtype](before).reshape(shape))
        target[tensor] = words(dtype, casts[dtype](after).reshape(shape))
    return base, target


def _adam(mib: float) -> tuple[dict[str, Any], dict[str, Any]]:
    import numpy as np

    from tests.support.pairs import words

    base, target = {}, {}
    for seed, (tensor, shape) in enumerate(shapes(int(mib * 2**20) // 8)):
        rng = np.random.default_rng(seed)
        scale = (1e-5 * np.exp(rng.standard_normal(shape))).astype(np.float32)
        gradient = scale * rng.standard_normal(shape).astype(np.float32)
        mean = scale * (rng.standard_normal(shape) * (0.1 / 1.9) ** 0.5).astype(np.float32)
        square = scale**2 * (1 + 0.03 * rng.standard_normal(shape)).astype(np.float32)
        base[f"exp_avg.{tensor}"] = words("F32", mean)
        base[f"exp_avg_sq.{tensor}"] = words("F32", square)
        next_mean = (0.9 * mean + 0.1 * gradient).astype(np.float32)
        next_square = (0.999 * square + 0.001 * gradient**2).astype(np.float32)
        target[f"exp_avg.{tensor}"] = words("F32", next_mean)
        target[f"exp_avg_sq.{tensor}"] = words("F32", next_square)
    return base, target


def _real(quick: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """Two steps of the example's trainer; its shards become one file."""
    from tests.bench.tensors import spans

    sys.path.insert(0, str(ROOT / "examples"))
    from tiny_rl import train

    with tempfile.TemporaryDirectory() as directory:
        steps = train(Path(directory), steps=1, pretrain_steps=10 if quick else 60)
        pair = [
            {
                name: (span.dtype, span.shape, data[span.offset : span.offset + span.nbytes])
                for shard in sorted(step.glob("*.safetensors"))
                for data in [shard.read_bytes()]
                for name, span in spans(shard).items()
            }
            for step in steps
        ]
    return pair[0], pair[1]


def place(directory: Path) -> tuple[Path, Path]:
    """Where base and target of a pair lie: each in a directory of its own, as some tools ask."""
    return directory / "base" / "base.safetensors", directory / "target" / "target.safetensors"


def write(name: str, directory: Path, mib: float) -> None:
    """Write the pair of a kind into ``directory``; a real one has the size it has."""
    from tests.support.pairs import write_safetensors

    kind = KINDS[name]
    if name == "real":
        pair = _real(quick=mib < 4)
    else:
        pair = _adam(mib) if name == "adam" else _weights(kind, name, mib)
    for path, tensors in zip(place(directory), pair, strict=True):
        metadata = {"format": "pt"} if name == "real" else None
        write_safetensors(path, tensors, metadata=metadata)


def link(base: Path, target: Path, directory: Path) -> None:
    """Lay out a pair that the user named."""
    for path, given in zip(place(directory), (base, target), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(given.resolve(strict=True))


if __name__ == "__main__":
    write(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]))
