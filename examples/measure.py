"""Print how close the codec comes to the entropy bound, as the table of docs/codec.md.

Gaussian weights, sigma 0.02, one Adam-like step of float32 masters, stored in
several dtypes. The density follows from the learning rate.

    python examples/measure.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zstandard

from sparsediff import checkpoint_stats

N = 8 << 20  # elements
SIGMA = 0.02
Array = npt.NDArray[Any]


def masters(lr: float) -> tuple[Array, Array]:
    """Float32 masters before and after one step, (N,)."""
    rng = np.random.default_rng(0)
    before = (rng.standard_normal(N) * SIGMA).astype(np.float32)
    gradient = rng.standard_normal(N)
    update = lr * np.clip(0.6 * gradient + 0.4 * np.sign(gradient), -3, 3)
    return before, (before - update).astype(np.float32)


def bf16(values: Array) -> Array:
    """Round to bf16 words, to nearest even."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def fp8(values: Array) -> Array:
    """E4M3 words, scaled so that the largest weight fits; by truncation of float16."""
    half = (values / np.abs(values).max() * 2.0**-7).astype(np.float16).view(np.uint16)
    magnitude = ((half & 0x7FFF) + 0x40) >> 7
    return np.asarray(magnitude & 0x7F | (half >> 8) & 0x80, np.uint8)


CASTS = {
    "BF16": bf16,
    "F16": lambda a: a.astype(np.float16).view(np.uint16),
    "F32": lambda a: a.view(np.uint32),
    "F8_E4M3": fp8,
}


def save(path: Path, dtype: str, words: Array) -> Path:
    """One tensor in a safetensors file."""
    header = f'{{"w":{{"dtype":"{dtype}","shape":[{N}],"data_offsets":[0,{words.nbytes}]}}}}'
    path.write_bytes(len(header).to_bytes(8, "little") + header.encode() + words.tobytes())
    return path


def zstd_planes(base: Array, target: Array) -> int:
    """Best of zstd -3 on the byte planes of the target and of target XOR base."""
    compress = zstandard.ZstdCompressor(level=3).compress
    return min(
        len(compress(w.view(np.uint8).reshape(N, -1).T.tobytes())) for w in (target, target ^ base)
    )


def main() -> None:
    """The table."""
    print("| dtype | lr | density | raw pairs | zstd on planes | bound | patch | patch / bound |")
    print("|---|---|---|---|---|---|---|---|")
    cases = [("BF16", lr) for lr in (3e-8, 1e-7, 3e-7, 1e-6, 3e-6, 5e-6, 1e-4)]
    cases += [("F16", 1e-6), ("F8_E4M3", 1e-5), ("F32", 1e-6)]
    with tempfile.TemporaryDirectory() as directory:
        for dtype, lr in cases:
            base, target = (CASTS[dtype](m) for m in masters(lr))
            a = save(Path(directory, "a.safetensors"), dtype, base)
            b = save(Path(directory, "b.safetensors"), dtype, target)
            stats = checkpoint_stats(a, b, bound=True)
            assert stats.bound_bits is not None
            k = stats.total.n_changed
            patch = 8 * stats.patch_bytes
            print(
                f"| {dtype} | {lr:g} | {k / N:.2%} | {8 * stats.raw_pairs_bytes / k:.0f} "
                f"| {8 * zstd_planes(base, target) / k:.2f} | {stats.bound_bits / k:.2f} "
                f"| {patch / k:.2f} | {patch / stats.bound_bits:.3f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
