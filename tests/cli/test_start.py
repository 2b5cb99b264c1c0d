"""What each verb does without: loading it would take longer than all that the verb does."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import sparsediff
from sparsediff import apply, make, make_patch, stats
from sparsediff.checkpoint import formats
from sparsediff.shipping.pull import pull
from sparsediff.shipping.ship import ship
from sparsediff.stores import open_store
from tests.support.runs import Trainer

PROGRAM = """
import sys
from sparsediff.cli import run
code = run(sys.argv[1:])
print(*sys.modules, file=sys.stderr)
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
    shutil.copytree(trainer.run / "step_000001", place / "a")
    shutil.copytree(trainer.run / "step_000002", place / "b")
    make_patch(place / "a", place / "b", place / "p")
    return place


NEVER = {"asyncio", "cryptography", "email", "http", "rich", "sparsediff.signing", "ssl", "torch"}
SMALL = NEVER | {"concurrent.futures", "logging", "tempfile"}
LIGHT = SMALL | {"_hashlib", "csv", "ctypes", "difflib", "numpy", "random", "sparsediff.checkpoint"}
LIGHT |= {"subprocess"}
MADE = {"sparsediff.apply.squash", "sparsediff.stats.history", "sparsediff.stats.series"}
MAKE = {"pickletools", "shutil", "sparsediff.apply", "sparsediff.stats"} | {
    f"sparsediff.checkpoint.formats.{name}" for name in ("archives", "gguf", "npy", "torch_zip")
}
MAKE |= {f"sparsediff.make.{name}" for name in ("merge", "part", "write_part")}
LIBRARY = {"json", "pathlib", "sparsediff.disk", "sparsediff.parallel", "sparsediff.stores"}


def test_names_are_those_of_their_modules() -> None:
    for package in (sparsediff, apply, make, stats):
        for name in package.__all__:
            assert getattr(package, name) is not None
        with pytest.raises(AttributeError, match=f"module '{package.__name__}' has no"):
            _ = package.nonsense


@pytest.mark.parametrize(
    ("line", "without"),
    [
        ("--version", LIGHT | LIBRARY),
        ("--help", LIGHT | LIBRARY),
        ("make --help", LIGHT | LIBRARY),
        ("log store", LIGHT | {"shutil"}),
        ("status run store dest", LIGHT | {"shutil"}),
        ("make a b -o made", SMALL | MADE | MAKE),
        ("apply a p -o applied", SMALL | MADE | {"shutil", "sparsediff.make", "sparsediff.stats"}),
    ],
)
def test_does_without(line: str, without: set[str], place: Path) -> None:
    # -S: what an environment loads before any program, for packages that are installed to be
    # worked on, is not ours.
    done = subprocess.run(
        [sys.executable, "-S", "-c", PROGRAM, *line.split()],
        cwd=place,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout
    loaded = set(done.stderr.split())
    assert "sparsediff.cli" in loaded
    assert loaded & without == set()


def test_all_formats_are_all_there_are() -> None:
    """What is loaded when something is begun already cannot be cleaned up after an interrupt."""
    code = "import sys; from sparsediff.checkpoint import formats; formats.load_all()"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    folder = Path(formats.__file__).parent
    names = {p.stem for p in folder.glob("*.py")} - {"__init__"}
    assert {f"sparsediff.checkpoint.formats.{name}" for name in names} <= set(done.stdout.split())
