"""Take round trips and count them by kind: ``python -m tests.soak --trips 1000000``."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from sparsediff import kernels
from tests.soak.trips import TRIPS, kind_of

ROOM = Path("/dev/shm" if Path("/dev/shm").is_dir() else tempfile.gettempdir())
_TELL = 60.0  # seconds between two lines of progress


def take(seed: int, number: int, room: Path) -> str:
    """Take one trip, in a room that is left empty; its kind.

    Raises:
        AssertionError: other bytes came out than went in.
    """
    rng = np.random.default_rng([seed, number])
    kind = kind_of(rng)
    if kind == "bucket":
        TRIPS[kind][1](rng, room)
        return kind
    place = room / str(number)
    place.mkdir()
    try:
        TRIPS[kind][1](rng, place)
    finally:
        shutil.rmtree(place)
    return kind


def main() -> int:
    """Take trips until there were enough, or time is over; 1 if one failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--trips", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first, to repeat one")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="end by then")
    options = parser.parse_args()
    started, told = time.monotonic(), 0.0
    taken: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(dir=ROOM) as room:
        tempfile.tempdir = room  # where payloads of patches in memory wait
        for number in range(options.first, options.first + options.trips):
            try:
                taken[take(options.seed, number, Path(room))] += 1
            except BaseException:
                print(f"failed: --seed {options.seed} --first {number} --trips 1", flush=True)
                raise
            passed = time.monotonic() - started
            if passed > told + _TELL:
                told = passed
                print(f"{taken.total():,} trips in {passed:.0f} s", file=sys.stderr, flush=True)
            if passed > options.seconds:
                break
    for kind in TRIPS:
        print(f"{kind:10} {taken[kind]:12,}")
    print(f"{'all':10} {taken.total():12,} trips, seed {options.seed}, first {options.first}, "
          f"kernels {kernels.NAME} and reference, {datetime.now(UTC):%Y-%m-%d}: "
          f"nothing else came out than went in")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
