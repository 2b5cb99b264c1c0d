"""vLLM's own verbs, with the backend ``sparsediff``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sparsediff import pull
from tests.vllm.server import ROOT
from tests.vllm.test_following import begin

pytestmark = pytest.mark.vllm


@pytest.mark.parametrize("tp", [1, 2])
def test_an_engine_is_driven_by_its_own_verbs(tmp_path: Path, tp: int) -> None:
    place = begin(tmp_path, "llama")
    place.ship(2, 3, 4)
    assert pull(place.store, place.models, version="step_1").path is not None
    environment = os.environ | {
        "VLLM_PLUGINS": "sparsediff",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(ROOT),
    }
    if tp == 2:
        environment["VLLM_CPU_OMP_THREADS_BIND"] = "0|1"
    run = subprocess.run(
        [sys.executable, "-m", "tests.vllm.verbs", str(tmp_path), str(tp)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    assert "verbs: all as they should be" in run.stdout
