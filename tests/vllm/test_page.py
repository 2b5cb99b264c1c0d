"""The page on engines, followed with vLLM: its commands, its server, its Python."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.vllm.models import Trainer
from tests.vllm.server import ROOT, free_port

pytestmark = pytest.mark.vllm

PAGE = (ROOT / "docs" / "engines.md").read_text()
SMALL = "--enforce-eager --max-model-len 512 --max-num-seqs 8"  # as the machines of tests are
PATIENCE = 600.0  # seconds


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory for a run, with `sparsediff` and `python` on its path."""
    (tmp_path / "run").mkdir()
    (tmp_path / "bin").mkdir()
    for name, arguments in (("sparsediff", "-m sparsediff "), ("python", "")):
        program = tmp_path / "bin" / name
        program.write_text(f'#!/bin/sh\nexec {sys.executable} {arguments}"$@"\n')
        program.chmod(0o755)
    return tmp_path


def environment(place: Path) -> dict[str, str]:
    return os.environ | {
        "PATH": f"{place / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }


@contextmanager
def running(script: str, place: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A script of a shell, and all it started, until the end of the block."""
    with open(place / "log", "ab") as out:
        process = subprocess.Popen(
            ["bash", "-ec", script],
            cwd=place,
            env=environment(place),
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        for signum in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signum)
            with suppress(subprocess.TimeoutExpired):
                process.wait(60)


def test_vllm_in_ten_minutes(place: Path) -> None:
    prepare, serve, ask = blocks("sh")[:3]
    install, *commands = prepare.splitlines()
    assert install.startswith("pip install '.[vllm]'")  # done, where this runs
    assert ask.startswith("curl localhost:8000/")
    trainer, port = Trainer("qwen2"), str(free_port())
    trainer.save(place / "run" / "step_000100")
    script = "\n".join([*commands, f"{serve.strip()} {SMALL} --port {port}"])
    with running(script, place) as server:

        def wait_for(version: str) -> None:
            end, answer = time.monotonic() + PATIENCE, ""
            while time.monotonic() < end:
                assert server.poll() is None, (place / "log").read_text()[-4000:]
                question = ask.replace("8000", port)
                run = subprocess.run(question, shell=True, capture_output=True, text=True)
                answer = run.stdout
                status = json.loads(answer or "{}")
                if (status.get("state"), status.get("version")) == ("following", version):
                    return
                time.sleep(0.2)
            raise AssertionError(f"{answer}\n{(place / 'log').read_text()[-4000:]}")

        wait_for("step_000100")
        trainer.save(place / "run" / "step_000101")  # which --watch ships
        wait_for("step_000101")


def test_loops_that_drive_the_engine(place: Path) -> None:
    (option,) = re.findall(r"--weight-transfer-config '(.*?)'", PAGE)
    (code,) = (block for block in blocks("python") if block.startswith("llm."))
    trainer = Trainer("qwen2")
    for number in (100, 101):
        trainer.save(place / "run" / f"step_{number:06}")
    for command in (
        "sparsediff ship run/ store/",
        "sparsediff pull store/ models/ --version step_000100",
    ):
        subprocess.run(command, shell=True, cwd=place, env=environment(place), check=True)
    program = f"""
import json
from vllm import LLM

if __name__ == "__main__":
    llm = LLM(
        model="models/versions/step_000100",
        enforce_eager=True,
        max_model_len=256,
        weight_transfer_config=json.loads({option!r}),
    )
    exec({code!r})
    (answer,) = llm.generate({{"prompt_token_ids": [5, 6, 7]}})
    assert answer.outputs[0].token_ids
    print("the page runs")
"""
    (place / "page.py").write_text(program)
    run = subprocess.run(
        [sys.executable, "page.py"],
        cwd=place,
        env=environment(place) | {"VLLM_PLUGINS": "sparsediff"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    assert "the page runs" in run.stdout
