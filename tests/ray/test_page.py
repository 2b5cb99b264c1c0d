"""The commands that the page on scale gives for a cluster of Ray, run as they stand."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Run
from tests.support.pairs import model_directory, tree
from tests.support.runs import Trainer

PAGE = Path(__file__).parents[2] / "docs" / "scale.md"


def test_commands_run(
    cluster: Any, cli: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With this cluster for ``auto``, and a directory for the bucket."""
    section = PAGE.read_text().partition("## A cluster of Ray")[2]
    commands = re.findall(r"^sparsediff (.*)$", section, re.MULTILINE)
    assert len(commands) == 3
    monkeypatch.chdir(tmp_path)
    model_directory(tmp_path / "step_100")
    target = tree(model_directory(tmp_path / "step_101", lr=1e-6))
    Trainer(tmp_path / "grpo7").save_steps(1)
    for command in commands:
        command = command.replace("auto", cluster.address).replace("/runs/grpo7/", "grpo7")
        code, _, err = cli(*shlex.split(command.replace("s3://weights/grpo7", "store")))
        assert code == 0, (command, err)
        if command.startswith("make"):
            (tmp_path / "step_101.sdiff").rename("101.sdiff")
            (tmp_path / "step_101").rename("trained")
    assert tree(tmp_path / "step_101") == target
    assert (tmp_path / "store" / "latest.json").exists()
