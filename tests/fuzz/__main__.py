"""Fuzz what reads hostile bytes, and print what was run: ``python -m tests.fuzz [TARGET ...]``.

Guided by coverage where atheris is installed (``pip install atheris``), which is in no extra,
because it has no wheel for every version of Python; otherwise mutants are made up blindly.
Each target begins with its seeds and with the inputs that are kept in `corpus`; ``--renew``
replaces those by what the run has reached, and without atheris only looks again whether they are
taken.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from tests.fuzz import corpora
from tests.fuzz.targets import GROUP_OF, TARGETS, mutants_of, seeds
from tests.fuzz.watch import FindingError, accepts

_STATS = re.compile(r"stat::number_of_executed_units: (\d+)")
_DONE = re.compile(r"^Done (\d+) runs in (\d+) second", re.MULTILINE)
_COVERED = re.compile(r" cov: (\d+) ft: (\d+) corp: (\d+)")
_ERROR = re.compile(
    r"^(?:\w+\.)*\w*(?:Error|Exception|Exit|Interrupt)\b.*|^==\d+== ?ERROR.*", re.MULTILINE
)
_ROOM = "/dev/shm" if Path("/dev/shm").is_dir() else None  # in memory, where there is that
_MAX_BYTES = 1 << 14  # of an input, unless a seed has more


def main() -> int:
    """Run the targets, one after the other; 1 if something was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--runs", type=int, help="for each target, instead: the same each time")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--corpus", type=Path, help="where inputs of interest are kept")
    parser.add_argument("--renew", action="store_true", help="the inputs that are kept in tests")
    options = parser.parse_args()
    wrong = set(options.targets) - TARGETS.keys()
    if wrong:
        parser.error(f"no such target: {', '.join(sorted(wrong))}")
    guided = importlib.util.find_spec("atheris") is not None
    much = f"{options.seconds} s" if options.runs is None else f"{options.runs:,} executions"
    print(f"{'guided by coverage' if guided else 'blind'}, {much} each, seed "
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
    """Where an input that found something is put, or what was said of it."""
    with tempfile.NamedTemporaryFile(prefix=f"{name}-", delete=False) as file:
        file.write(data)
    return Path(file.name)


def _verdict(name: str) -> Callable[[bytes], str]:
    target = TARGETS[name]
    return lambda data: "taken" if accepts(target.read, data, target.refusals) else "refused"


def _blind(name: str, options: argparse.Namespace) -> tuple[int, str, str, str]:
    target, make = TARGETS[name], mutants_of(name, random.Random(options.seed))
    end, n = time.monotonic() + options.seconds, 0
    while n < options.runs if options.runs is not None else time.monotonic() < end:
        data, n = make(), n + 1
        try:
            accepts(target.read, data, target.refusals)
        except FindingError as e:
            return n, "", "", f"{e}, by {_kept(name, data)}"
    kept = corpora.read(name)
    if options.renew and kept:
        corpora.write(name, kept.values(), _verdict(name))
    return n, "", "", ""


def _guided(name: str, options: argparse.Namespace) -> tuple[int, str, str, str]:
    # libFuzzer ends the process without cleaning up: what it leaves goes with this directory.
    with tempfile.TemporaryDirectory(dir=_ROOM) as room:
        given = Path(room) / "seeds"
        given.mkdir()
        known = [*seeds(name), *corpora.read(name).values()]
        for i, data in enumerate(known):
            (given / str(i)).write_bytes(data)
        corpus = (options.corpus or Path(room) / "corpus") / name
        corpus.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "tests.fuzz.guided", name,
                   f"-max_len={max(_MAX_BYTES, *map(len, known))}", "-timeout=60",
                   "-rss_limit_mb=2048", "-reload=0"]  # fmt: skip
        if options.runs is None:
            begin, end = [], f"-max_total_time={options.seconds}"
        else:
            begin, end = _at_the_same_addresses(), f"-runs={options.runs}"
        done = subprocess.run(
            [*begin, *command, str(corpus), str(given), f"-seed={options.seed}", end,
             "-print_final_stats=1", f"-artifact_prefix={room}/"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
            env=os.environ | {"PYTHONHASHSEED": "0", "TMPDIR": room}, check=False,
        )  # fmt: skip
        counted, covered = _STATS.findall(done.stdout), _COVERED.findall(done.stdout)
        edges, _, n_kept = covered[-1] if covered else ("", "", "")
        n, trouble = int(counted[-1]) if counted else 0, ""
        if done.returncode or not _went_on(done.stdout, options):
            inputs = [p.read_bytes() for p in Path(room).iterdir() if p.is_file()]
            error = _ERROR.search(done.stdout)
            why = error[0][:300] if error else f"ended early, with exit code {done.returncode}"
            trouble = f"{why}, by {_kept(name, inputs[0])}" if inputs else why
            trouble += f", said in {_kept(f'{name}-log', done.stdout.encode())}"
        elif options.renew:
            found = [p.read_bytes() for p in corpus.iterdir()]
            corpora.write(name, corpora.smallest(command, [*known, *found]), _verdict(name))
        return n, edges, n_kept, trouble


@cache
def _at_the_same_addresses() -> list[str]:
    """What a command begins with so that libFuzzer, which draws from addresses, draws the same."""
    fixed = ["setarch", "-R"]
    may = (
        shutil.which(fixed[0])
        and not subprocess.run([*fixed, "true"], capture_output=True).returncode
    )
    return fixed if may else []  # in some containers it may not


def _went_on(output: str, options: argparse.Namespace) -> bool:
    """Whether a run was as long as it should be: what ends a process quietly is a finding, too."""
    done = _DONE.search(output)
    if done is None:
        return False
    runs, seconds = int(done[1]), int(done[2])
    return bool(seconds >= options.seconds if options.runs is None else runs >= options.runs)


if __name__ == "__main__":
    sys.exit(main())
