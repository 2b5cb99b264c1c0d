"""Fixtures and the profiles of the property tests."""

from __future__ import annotations

import gc
import os
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from sparsediff import make_patch
from sparsediff.cli import run
from tests.support.pairs import model_directory
from tests.support.places import MEMORY, memory_has_room
from tests.support.seaweed import seaweed as seaweed

# The workers share the processors: threads of PyTorch's would only wait for each other, and
# do so busily, for four times the processor time.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Thousands of files that live for a moment: a disk takes longer to forget them than the
# tests take. Who wants one, CI among them, sets the variable.
if memory_has_room(4 << 30):
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))

settings.register_profile(
    "default",
    max_examples=60,
    deadline=None,  # the machines are shared
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.register_profile(
    "long", parent=settings.get_profile("default"), max_examples=3000, derandomize=False
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Half a million objects of libraries and tests stay to the end: no search for garbage goes
    over them again and again, which takes up to a third of the time of a test that makes many.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none."""
    marked = [item for item in items if item.get_closest_marker("cuda")]
    if marked:
        import torch

        if not torch.cuda.is_available():
            for item in marked:
                item.add_marker(pytest.mark.skip(reason="there is no GPU here"))


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Run:
    """Run the command line in this process: exit code, stdout, stderr."""

    def call(*args: object) -> tuple[int, str, str]:
        capfd.readouterr()
        code = run([str(a) for a in args])
        out, err = capfd.readouterr()
        return code, out, err

    return call


@pytest.fixture
def room() -> Iterator[Path]:
    """A directory with room for gigabytes, in memory where there is enough of it."""
    place = MEMORY if memory_has_room(16 << 30) else None
    with tempfile.TemporaryDirectory(dir=place) as directory:
        yield Path(directory)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A small sharded checkpoint directory."""
    return model_directory(tmp_path / "base")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """The same after a step of training."""
    return model_directory(tmp_path / "target", lr=1e-6)


@pytest.fixture
def patch(base: Path, target: Path, tmp_path: Path) -> Path:
    """The patch from `base` to `target`."""
    make_patch(base, target, tmp_path / "p.sdiff")
    return tmp_path / "p.sdiff"


@pytest.fixture
def nothing_left(tmp_path: Path) -> Iterator[None]:
    """Fail a test that leaves files with temporary names."""
    yield
    assert [p for p in tmp_path.rglob("*") if ".sparsediff-tmp" in p.name] == []
