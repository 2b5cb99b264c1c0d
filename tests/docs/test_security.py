"""Each promise on the page on security names a test that is there, and its commands run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.conftest import Run
from tests.support.pairs import tree
from tests.support.runs import Trainer

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/security.md").read_text()


def test_every_promise_names_a_test_that_is_there() -> None:
    table = PAGE[PAGE.index("## Who may tamper") : PAGE.index("## What is not promised")]
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert rows
    for row in rows:
        (place,) = re.findall(r"`(tests/\S+\.py::\w+)` \|$", row)
        path, name = place.split("::")
        assert f"def {name}(" in (ROOT / path).read_text(), place


def test_the_commands_do_what_the_page_says(
    tmp_path: Path, cli: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(tmp_path / "run")
    first, second = trainer.save_steps(1, 2)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "step_100").symlink_to(first)
    (tmp_path / "step_101").symlink_to(second)
    (block,) = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    lines = [shlex.split(line, comments=True) for line in block.splitlines()]
    assert len(lines) == 5
    for program, *words in lines:
        assert program == "sparsediff"
        code, _, err = cli(*words)
        assert code == 0, err
    assert tree(tmp_path / "models/current") == tree(second) == tree(tmp_path / "rebuilt")
