"""Four steps of a real policy-gradient run as patches: apply them, make them again, compare.

    pip install -e . && python examples/quickstart.py [WORK_DIR]

Needs nothing but sparsediff itself. The data, one layer of bf16 weights and its next four
steps, lie in `examples/data`, with a note on where they come from.
"""

from __future__ import annotations

import filecmp
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

DATA = Path(__file__).parent / "data"


def sparsediff(work: Path, *args: object) -> None:
    """Show a command, then run it where the files are."""
    words = ["sparsediff", *map(str, args)]
    print(f"\n$ {shlex.join(words)}", flush=True)
    subprocess.run([sys.executable, "-m", *words], check=True, cwd=work)


def main(work: Path) -> None:
    """The whole story."""
    (first,) = DATA.glob("step_*.safetensors")
    patches = sorted(DATA.glob("step_*.sdiff"))
    for path in (first, *patches):
        print(f"{path.stat().st_size:>10,} bytes  {path.name}")
        (work / path.name).write_bytes(path.read_bytes())

    steps = [first.name]
    for patch in patches:  # each checkpoint from the one before
        steps.append(f"{patch.stem}.safetensors")
        sparsediff(work, "apply", steps[-2], patch.name, "-o", steps[-1], "--force")
    sparsediff(work, "apply", steps[0], *(p.name for p in patches), "-o", "last", "--force")
    compare(work / steps[-1], work / "last")

    for base, target, patch in zip(steps, steps[1:], patches, strict=False):
        sparsediff(work, "make", base, target, "-o", f"again_{patch.name}", "--force")
        compare(patch, work / f"again_{patch.name}")

    sparsediff(work, "stats", steps[-2], steps[-1], "--bound", "--bandwidth", "1Gbps")
    sparsediff(work, "stats", *steps)
    print("\nEvery checkpoint was rebuilt and every patch made again, byte for byte.")


def compare(a: Path, b: Path) -> None:
    """Stop unless two files are the same to the byte."""
    if not filecmp.cmp(a, b, shallow=False):
        raise SystemExit(f"{a} and {b} differ")
    print(f"  {os.path.relpath(b, b.parent)} is byte-identical with {a.name}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as directory:
            main(Path(directory))
