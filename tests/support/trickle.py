"""A trainer in a process of its own: ``python -m tests.support.trickle RUN LOG N PAUSE``.

Writes N checkpoints, one file after the other and each in pieces, in 1, 2 or 3
shards, DONE last, and deletes all but the last two. LOG gets a line for each:
name and digest.
"""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

from tests.support.runs import Trainer, digest_of

_PIECES = 4


def trickle(source: Path, dest: Path, seconds: float) -> None:
    """Copy a directory so that whoever looks on sees it grow, its marker last."""
    files = sorted(source.iterdir())
    dest.mkdir()
    for file in files:
        data = file.read_bytes()
        with open(dest / file.name, "wb", buffering=0) as f:
            for i in range(_PIECES):
                f.write(data[len(data) * i // _PIECES : len(data) * (i + 1) // _PIECES])
                time.sleep(seconds / len(files) / _PIECES)
    (dest / "DONE").touch()


def main() -> None:
    """See the module."""
    run, log, n, pause = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
    trainer = Trainer(log.with_suffix(".workshop"), lr=1e-7)
    run.mkdir(exist_ok=True)
    for i in range(1, n + 1):
        trainer.step()
        name = f"step_{10 * i:06}"
        built = trainer.save(name, shards=1 + i % 3)
        trickle(built, run / name, pause / 2)
        with open(log, "a") as f:
            f.write(f"{name} {digest_of(run / name)}\n")
        for old in sorted(p for p in run.iterdir())[:-2]:
            shutil.rmtree(old)
        shutil.rmtree(built)
        time.sleep(pause / 2)


if __name__ == "__main__":
    main()
