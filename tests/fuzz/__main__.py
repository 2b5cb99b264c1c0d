"""Fuzz what reads hostile bytes, and print what was run: ``python -m tests.fuzz [TARGET ...]``.

Guided by coverage where atheris is installed (``pip install atheris``), which is in no extra,
because it has no wheel for every version of Python; otherwise mutants are made up blindly.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from tests.fuzz.targets import GROUP_OF, TARGETS, mutants_of, seeds
from tests.fuzz.watch import FindingError, accepts

_STATS = re.compile(r"stat::number_of_executed_units: (\d+)")
_COVERED = re.compile(r" cov: (\d+) ft: (\d+) corp: (\d+)")
_ROOM = "/dev/shm" if Path("/dev/shm").is_dir() else None  # in memory, where there is that
_MAX_BYTES = 1 << 14  # of an input


def main() -> int:
    """Run the targets, one after the other; 1 if something was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--corpus", type=Path, help="where inputs of interest are kept")
    options = parser.parse_args()
    wrong = set(options.targets) - TARGETS.keys()
    if wrong:
        parser.error(f"no such target: {', '.join(sorted(wrong))}")
    guided = importlib.util.find_spec("atheris") is not None
    print(f"{'guided by coverage' if guided else 'blind'}, {options.seconds} s each, seed "
          f"{options.seed}, {datetime.now(UTC):%Y-%m-%d}")  # fmt: skip
    print(f"{'group':12} {'target':14} {'executions':>11} {'edges':>7} {'corpus':>7}", flush=True)
    total = found = 0
    for name in options.targets or TARGETS:
        n, edges, corpus, trouble = (_guided if guided else _blind)(name, options)
        total += n
        row = f"{GROUP_OF[name]:12} {name:14} {n:11,} {edges:>7} {corpus:>7}"
        print(row + (f"  FOUND {trouble}" if trouble else ""), flush=True)
        found += bool(trouble)
    print(f"{total:,} executions, {found or 'nothing'} found")
    return 1 if found else 0


def _kept(name: str, data: bytes) -> Path:
    """Where an input that found something is put."""
    with tempfile.NamedTemporaryFile(prefix=f"{name}-", delete=False) as file:
        file.write(data)
    return Path(file.name)


def _blind(name: str, options: argparse.Namespace) -> tuple[int, str, str, str]:
    target, make = TARGETS[name], mutants_of(name, random.Random(options.seed))
    end, n = time.monotonic() + options.seconds, 0
    while time.monotonic() < end:
        data, n = make(), n + 1
        try:
            accepts(target.read, data, target.refusals)
        except FindingError as e:
            return n, "", "", f"{e}, by {_kept(name, data)}"
    return n, "", "", ""


def _guided(name: str, options: argparse.Namespace) -> tuple[int, str, str, str]:
    # libFuzzer ends the process without cleaning up: what it leaves goes with this directory.
    with tempfile.TemporaryDirectory(dir=_ROOM) as room:
        given = Path(room) / "seeds"
        given.mkdir()
        for i, data in enumerate(seeds(name)):
            (given / str(i)).write_bytes(data[:_MAX_BYTES])
        corpus = (options.corpus or Path(room) / "corpus") / name
        corpus.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            [sys.executable, "-m", "tests.fuzz.guided", name, str(corpus), str(given),
             f"-max_total_time={options.seconds}", f"-seed={options.seed}",
             f"-max_len={_MAX_BYTES}", "-timeout=60", "-rss_limit_mb=2048",
             "-print_final_stats=1", f"-artifact_prefix={room}/"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
            env=os.environ | {"PYTHONHASHSEED": "0", "TMPDIR": room}, check=False,
        )  # fmt: skip
        counted, covered = _STATS.findall(done.stdout), _COVERED.findall(done.stdout)
        edges, _, n_kept = covered[-1] if covered else ("", "", "")
        trouble = ""
        if done.returncode or not counted:
            inputs = [p.read_bytes() for p in Path(room).iterdir() if p.is_file()]
            errors = [s for s in done.stdout.splitlines() if "Error" in s or "ERROR" in s]
            why = errors[-1] if errors else f"exit code {done.returncode}"
            trouble = f"{why}, by {_kept(name, inputs[0])}" if inputs else why
    return int(counted[-1]) if counted else 0, edges, n_kept, trouble


if __name__ == "__main__":
    sys.exit(main())
