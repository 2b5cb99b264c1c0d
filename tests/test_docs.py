"""The documentation is true: its commands run, its Python runs, its reference is fresh."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pairs import model_directory, training_pair, tree, write_safetensors

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", "docs/howto.md"]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with the checkpoints that the examples speak of, and `sparsediff` on the path."""
    for i in range(4):
        step = model_directory(tmp_path / f"step_{100 + i}", lr=i * 1e-6 or None)
        write_safetensors(step / "model.safetensors", {"w": training_pair(2000)[min(i, 1)]})
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "sparsediff"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m sparsediff "$@"\n')
    program.chmod(0o755)
    return tmp_path


def shell(command: str, place: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PATH": f"{place / 'bin'}:{os.environ['PATH']}"}
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_runs(page: str, place: Path) -> None:
    blocks = re.findall(r"```console\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    commands = [line[2:] for block in blocks for line in block.splitlines()]
    assert len(commands) > 5
    for command in commands:
        patch = re.search(r"-o (\S+\.sdiff)", command)
        if patch and (place / patch[1]).exists():
            (place / patch[1]).unlink()  # examples of one page write the same patch again
        run = shell(command, place)
        assert run.returncode == 0, (command, run.stderr)
    if page == "README.md":
        assert tree(place / "rebuilt") == tree(place / "step_101")
        assert tree(place / "copy") == tree(place / "step_102")
    else:
        assert tree(place / "step_101_again") == tree(place / "step_102")


def test_python_of_the_readme_runs(place: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    run = subprocess.run([sys.executable, "-c", code], cwd=place, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert tree(place / "from_python") == tree(place / "step_101")


def test_python_of_the_format_page_runs(place: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/format.md").read_text(), re.DOTALL)
    assert shell("sparsediff make step_100 step_101 -o p.sdiff", place).returncode == 0
    run = subprocess.run([sys.executable, "-c", code], cwd=place, capture_output=True, text=True)
    assert run.stdout.startswith('{"base":{'), run.stderr


def test_command_line_reference_is_fresh() -> None:
    script = ROOT / "docs" / "make_cli_reference.py"
    assert subprocess.run([sys.executable, script, "--check"], check=False).returncode == 0


def test_links_between_pages_lead_somewhere() -> None:
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("tests/**/*.md")]:
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / link).exists(), (page, link)


def test_every_verb_has_a_how_to() -> None:
    from sparsediff.cli import _COMMANDS

    text = (ROOT / "docs" / "howto.md").read_text()
    for name in _COMMANDS:
        assert f"\n## {name}: " in text


def test_quickstart_runs_on_a_real_model(tmp_path: Path) -> None:
    """Trains, patches, rebuilds, compares, and loads the result with transformers."""
    run = subprocess.run(
        [sys.executable, ROOT / "examples" / "quickstart.py", tmp_path],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert "byte-identical" in run.stdout
    assert "bit-identical logits" in run.stdout
