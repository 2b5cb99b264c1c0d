"""What this machine can do at most, one thread: reading, copying, hashing. GB/s, as JSON.

python -m tests.bench.limits FILE
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import xxhash

MIB = 1 << 20


def rate(call: Callable[[], object], nbytes: int, repeats: int = 5) -> float:
    """Median of ``repeats`` runs, in GB/s."""
    call()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return nbytes / statistics.median(seconds) / 1e9


def measure(path: str) -> dict[str, float]:
    """Read ``path`` by pread of a MiB, copy between arrays, hash one cached MiB."""
    size = min(os.path.getsize(path), 1 << 30)
    buffer = bytearray(MIB)
    source = np.ones(64 * MIB, np.uint8)
    copy = np.zeros_like(source)
    cached = source[:MIB].data
    with open(path, "rb", buffering=0) as f:

        def read() -> None:
            for offset in range(0, size, MIB):
                os.preadv(f.fileno(), [buffer], offset)

        def hash_it() -> None:
            for _ in range(256):
                xxhash.xxh3_128_digest(cached)

        return {
            "pread of 1 MiB": rate(read, size),
            "memcpy of 64 MiB": rate(lambda: np.copyto(copy, source), source.nbytes),
            "XXH3-128 of a cached MiB": rate(hash_it, 256 * MIB),
        }


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1])))
