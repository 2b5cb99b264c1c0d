"""The example of a trainer and two rollouts runs, and its parts do what they say."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def policy(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module("rl.policy")


@pytest.fixture
def task(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module("rl.task")


def test_rewards_are_shares_of_right_letters(task: Any) -> None:
    def reward(word: str, text: str) -> float:
        return float(task.reward(word, torch.tensor([ord(c) for c in text])))

    assert reward("word", "WORD\n\n") == 1
    assert reward("word", "WORd\n\n") == 4 / 5
    assert reward("word", "WORDS\n") == 4 / 6
    assert reward("word", "\n") == 0


def test_advantages_are_normalised_within_each_group(policy: Any) -> None:
    rewards = torch.tensor([0.0, 1.0, 0.5, 0.5])
    groups = policy.Groups(torch.zeros(4, 1), torch.zeros(4, 1), rewards, 2)
    expected = torch.tensor([-1.0, 1.0, 0.0, 0.0]) * 2**-0.5
    assert torch.allclose(groups.advantages(), expected, atol=2e-4)


def test_what_counts_ends_with_the_end(policy: Any, task: Any) -> None:
    tokens = torch.full((1, task.PROMPT + task.ANSWER), task.END)
    tokens[0, task.PROMPT : task.PROMPT + 2] = ord("A")
    assert policy.answered(tokens)[0].tolist() == [1, 1, 1] + [0] * (task.ANSWER - 3)


@pytest.mark.slow
def test_both_runs_are_identical(tmp_path: Path) -> None:
    command: list[str | Path] = [
        sys.executable,
        EXAMPLES / "rl",
        "--short",
        "--place",
        tmp_path / "place",
    ]
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    assert "12 syncs gave the weights of a full update, bit for bit" in run.stdout
    assert "both runs: 5 rewards identical, final weights byte-identical" in run.stdout
    store, pulled = tmp_path / "place/patches/store", tmp_path / "pulled"
    command = [sys.executable, "-m", "sparsediff", "pull", store, pulled]
    assert subprocess.run(command).returncode == 0
    current = pulled / "current" / "model.safetensors"
    check = tmp_path / "place/patches/check/000005.safetensors"
    assert current.read_bytes() == check.read_bytes()
