"""A short run of every target, the same each time; `python -m tests.fuzz` runs longer."""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fuzz import __main__ as running
from tests.fuzz import corpora
from tests.fuzz.targets import TARGETS, mutants_of, seeds
from tests.fuzz.watch import FindingError, accepts


@pytest.mark.parametrize("name", TARGETS)
def test_short_run(name: str) -> None:
    target, make = TARGETS[name], mutants_of(name, random.Random(1))
    taken = sum([accepts(target.read, data, target.refusals) for data in seeds(name)[:50]])
    assert taken, "no seed is taken"
    for _ in range(20 if name == "apply" else 100):
        accepts(target.read, make(), target.refusals)


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_kept_is_taken_or_refused_as_it_was(name: str) -> None:
    """Where another verdict is meant, ``python -m tests.fuzz --renew --runs 1 TARGET`` notes it."""
    target, kept = TARGETS[name], corpora.read(name)
    for member, data in kept.items():
        taken = accepts(target.read, data, target.refusals)
        assert member.startswith("taken/" if taken else "refused/"), member


@pytest.mark.parametrize("name", [*TARGETS, "kernels"])
def test_what_is_kept_is_little(name: str) -> None:
    kept = corpora.read(name)
    assert 0 < len(kept) <= corpora.MOST
    assert sum(map(len, kept.values())) <= corpora.MOST_BYTES


_LIKE_LIBFUZZER = """
import sys
control = next(a.split("=")[1] for a in sys.argv if a.startswith("-merge_control_file="))
with open(control, "r+") as file:
    for i, path in enumerate(file.read().split()[2:]):
        data = open(path, "rb").read()
        features = {8 * byte + data.count(byte) % 8 for byte in data}
        file.write(f"STARTED {i} {len(data)}\\nFT {i} {' '.join(map(str, features))}\\n")
"""


def test_what_is_kept_is_the_smallest_that_reaches_the_most() -> None:
    command = [sys.executable, "-c", _LIKE_LIBFUZZER]
    letters, more = b"abcdefgh", b"aabbccdd"
    others = [b"a", b"ab", letters * 2 + bytes(corpora.MOST_BYTES), letters + b"h" * 8]
    assert corpora.smallest(command, [*others, letters, more]) == [letters, more]
    many = [bytes([i, j]) for i in range(20) for j in range(20, 40)]
    found = corpora.smallest(command, many)
    assert {byte for data in found for byte in data} == set(range(40))
    assert len(found) == 20


def test_the_watch_sees_what_it_is_there_for(tmp_path: Path) -> None:
    def write(_: bytes) -> None:
        (tmp_path / "x").write_bytes(b"")

    def fail(_: bytes) -> None:
        raise KeyError("x")

    def leave(_: bytes) -> None:
        sys.exit(0)

    found: list[tuple[Callable[[bytes], None], str]] = [
        (write, "to write"),
        (fail, "KeyError"),
        (leave, "SystemExit"),
    ]
    for read, why in found:
        with pytest.raises(FindingError, match=why):
            accepts(read, b"")


def test_a_module_that_is_imported_late_is_no_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "imported_late.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    assert accepts(lambda _: __import__("imported_late"), b"")
    assert sys.dont_write_bytecode is False


@pytest.mark.parametrize(
    ("output", "runs", "code", "why"),
    [
        ("Done 9 runs in 61 second(s)", None, 0, ""),
        ("Done 9 runs in 3 second(s)", None, 0, "ended early"),
        ("Done 100 runs in 3 second(s)", 100, 0, ""),
        ("Done 3 runs in 3 second(s)", 100, 0, "ended early"),
        ("#3 INITED", None, 0, "ended early"),
        ("KeyError: 'x'\n==1== ERROR: libFuzzer: fuzz target exited", None, 77, "KeyError: 'x'"),
    ],
)
def test_a_run_that_ended_early_is_a_finding(
    output: str,
    runs: int | None,
    code: int,
    why: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, code, output)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    options = argparse.Namespace(seconds=60, runs=runs, seed=1, corpus=None, renew=False)
    assert running._guided("key", options)[3].startswith(why)
    assert bool(list(tmp_path.glob("key-log-*"))) == bool(why)
