"""Train a tiny model, patch from one step to the next, rebuild it, compare every byte.

    pip install -e '.[examples]' && python examples/train_and_patch.py [WORK_DIR]

Needs PyTorch and transformers, the extra `examples`, and some 20 seconds.
"""

from __future__ import annotations

import filecmp
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from tiny_rl import CONTEXT, batch, text, train
from transformers import LlamaForCausalLM


def sparsediff(*args: object) -> None:
    """Show a command, then run it."""
    words = ["sparsediff", *map(str, args)]
    print(f"\n$ {shlex.join(words)}", flush=True)
    subprocess.run([sys.executable, "-m", *words], check=True)


def same_bytes(a: Path, b: Path) -> int:
    """Number of files in two directories, after checking that they are identical."""
    names = sorted(str(p.relative_to(a)) for p in a.rglob("*") if p.is_file())
    assert names == sorted(str(p.relative_to(b)) for p in b.rglob("*") if p.is_file())
    _, different, errors = filecmp.cmpfiles(a, b, names, shallow=False)
    assert not different, different
    assert not errors, errors
    return len(names)


def main(work: Path) -> None:
    """The whole story."""
    steps = train(work, steps=3)
    patches = [work / f"{i}.sdiff" for i in range(1, len(steps))]
    for base, target, patch in zip(steps, steps[1:], patches, strict=False):
        sparsediff("make", base, target, "-o", patch, "--force")
    sparsediff("stats", steps[0], steps[1], "--by", "kind", "--bound", "--bandwidth", "1Gbps")
    sparsediff("stats", *steps)
    rebuilt = work / "rebuilt"
    sparsediff("apply", steps[0], *patches, "-o", rebuilt, "--force")
    sparsediff("verify", patches[-1], "--target", rebuilt)

    print(f"\n{same_bytes(steps[-1], rebuilt)} rebuilt files are byte-identical to the trainer's")
    tokens = batch(text())[:, :CONTEXT]
    with torch.no_grad():
        logits = [
            LlamaForCausalLM.from_pretrained(path)(input_ids=tokens).logits
            for path in (steps[-1], rebuilt)
        ]
    assert torch.equal(logits[0], logits[1])
    print("and transformers computes bit-identical logits from them")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as directory:
            main(Path(directory))
