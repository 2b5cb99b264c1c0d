"""The documentation is true: its commands run, its Python runs, its reference is fresh."""

from __future__ import annotations

import http.server
import json
import os
import re
import shlex
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.conftest import Run
from tests.support.pairs import model_directory, training_pair, tree, write_safetensors
from tests.support.runs import Trainer

ROOT = Path(__file__).parents[2]
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


@pytest.fixture
def training(place: Path) -> Path:
    """A place with a run, what its trainer writes later, and what it wrote when taken back."""
    trainer, retrained = Trainer(place / "run"), Trainer(place / "retrained")
    trainer.save_steps(100, 101, 102)
    trainer.run = place / "later"
    trainer.save_steps(103, 104, 105, 106)
    retrained.save_steps(100, 102)
    return place


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_runs(
    page: str, training: Path, monkeypatch: pytest.MonkeyPatch, cli: Run
) -> None:
    """In a shell where a line needs one; else in this process, which spares a start for each."""
    place = training
    monkeypatch.chdir(place)
    blocks = re.findall(r"```console\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    commands = [line[2:] for block in blocks for line in block.splitlines()]
    assert len(commands) > 5
    for command in commands:
        program, *words = shlex.split(command)
        if program != "sparsediff" or re.search(r"[|<>*$&;#]", command):
            run = shell(command, place)
            code, err = run.returncode, run.stderr
        else:
            code, _, err = cli(*words)
        assert code == 0, (command, err)
    if page == "README.md":
        assert tree(place / "rebuilt") == tree(place / "step_101")
        assert tree(place / "copy") == tree(place / "step_102")
    else:
        assert tree(place / "step_101_again") == tree(place / "step_102")


Step = tuple[str, int, str]  # command, exit code, what it prints


def session(page: str) -> list[Step]:
    """Commands of a page that shows their output, in order."""
    steps = []
    for block in re.findall(r"```console\n(.*?)```", (ROOT / page).read_text(), re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            code = re.search(r"# ends with (\d+)", command)
            steps.append((command, int(code[1]) if code else 0, output))
    return steps


def without_figures(text: str) -> str:
    """Output with what differs from run to run made the same: sizes, times, digests, columns."""
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "DATE", text)
    text = re.sub(r"-[0-9a-f]{16}\.sdiff", "-DIGEST.sdiff", text)
    text = re.sub(r"(?<![\w-])(\d+\.\d+|\d{4,}|\d+(?= (kB|B|ms|s|bytes)\b))", "N", text)
    text = re.sub(r"N (B|kB)\b", "SIZE", text)
    text = re.sub(r"N (ms|s)\b", "TIME", text)
    return re.sub("─+", "─", re.sub(" +", " ", text))


def test_session_of_the_shipping_page_is_as_it_says(training: Path) -> None:
    steps = session("docs/shipping.md")
    assert len(steps) > 30
    for command, code, output in steps:
        run = shell(f"{{ {command.partition('#')[0]}; }} 2>&1", training)
        printed = run.stdout.replace(str(training), "/srv")
        assert (run.returncode, without_figures(printed)) == (code, without_figures(output)), (
            command,
            printed,
        )
    assert tree(training / "models/current") == tree(training / "later/step_000106")


def test_python_of_the_store_page_runs(training: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/store.md").read_text(), re.DOTALL)
    assert shell("sparsediff ship run/ store/", training).returncode == 0
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, cwd=training / "store", capture_output=True, text=True)
    assert run.stdout.startswith("None -> 1 versions/000001-step_000100/anchor-"), run.stderr
    pointer = training / "store" / "latest.json"
    pointer.write_text(pointer.read_text().replace("step_000101", "step_000191"))
    assert subprocess.run(command, cwd=training / "store", capture_output=True).returncode == 1


def test_store_page_tells_how_to_do_it_by_hand(training: Path) -> None:
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "docs/store.md").read_text(), re.DOTALL)
    assert shell("sparsediff ship run/ store/", training).returncode == 0
    run = shell(f"cd store\n{blocks[-1]}", training)
    assert run.returncode == 0, run.stderr
    assert tree(training / "store/step_000102") == tree(training / "run/step_000102")


def test_python_of_the_readme_runs(place: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    run = subprocess.run([sys.executable, "-c", code], cwd=place, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert tree(place / "from_python") == tree(place / "step_101")


def test_the_page_on_live_models_runs(place: Path) -> None:
    """Its Python is one program, with the commands in between."""
    text = (ROOT / "docs/live.md").read_text()
    program = ["import subprocess"]
    for kind, block in re.findall(r"```(python|console)\n(.*?)```", text, re.DOTALL):
        lines = block.splitlines()
        shell_lines = [f"subprocess.run({line[2:]!r}, shell=True, check=True)" for line in lines]
        program += lines if kind == "python" else shell_lines
    assert len(program) > 30
    (place / "page.py").write_text("\n".join(program))
    run = shell(f"{sys.executable} page.py", place)
    assert run.returncode == 0, run.stderr


def test_the_page_on_engines_runs(training: Path) -> None:
    """Its Python but for vLLM's, which runs in `tests/vllm`, on a store with three versions."""
    text = (ROOT / "docs/engines.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    for i, block in enumerate(b for b in blocks if not b.startswith("llm.")):
        (training / f"page{i}.py").write_text(block)
        run = shell(f"{sys.executable} page{i}.py", training)
        assert run.returncode == 0, run.stderr
    assert run.stdout.endswith("['step_000100', 'step_000101', 'step_000102']\n")


def test_the_recipe_for_receivers_posts_the_path(training: Path) -> None:
    """As a server that loads from disk would see it."""
    posted = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            posted.append((self.path, self.headers["Content-Type"], json.loads(body)))
            self.send_response(200)
            self.end_headers()

    text = (ROOT / "docs/engines.md").read_text()
    (recipe,) = re.findall(r"```sh\n(# SGLang.*?)```", text, re.DOTALL)
    assert shell("sparsediff ship run/ store/", training).returncode == 0
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = str(server.server_address[1])
        run = shell(recipe.replace("30000", port).replace(" --watch 10", ""), training)
        server.shutdown()
    assert run.returncode == 0, run.stderr
    path = str(training / "models/versions/step_000102")
    route = "/update_weights_from_disk"
    assert posted == [(route, "application/json", {"model_path": path})]


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


def test_quickstart_needs_nothing_but_the_package(tmp_path: Path) -> None:
    """It runs where PyTorch, safetensors and transformers cannot be imported."""
    absent = tmp_path / "absent"
    absent.mkdir()
    for name in ("torch", "safetensors", "transformers"):
        (absent / f"{name}.py").write_text("raise ImportError('not here')")
    path = os.pathsep.join([str(absent), str(ROOT), os.environ.get("PYTHONPATH", "")])
    run = subprocess.run(
        [sys.executable, ROOT / "examples" / "quickstart.py", tmp_path / "work"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("byte-identical") == 5
    assert "Every checkpoint was rebuilt and every patch made again" in run.stdout


def test_training_and_patching_a_real_model(tmp_path: Path) -> None:
    """Trains, patches, rebuilds, compares, and loads the result with transformers."""
    run = subprocess.run(
        [sys.executable, ROOT / "examples" / "train_and_patch.py", tmp_path],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert "byte-identical" in run.stdout
    assert "bit-identical logits" in run.stdout
