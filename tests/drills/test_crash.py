"""Interrupts and kills: the old state or the new one, and nothing that hinders the next run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sparsediff import make_patch
from tests.support.pairs import RNG, model_directory, tree

# Slows every read down, so that a signal reliably lands in the middle of the work.
SLOW = """
import signal, sys, time
from sparsediff.disk import inputs
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
from sparsediff.cli import main
read = inputs.OpenFiles.read
def slow(self, file, offset, buffer):
    time.sleep(0.02)
    read(self, file, offset, buffer)
inputs.OpenFiles.read = slow
print("started", file=sys.stderr, flush=True)
sys.argv[0] = "sparsediff"
main()
"""


def start(*args: object) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, *map(str, args)], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    assert process.stderr.readline() == "started\n"
    return process


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    base, target = model_directory(tmp_path / "base"), model_directory(tmp_path / "target", lr=1e-6)
    for i in range(10):
        (base / f"f{i}").write_bytes(RNG(i).bytes(20_000))
        (target / f"f{i}").write_bytes(RNG(i + 50).bytes(20_000))
    return base, target


def finish(process: subprocess.Popen[str], sig: int, delay: float) -> tuple[int, str]:
    time.sleep(delay)
    process.send_signal(sig)
    _, err = process.communicate(timeout=60)
    return process.returncode, err


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("verb", ["make", "apply", "squash"])
def test_interrupt_cleans_up(verb: str, sig: int, pair: tuple[Path, Path], tmp_path: Path) -> None:
    base, target = pair
    make_patch(base, target, tmp_path / "p")
    if verb == "make":
        process = start("make", base, target, "-o", tmp_path / "out", "-q")
    else:
        process = start(verb, base, tmp_path / "p", "-o", tmp_path / "out", "-q")
    code, err = finish(process, sig, 0.3)
    assert (code, err) == (130, "sparsediff: interrupted\n")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["base", "p", "target"]


@pytest.mark.parametrize("delay", [0.0, 0.1, 0.3, 0.6])
@pytest.mark.parametrize("verb", ["make", "apply", "replace", "squash"])
def test_kill_leaves_old_or_new(
    verb: str, delay: float, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    base, target = pair
    make_patch(base, target, tmp_path / "p")
    out = tmp_path / "out"
    if verb == "replace":
        out.mkdir()
        (out / "old").write_text("old state")
    args: list[object] = (
        ["make", base, target, "-o", out]
        if verb == "make"
        else ["apply", base, tmp_path / "p", "-o", out, "-f"]
    )
    if verb == "squash":  # of one patch, which is then that patch
        args = ["squash", base, tmp_path / "p", "-o", out, "-f"]
    process = start(*args)
    code, _ = finish(process, signal.SIGKILL, delay)
    assert code in (-signal.SIGKILL, 0)
    new = {"": (tmp_path / "p").read_bytes()} if verb in ("make", "squash") else tree(target)
    if verb == "replace":
        assert tree(out) in ({"old": b"old state"}, new)
    else:
        assert not out.exists() or tree(out) == new
    force = [] if "-f" in args else ["-f"]
    subprocess.run([sys.executable, "-m", "sparsediff", *map(str, args), "-q", *force], check=True)
    assert tree(out) == new
    assert sorted(p.name for p in tmp_path.iterdir()) == ["base", "out", "p", "target"]


@pytest.mark.parametrize("delay", [0.0, 0.2, 0.5, 0.8, 1.1, 1.4])
def test_kill_in_place_is_finished_by_another_run(
    delay: float, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    base, target = pair
    make_patch(base, target, tmp_path / "p")
    process = start("apply", "--in-place", base, tmp_path / "p", "-q")
    old, new = tree(base), tree(target)
    finish(process, signal.SIGKILL, delay)
    for name, content in tree(base).items():
        if not os.path.basename(name).startswith("."):
            assert content in (old.get(name), new.get(name))
    command = [
        sys.executable,
        "-m",
        "sparsediff",
        "apply",
        "--in-place",
        base,
        tmp_path / "p",
        "-q",
    ]
    subprocess.run(list(map(str, command)), check=True)
    assert tree(base) == new
