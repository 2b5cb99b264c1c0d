"""Our speed against what the system does with the same bytes: cmp, sha256sum, cp.

Repeats are interleaved: every command once, then every command again, but for
sha256sum, whose CPU time hardly varies. Files of one size and density exist at a
time. Before `apply` the target goes, so that its place is free for the output;
`cp` then copies the base, which is as large.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.bench.process import Usage, output, run
from tests.bench.rivals import PYTHON

RATES = {"0.2 %": 3e-8, "2 %": 4.7e-7, "10 %": 3.4e-6}
Say = Callable[[str], None]
Runs = dict[str, list[Usage]]


def _sha256(path: Path) -> str:
    return output(["sha256sum", str(path)]).split(" ")[0]


def _rounds(commands: dict[str, list[str]], repeats: int, out: Path, runs: Runs, say: Say) -> None:
    """Every command once, then again; ``out`` is removed before each."""
    for _ in range(repeats):
        for name, argv in commands.items():
            out.unlink(missing_ok=True)
            used = run(argv)
            runs.setdefault(name, []).append(used)
            say(f"  {name}: {used.wall:.2f} s, CPU {used.cpu:.2f} s, {used.peak >> 20} MiB")


def _jobs(verb: str, *args: object) -> dict[str, list[str]]:
    """Our command with one thread and with two."""
    return {
        f"{verb} -j {jobs}": [*PYTHON, "sparsediff", verb, *map(str, args), "-f", "-j", str(jobs)]
        for jobs in (1, 2)
    }


def _account(repeats: int, *args: object) -> dict[str, float]:
    """Least of a few accounts of where one thread's time goes (tests.bench.account)."""
    argv = [*PYTHON, "tests.bench.account", *map(str, args)]
    found = [json.loads(subprocess.check_output(argv)) for _ in range(repeats)]
    return min(found, key=lambda account: account["total"])


def _one(mib: int, density: str, work: Path, repeats: int, say: Say) -> dict[str, Any]:
    base, target, copy, out = (work / name for name in ("base", "target", "copy", "out"))
    patch = work / "patch"
    runs: Runs = {}

    def make(which: str, path: Path) -> None:
        run([*PYTHON, "tests.bench.big", which, str(path), str(mib), str(RATES[density])])

    say(f"{mib} MiB, {density}: making the pair")
    make("base", base)
    limits = json.loads(subprocess.check_output([*PYTHON, "tests.bench.limits", str(base)]))
    shutil.copyfile(base, copy)  # cmp would not read a file it meets twice
    together = shutil.disk_usage(work).free > 1.5 * base.stat().st_size
    comparing = {"cmp": ["cmp", str(base), str(copy)]}
    if not together:
        _rounds(comparing, repeats, out, runs, say)
        comparing = {}
        copy.unlink()
    make("target", target)
    _rounds({"sha256sum": ["sha256sum", str(base), str(target)]}, 1, out, runs, say)
    _rounds(_jobs("make", base, target, "-o", patch) | comparing, repeats, out, runs, say)
    account = {"make": _account(repeats, "make", base, target, patch)}
    copy.unlink(missing_ok=True)
    digest = _sha256(target)
    target.unlink()
    apply = _jobs("apply", base, patch, "-o", out)
    exact = True
    for argv in apply.values():
        out.unlink(missing_ok=True)
        run(argv)
        exact &= _sha256(out) == digest
    _rounds(apply | {"cp": ["cp", str(base), str(out)]}, repeats, out, runs, say)
    account["apply"] = _account(repeats, "apply", base, patch, out)
    total = json.loads(output([*PYTHON, "sparsediff", "stats", str(patch), "--json", "-q"]))
    row = {
        "mib": mib,
        "size": base.stat().st_size,
        "density": total["total"]["density"],
        "patch_bytes": patch.stat().st_size,
        "exact": exact,
        "interleaved": together,
        "limits": limits,
        "account": account,
        "runs": {name: [u.to_json() for u in used] for name, used in runs.items()},
    }
    for path in (base, out, patch):
        path.unlink(missing_ok=True)
    return row


def speed(sizes: list[int], work: Path, repeats: int, say: Say) -> dict[str, Any]:
    """Measure at every size in MiB: all densities up to 4 GiB, 2 % beyond.

    Returns:
        ``rows``, one per size and density.
    """
    cases = [(s, d) for s in sizes for d in (RATES if s <= 4096 else ("2 %",))]
    return {"rows": [_one(mib, density, work, repeats, say) for mib, density in cases]}
