"""What each verb does without: loading it would take longer than all that the verb does."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import sparsediff
from sparsediff import apply, make, make_patch, stats
from sparsediff.checkpoint import formats
from sparsediff.kernels import NAME
from sparsediff.shipping.pull import pull
from sparsediff.shipping.ship import ship
from sparsediff.stores import open_store
from tests.support.pairs import Stored, bf16, step_of_training, words, write_safetensors
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
        ("apply a p -o applied", SMALL | MADE | {"sparsediff.make", "sparsediff.stats"}),
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


def of_many_kinds(which: str) -> dict[str, Stored]:
    """Tensors that change little, everywhere, regularly, or not at all; and a new one."""
    random = np.random.default_rng(3)
    before, after = (bf16(a) for a in step_of_training(1 << 18, 3e-6))
    is_target = which == "target"
    ints, flips = random.integers(0, 1 << 32, (2, 1 << 12), np.uint32)
    stripes = after.copy()
    stripes[::9] ^= 1
    made = {
        "few": words("BF16", after if is_target else before),
        "all": words("U32", ints ^ flips if is_target else ints),
        "large": words("BF16", np.tile(after if is_target else before, 70)),  # sampled
        "regular": words("BF16", np.tile(stripes if is_target else after, 9)),
        "same": words("F64", random.standard_normal(1 << 10)),
        "longer": words("F32", np.arange(1 << 12 if is_target else 1 << 10, dtype=np.float32)),
    }
    return made | {"new": words("U8", flips.view(np.uint8))} if is_target else made


@pytest.mark.skipif(NAME == "reference", reason="built without a C compiler")
@pytest.mark.parametrize("jobs", [1, 2])
def test_make_and_apply_do_without_numpy(jobs: int, tmp_path: Path) -> None:
    for name in ("base", "target"):
        write_safetensors(tmp_path / name, of_many_kinds(name))
    shutil.copy(tmp_path / "target", tmp_path / "third")
    with open(tmp_path / "third", "r+b") as file:
        file.seek(-(1 << 17), os.SEEK_END)
        file.write(bytes(1 << 10))
    for line in (
        f"make base target -o p1 -j {jobs}",
        f"make target third -o p2 -j {jobs}",
        f"make base target --part 1/1 -o part -j {jobs}",
        "merge part -o merged",
        f"apply base p1 -o made -j {jobs}",
        f"apply base p1 p2 -o last -j {jobs}",
        f"verify p1 --base base --target target -j {jobs}",
        f"apply base p1 --in-place -j {jobs}",
    ):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, *line.split()],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert "numpy" not in done.stderr.split(), line
    for made, expected in (("merged", "p1"), *((m, "target") for m in ("made", "base"))):
        assert (tmp_path / made).read_bytes() == (tmp_path / expected).read_bytes()
    assert (tmp_path / "last").read_bytes() == (tmp_path / "third").read_bytes()


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
