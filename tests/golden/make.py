"""Write new golden cases. Existing ones are never touched: they must decode forever.

python -m tests.golden.make
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from sparsediff import make_patch
from tests.support.pairs import (
    RNG,
    Stored,
    bf16,
    change_some,
    model_directory,
    step_of_training,
    training_pair,
    words,
    write_safetensors,
)

HERE = Path(__file__).parent / "v1"


def _bf16(side: int, path: Path) -> None:
    write_safetensors(path, {"a": training_pair(4000, 3e-6)[side]})


def _dense(side: int, path: Path) -> None:
    write_safetensors(path, {"a": training_pair(2000, 1e-3)[side]})


def _f32_in_buckets(side: int, path: Path) -> None:
    write_safetensors(path, {"a": words("F32", step_of_training(5000, 1e-6)[side])})


def _i16(side: int, path: Path) -> None:
    numbers = np.arange(30_000, dtype=np.uint16) % 4096
    changed = (numbers + (np.arange(30_000) % 3 > 0)).astype(np.uint16)
    write_safetensors(path, {"a": words("I16", changed if side else numbers)})


def _directory(side: int, path: Path) -> None:
    model_directory(path, lr=1e-6 if side else None)


def _many_dtypes(side: int, path: Path) -> None:
    data = RNG(0).bytes(800)
    other = change_some(data, 0.05)
    names = ("BOOL", "F4", "F8_E4M3", "F8_E5M2", "I8", "F16", "U32", "C64", "F64", "I64")
    tensors: dict[str, Stored] = {
        n.lower(): (n, (1600 if n == "F4" else 800 // _SIZE[n],), (other if side else data))
        for n in names
    }
    tensors["empty"] = ("F32", (0, 3), b"")
    tensors["added" if side else "removed"] = ("U8", (5,), b"12345")
    write_safetensors(path, tensors, metadata={"step": str(side)})


_SIZE = {
    "BOOL": 1,
    "F4": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I8": 1,
    "F16": 2,
    "U32": 4,
    "C64": 8,
    "F64": 8,
    "I64": 8,
}


def _random(side: int, path: Path) -> None:
    write_safetensors(path, {"a": words("BF16", RNG(side).integers(0, 1 << 16, 500, np.uint16))})


def _grown(side: int, path: Path) -> None:
    before, after = (bf16(v).reshape(-1, 40) for v in step_of_training(4000, 1e-6))
    write_safetensors(path, {"a": words("BF16", after if side else before[:80])})


def _anchor(side: int, path: Path) -> None:
    path.mkdir()
    if side:
        write_safetensors(path / "model.safetensors", {"a": training_pair(2000)[1]})
        (path / "config.json").write_text("{}\n")


CASES: dict[str, Callable[[int, Path], None]] = {
    "bf16": _bf16,
    "dense": _dense,
    "f32-buckets": _f32_in_buckets,
    "i16": _i16,
    "directory": _directory,
    "many-dtypes": _many_dtypes,
    "random": _random,
    "grown": _grown,
    "anchor": _anchor,
}


def main() -> None:
    """Write every case that is not there yet."""
    for name, write in CASES.items():
        case = HERE / name
        if case.exists():
            continue
        case.mkdir(parents=True)
        for side, role in enumerate(("base", "target")):
            write(side, case / role)
        make_patch(
            case / "base",
            case / "target",
            case / "patch.sdiff",
            bucket_words=1500 if name == "f32-buckets" else 1 << 24,
        )
        print(f"wrote {case}")


if __name__ == "__main__":
    main()
