"""Drive an engine by vLLM's own verbs for weights: arguments are a place and a number of ranks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any


def main(root: Path, tp: int) -> None:
    """Versions 2, 3 with staging ahead, 4 after a failure, and back to 1; each proved."""
    from vllm import LLM

    versions = root / "models" / "versions"
    kind: Any = LLM
    llm = kind(
        model=str(versions / "step_1"),
        enforce_eager=True,
        max_model_len=256,
        dtype="bfloat16",
        max_num_seqs=4,
        tensor_parallel_size=tp,
        weight_transfer_config={"backend": "sparsediff"},
        worker_extension_cls="tests.vllm.plain.PlainWeights",
    )

    def proves(number: int) -> bool:
        path = str(root / "run" / f"step_{number}")
        replies = llm.collective_rpc("sparsediff_call", args=("record", path))
        assert len(replies) == tp
        return all(r["ok"] for r in replies)

    def update(number: int, **more: Any) -> None:
        llm.start_weight_update()
        llm.update_weights({"update_info": {"version": f"step_{number}"} | more})
        llm.finish_weight_update(f"step_{number}")

    store, directory = str(root / "store"), str(root / "models")
    llm.init_weight_transfer_engine(
        {"init_info": {"store": store, "directory": directory, "version": "step_1"}}
    )
    assert proves(1)
    update(2)
    assert proves(2)
    assert not proves(1)
    update(3, stage=True)
    assert proves(2)
    update(3)
    assert proves(3)
    flag = root / "fail"
    flag.touch()
    llm.collective_rpc("fail_while", args=(str(flag), tp - 1))
    said = ""
    try:
        update(4)
    except Exception as e:
        said = str(e)
    assert "taken back on all ranks" in said, said
    assert "injected failure" in said, said
    assert proves(3)  # so the replies are those of this call, on every rank
    flag.unlink()
    update(4)
    assert proves(4)
    update(1)  # no way leads back: whole
    assert proves(1)
    print("verbs: all as they should be")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
