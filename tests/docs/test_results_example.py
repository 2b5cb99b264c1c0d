"""The command that writes docs/results.md: its arithmetic by hand, and all of it, shortened."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rapidfuzz", reason="rapidfuzz is not installed")

ROOT = Path(__file__).parents[2]


@pytest.fixture
def results(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    return importlib.import_module


def test_the_cost_model_is_the_papers(results: Any) -> None:
    raw, coded = results("results.costs").model(0.0062)
    assert round(raw) == 54  # what the paper says of its 30B run
    assert round(coded) == 101


def test_figures_have_three_digits_that_count(results: Any) -> None:
    page = results("results.page")
    assert [page.significant(v) for v in (0, 1234.5, 12.345, 0.0012345, None)] == [
        "0",
        "1,234",
        "12.3",
        "0.00123",
        "-",
    ]
    assert page.percent(0.00614) == "0.614 %"
    assert page.percent(float("nan")) == "-"
    assert [page.duration(v) for v in (45.6, 0.0021, 3e-6)] == ["45.6 s", "2.10 ms", "3.00 µs"]
    assert page.size(6_400_000) == "6.40 MB"


def test_a_table_is_markdown(results: Any) -> None:
    table = results("results.page").Table(
        "Title", "Text.", ["of", "share"], [["a", "1 %"], ["b", "10 %"]], "one\ntwo", "Why."
    )
    assert table.markdown() == (
        "## Title\n\nText.\n\n"
        "| of  | share |\n| --- | ----: |\n| a   |   1 % |\n| b   |  10 % |\n\n"
        "```console\n$ one\n$ two\n```\n\nWhy.\n"
    )


def test_the_page_has_all_that_the_command_prints(results: Any) -> None:
    """It was written by the command as it is now: the sections and their columns are the same."""
    text = (ROOT / "docs/results.md").read_text()
    modules = (ROOT / "examples/results").glob("*.py")
    source = "".join(module.read_text() for module in modules)
    titles = re.findall(r'return Table\(\s+"([^"]+)"|Table\(\n\s+"([^"]+)"', source)
    assert len(titles) >= 11
    for title in (a or b for a, b in titles):
        assert f"\n## {title}\n" in text


@pytest.mark.slow
def test_the_tables_are_printed_and_their_commands_run(tmp_path: Path) -> None:
    environment = os.environ | {
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    }
    example = str(ROOT / "examples/results")
    run = subprocess.run(
        [sys.executable, example, "--short", "--place", "results", "--write", "page.md"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=environment,
    )
    assert run.returncode == 0, run.stderr
    page = (tmp_path / "page.md").read_text()
    printed = run.stdout
    for section in page.split("\n## ")[1:]:
        assert f"## {section.strip()}" in printed
    commands = re.findall(r"^\$ (sparsediff .*)$", page, re.MULTILINE)
    assert len(commands) > 30
    for line in dict.fromkeys(commands):
        words = line.replace("sparsediff", f"{sys.executable} -m sparsediff", 1)
        done = subprocess.run(
            words, shell=True, cwd=tmp_path, capture_output=True, text=True, env=environment
        )
        assert done.returncode == 0, (line, done.stderr)
