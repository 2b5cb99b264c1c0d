"""No reader takes more than 300 MiB, or seconds, for what is below 1 MB and made to cost much."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.targets import GROUPS, TARGETS
from tests.hostile import costly
from tests.hostile.costly_stores import STORE
from tests.support.costs import cost

ROOT = Path(__file__).parents[2]
ELSEWHERE = {
    "manifest": "patch",
    "apply": "tests/apply/test_held.py",
    "bucket": "tests/apply/test_held.py",
    "pickle": "torch",
}
"""Readers whose costly inputs are those of another."""


def run(*targets: str, **more: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "tests.hostile.costly", *targets]
    env = os.environ | {"PYTHONPATH": str(ROOT)} | more
    return subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


def test_each_reader_has_costly_inputs() -> None:
    found = costly.costly()
    assert found.keys() | ELSEWHERE.keys() == TARGETS.keys() | {STORE}
    assert not found.keys() & ELSEWHERE.keys()
    for target, ideas in found.items():
        for idea, make in ideas.items():
            most = 5 << 20 if target == "part" else costly.MAX_BYTES
            assert len(make()) <= most, (target, idea)


@pytest.mark.slow
@pytest.mark.parametrize("group", [*GROUPS, STORE])
def test_none_takes_much(group: str) -> None:
    targets = [name for name in GROUPS.get(group, [group]) if name not in ELSEWHERE]
    done = run(*targets)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == sum(len(costly.costly()[target]) for target in targets)


def test_what_takes_much_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def greedy(data: bytes) -> None:
        bytearray(b"x" * (400 << 20))

    monkeypatch.setattr(costly, "reader", lambda _: greedy)
    assert costly.taken("frame", lambda: b"")[2] > costly.MAX_PEAK


@pytest.mark.slow
def test_rows_of_very_many_tensors_are_printed_as_they_are_made(tmp_path: Path) -> None:
    patch = tmp_path / "p.sdiff"
    patch.write_bytes(costly.tensors(395_000))
    found = cost("stats", patch, "--json")
    assert found.code == 0, found.err
    assert found.peak_bytes < costly.MAX_PEAK
