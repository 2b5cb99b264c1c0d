"""Verbs that compute nothing start without NumPy, which takes longer than all they do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sparsediff.shipping.pull import pull
from sparsediff.shipping.ship import ship
from sparsediff.stores import open_store
from tests.support.runs import Trainer

PROGRAM = """
import sys
from sparsediff.cli import run
code = run(sys.argv[1:])
print(*sorted({"numpy", "rich", "asyncio"} & set(sys.modules)), file=sys.stderr)
sys.exit(code)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, a store and a destination."""
    place = tmp_path_factory.mktemp("start")
    trainer = Trainer(place / "run")
    trainer.save_steps(1, 2)
    store = open_store(str(place / "store"), create=True)
    ship(trainer.run, store)
    pull(store, place / "dest")
    return place


@pytest.mark.parametrize(
    "line",
    ["--version", "--help", "make --help", "log store", "status run store dest"],
)
def test_without_numpy(line: str, place: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *line.split()], cwd=place, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert done.stderr.split() == []
