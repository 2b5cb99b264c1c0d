"""Large bf16 files, quickly: one block of weights, rolled and signed anew for every tensor.

    python -m tests.bench.big (base|target) PATH MIB LR

Only times are taken on them. Base and target of the same size and rate belong together.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from tests.support.pairs import bf16, step_of_training

ROW = 4096  # elements
ROWS = 4096  # so a tensor has 32 MiB


def write(which: str, path: Path, mib: int, lr: float) -> None:
    """One file of ``mib`` MiB."""
    n_rows = min(ROWS, mib * 2**20 // 2 // ROW)
    n_tensors = mib * 2**20 // 2 // ROW // n_rows
    words = bf16(step_of_training(n_rows * ROW, lr)[which == "target"])
    nbytes = words.nbytes
    header = {
        f"model.layers.{i}.weight": {
            "dtype": "BF16",
            "shape": [n_rows, ROW],
            "data_offsets": [i * nbytes, (i + 1) * nbytes],
        }
        for i in range(n_tensors)
    }
    text = json.dumps(header).encode()
    rng = np.random.default_rng(1)
    with path.open("wb") as f:
        f.write(len(text).to_bytes(8, "little") + text)
        for _ in range(n_tensors):
            by = int(rng.integers(words.size))
            signs = rng.integers(0, 256, words.size // 8, np.uint8)
            flips = np.unpackbits(signs).astype(np.uint16) << 15
            f.write((np.roll(words, by) ^ flips).data)


if __name__ == "__main__":
    write(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
