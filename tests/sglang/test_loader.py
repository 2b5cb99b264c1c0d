"""Our loader, called by SGLang's own updater, in models of SGLang's own classes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sparsediff import make_patch
from tests.vllm.models import Trainer
from tests.vllm.server import ROOT

pytestmark = pytest.mark.sglang


@pytest.mark.parametrize(("kind", "size"), [("llama", 1), ("llama", 2), ("qwen2", 2)])
def test_staged_committed_and_taken_back_on_every_rank(
    tmp_path: Path, kind: str, size: int
) -> None:
    trainer, run = Trainer(kind), tmp_path / "run"
    run.mkdir()
    (tmp_path / "replies").mkdir()
    steps = [trainer.save(run / f"step_{n}") for n in (1, 2, 3)]
    for n in (2, 3):
        make_patch(steps[n - 2], steps[n - 1], tmp_path / f"{n}.sdiff")
    command = [sys.executable, "-m", "tests.sglang.rank", str(tmp_path), kind]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    ranks = [
        subprocess.Popen(
            [*command, str(rank), str(size)],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(size)
    ]
    try:
        for process in ranks:
            said, _ = process.communicate(timeout=300)
            assert process.returncode == 0, said[-3000:]
            assert "rank: all as it should be" in said
    finally:
        for process in ranks:
            process.kill()
