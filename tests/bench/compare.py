"""All tools on the same files in the same run, their repeats interleaved."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench import pairs
from tests.bench.process import Failed, Usage, run
from tests.bench.rivals import OURS, PYTHON, Job, Tool
from tests.bench.tensors import exactness

ROOT = Path(__file__).parents[2]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """How to run."""

    size: float  # MiB per file
    repeats: int
    slow: float  # seconds; a tool that took longer is run once
    sort_limit: float  # MiB; bsdiff is left out above
    timeout: float  # seconds per command


@dataclass
class Result:
    """What one tool did on one pair."""

    tool: Tool
    patch_bytes: int = 0
    make: list[Usage] = field(default_factory=list)
    apply: list[Usage] = field(default_factory=list)
    exact: str = ""
    error: str = ""

    def to_json(self) -> dict[str, Any]:
        """As stored in the results."""
        return {
            "tool": self.tool.name,
            "setting": self.tool.setting,
            "patch_bytes": self.patch_bytes,
            "make": [u.to_json() for u in self.make],
            "apply": [u.to_json() for u in self.apply],
            "exact": self.exact,
            "error": self.error,
        }


def _total(commands: tuple[str, ...], job: Job, options: Options, tool: Tool) -> Usage:
    """Run commands one after the other; times add up, memory is the largest."""
    used = [run(job.fill(c), options.timeout, **tool.environment) for c in commands]
    return Usage(sum(u.wall for u in used), sum(u.cpu for u in used), max(u.peak for u in used))


def _once(result: Result, base: Path, target: Path, scratch: Path, options: Options) -> None:
    """One make and one apply, checked."""
    tool = result.tool
    scratch.mkdir()
    job = Job(base, target, scratch)
    try:
        before = 0
        if tool.prepare:
            _total(tool.prepare, job, options, tool)
            before = tool.size(job) if tool.grows else 0
        result.make.append(_total(tool.make, job, options, tool))
        result.patch_bytes = tool.size(job) - before
        result.apply.append(_total(tool.apply, job, options, tool))
        exact = exactness(target, job.out)
        order = ["no", "tensors", "yes"]  # of several repeats the worst one counts
        result.exact = min(exact, result.exact or exact, key=order.index)
    except (Failed, FileNotFoundError) as e:
        result.error = str(e).replace(str(scratch), "").replace(str(base.parents[2]), "")
        result.exact = "no"
    finally:
        shutil.rmtree(scratch)


def _finished(result: Result, options: Options) -> bool:
    used = result.make + result.apply
    return bool(result.error) or max((u.wall for u in used), default=0) > options.slow


def race(base: Path, target: Path, tools: list[Tool], options: Options, say: Say) -> list[Result]:
    """Round robin: every tool once, then every tool again."""
    results = [Result(tool) for tool in tools]
    for path in (base, target):  # all start with the files in memory
        with path.open("rb") as f:
            while f.read(1 << 20):
                pass
    for i in range(options.repeats):
        for result in results:
            if _finished(result, options):
                continue
            _once(result, base, target, base.parents[1] / "scratch", options)
            last = (
                result.error
                or f"{result.patch_bytes:,} bytes, make {result.make[-1].wall:.2f} s, "
                f"apply {result.apply[-1].wall:.2f} s, exact: {result.exact}"
            )
            say(f"  {i + 1}/{options.repeats} {result.tool.name} {result.tool.setting}: {last}")
    return results


def _bound(base: Path, target: Path) -> dict[str, Any]:
    """Counts and the entropy bound, by our own `stats`, in a process of its own."""
    code = (
        "import json, sys; from sparsediff import checkpoint_stats;"
        "s = checkpoint_stats(sys.argv[1], sys.argv[2], bound=True);"
        "print(json.dumps({'n_elements': s.total.n_elements, 'n_changed': s.total.n_changed,"
        "'bound_bits': s.bound_bits}))"
    )
    argv = [sys.executable, "-c", code, str(base), str(target)]
    answer: dict[str, Any] = json.loads(subprocess.check_output(argv, cwd=ROOT))
    return answer


def _write(name: str, directory: Path, size: float, timeout: float) -> None:
    run([*PYTHON, "tests.bench.pairs", name, str(directory), str(size)], timeout)


def compare(
    names: Iterable[str],
    given: Iterable[tuple[Path, Path]],
    tools: list[Tool],
    work: Path,
    options: Options,
    say: Say,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Run ``tools`` on pairs of the kinds ``names`` and on the pairs the user ``given``.

    Returns:
        Results per pair, and notes on what was left out.
    """
    out: list[dict[str, Any]] = []
    notes: list[str] = []
    todo: list[tuple[str, str, tuple[Path, Path] | None]] = [
        (name, pairs.KINDS[name].title, None) for name in names
    ]
    todo += [(f"given-{i}", f"given pair {i}", pair) for i, pair in enumerate(given, 1)]
    for name, title, files in todo:
        place = work / name
        say(f"{title}: making the pair")
        about = "named on the command line"
        try:
            if files:
                pairs.link(*files, place)
            else:
                kind = pairs.KINDS[name]
                about = kind.about.format(lr=kind.lr)
                if missing := [m for m in kind.needs if not importlib.util.find_spec(m)]:
                    raise Failed(f"needs {', '.join(missing)}")
                _write(name, place, options.size, options.timeout)
        except Failed as e:
            notes.append(f"The pair “{title}” could not be made: {e}")
            say(f"  {notes[-1]}")
            continue
        base, target = pairs.place(place)
        size = target.stat().st_size
        fitting = [t for t in tools if not (t.sorts and size > options.sort_limit * 2**20)]
        skipped = [t.name for t in tools if t not in fitting]
        if skipped:
            notes.append(f"{', '.join(skipped)}: left out of “{title}”, the files are too large")
        results = race(base, target, fitting, options, say)
        out.append(
            {
                "name": name,
                "title": title,
                "about": about,
                "base_bytes": base.stat().st_size,
                "target_bytes": size,
                **_bound(base, target),
                "results": [r.to_json() for r in results],
            }
        )
        shutil.rmtree(place)
    return out, notes


def ours_is_exact(results: list[dict[str, Any]]) -> bool:
    """Whether every output of sparsediff was byte-identical."""
    ours = [r for pair in results for r in pair["results"] if r["tool"] == OURS.name]
    return all(r["exact"] == "yes" for r in ours) and len(ours) == len(results) > 0
