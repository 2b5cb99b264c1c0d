"""Updates of a running vLLM engine: through routes, by reload, and by vLLM's sparse path.

All in one run, on one model, in turn. Prints what lies in the pause, what is done before
it, and memory; fails if the ways do not lead to the same weights.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LARGE = {  # 341 MB in bf16
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 15,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
}

_LR = 2.5e-6  # changes a few per cent of the words, as reinforcement learning does


def main(directory: Path | None, quick: bool, repeats: int, report: Path | None) -> int:
    """Measure and print.

    Args:
        directory: where checkpoints go; default a temporary one.
        quick: a model of a megabyte instead of some 300.
        repeats: updates each way.
        report: file for the raw results.
    """
    os.environ |= {
        "VLLM_PLUGINS": "sparsediff",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    with tempfile.TemporaryDirectory(dir=directory) as room:
        found = measure(Path(room), {} if quick else LARGE, repeats)
    for line in lines(found):
        print(line)
    if report is not None:
        report.write_text(json.dumps(found, indent=1))
    return 0 if found["equal"] else 1


@contextmanager
def running(model: Path) -> Iterator[Any]:
    """An engine, whose processes are gone afterwards."""
    from vllm import LLM

    kind: Any = LLM
    llm = kind(
        model=str(model),
        enforce_eager=True,
        max_model_len=256,
        dtype="bfloat16",
        max_num_seqs=4,
        worker_extension_cls="tests.vllm.plain.PlainWeights",
    )
    # Only now: the engine's processes would have inherited it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield llm
    finally:
        # Left to itself, Python waits for them before vLLM ends them.
        llm.llm_engine.engine_core.shutdown()


def measure(room: Path, sizes: dict[str, int], repeats: int) -> dict[str, Any]:
    """All figures, in seconds and bytes."""
    from sparsediff import make_patch, patch_stats
    from tests.vllm.models import Trainer

    trainer = Trainer("llama", lr=_LR, **sizes)
    base, target = trainer.save(room / "base"), trainer.save(room / "target")
    patch = room / "p.sdiff"
    make_patch(base, target, patch)
    with running(base) as llm:
        found = compare(llm, base, target, patch, repeats)
    return {
        "model_bytes": sum(p.stat().st_size for p in base.glob("*.safetensors")),
        "patch_bytes": patch.stat().st_size,
        "density": patch_stats(patch).total.density,
    } | found


def compare(llm: Any, base: Path, target: Path, patch: Path, repeats: int) -> dict[str, Any]:
    """The ways in turn, each from the base to the target and back."""

    def one(method: str, *args: Any) -> Any:
        return llm.collective_rpc(method, args=args)[0]

    def call(verb: str, *args: Any) -> Any:
        reply = one("sparsediff_call", verb, *args)
        assert reply["ok"], reply
        return reply

    def measured(do: Callable[[], Any]) -> tuple[float, int, Any]:
        """Seconds, bytes beyond what the worker had before, and the result."""
        before, _ = one("memory")
        began = time.perf_counter()
        result = do()
        took = time.perf_counter() - began
        return took, one("memory")[1] - before, result

    def timed(method: str, *args: Any) -> tuple[float, int, Any]:
        return measured(lambda: one(method, *args))

    def reload(path: Path) -> None:
        llm.collective_rpc("reload_weights", kwargs={"weights_path": str(path)})

    learned = call("record", str(base))
    before = one("digests")
    ways: dict[str, list[dict[str, float]]] = {"routes": [], "sparse": [], "reload": []}
    ends = []
    for _ in range(repeats):
        prepare, memory, _ = timed("sparsediff_call", "stage_now", [str(patch)], str(base))
        pause, more, reply = timed("sparsediff_call", "commit")
        assert reply["ok"], reply
        ways["routes"].append({"prepare": prepare, "pause": pause, "memory": max(memory, more)})
        ends.append(one("digests"))
        began = time.perf_counter()
        call("undo")
        ways["routes"][-1]["undo"] = time.perf_counter() - began
        assert one("digests") == before
        call("release")
        pause, memory, parts = timed("by_sparse_patches", str(patch), str(base))
        ways["sparse"].append({"prepare": 0.0, "pause": pause, "memory": memory, **parts})
        ends.append(one("digests"))
        reload(base)
        assert one("digests") == before
        pause, memory, _ = measured(lambda: reload(target))
        ways["reload"].append({"prepare": 0.0, "pause": pause, "memory": memory})
        ends.append(one("digests"))
        reload(base)
        call("record", str(base))
    return {
        "learned": learned,
        "ways": ways,
        "equal": all(end == ends[0] != before for end in ends),
    }


def lines(found: dict[str, Any]) -> list[str]:
    """A table of medians and ranges."""
    learned = found["learned"]
    text = [
        f"model {found['model_bytes'] / 1e6:.0f} MB, {found['density']:.1%} changed, "
        f"patch {found['patch_bytes'] / 1e6:.1f} MB; routes recorded in "
        f"{learned['record_ms']:.0f} ms and proved in {learned['prove_ms']:.0f} ms, once",
        f"{'way':8} {'in the pause, ms':>24} {'before it, ms':>14} {'memory, MiB':>12}",
    ]
    for way, runs in found["ways"].items():
        pauses = sorted(r["pause"] * 1e3 for r in runs)
        prepare = statistics.median(r["prepare"] for r in runs) * 1e3
        memory = max(r["memory"] for r in runs) / 2**20
        spread = f"{statistics.median(pauses):.0f} ({pauses[0]:.0f}–{pauses[-1]:.0f})"
        text.append(f"{way:8} {spread:>24} {prepare:>14.0f} {memory:>12.0f}")
    undo = statistics.median(r["undo"] for r in found["ways"]["routes"]) * 1e3
    same = "the same weights, bit for bit" if found["equal"] else "DIFFERENT WEIGHTS"
    text.append(f"undo {undo:.0f} ms; all ways lead to {same}")
    return text
