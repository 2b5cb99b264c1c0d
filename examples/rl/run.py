"""The command: two runs of three processes each, with patches and with whole weights.

Enters: options. Leaves: a table, a row for every step, and what the comparison of the two
runs gave; ends with 1 if anything differs.
"""

from __future__ import annotations

import argparse
import json
import queue
import subprocess
import sys
import tempfile
import threading
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any

from rl.workers import ROLLOUTS, Settings, work

HEAD = (
    " step  reward  exact  stale  density       bytes   ratio"
    "   make  publish  fetch  apply  pause  train (ms)"
)
Row = dict[str, Any]


def run(settings: Settings, place: Path) -> list[Row]:
    """One run; returns a row for every step, the first being version 0."""
    for name in ("store", "made", "check", "samples", *(f"rollout-{i}" for i in range(ROLLOUTS))):
        (place / name).mkdir(parents=True, exist_ok=True)
    roles = ["trainer", *map(str, range(ROLLOUTS))]
    command = [sys.executable, str(Path(__file__).parent), "--place", str(place)]
    command += ["--settings", json.dumps(asdict(settings)), "--role"]
    processes = [
        subprocess.Popen([*command, role], stdout=subprocess.PIPE, text=True) for role in roles
    ]
    lines: queue.Queue[tuple[str, str | None]] = queue.Queue()

    def read(role: str, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.put((role, line))
        lines.put((role, None))

    for role, process in zip(roles, processes, strict=True):
        threading.Thread(target=read, args=(role, process), daemon=True).start()
    try:
        return _rows(lines, dict(zip(roles, processes, strict=True)))
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _rows(
    lines: queue.Queue[tuple[str, str | None]], running: dict[str, subprocess.Popen[str]]
) -> list[Row]:
    """Print a row as soon as trainer and rollouts have said all of it."""
    steps: dict[int, Row] = {}
    syncs: dict[int, list[Row]] = {}
    printed = 0
    while running:
        role, line = lines.get()
        if line is None:
            if running.pop(role).wait():
                raise SystemExit(f"the process {role} failed")
            continue
        said = json.loads(line)
        if "note" in said:
            print(said["note"], flush=True)
        elif "step" in said:
            steps[said["step"]] = said
        else:
            syncs.setdefault(said["sync"], []).append(said)
        while printed in steps and len(syncs.get(printed, [])) == ROLLOUTS:
            row = steps[printed]
            for field in ("fetch", "apply", "pause"):
                row[field] = max(s[field] for s in syncs[printed])
            row["same"] = all(s["same"] for s in syncs[printed])
            if not printed:
                print(HEAD)
            print(formatted(row), flush=True)
            printed += 1
    return [steps[i] for i in range(printed)]


def formatted(row: Row) -> str:
    """A line of the table."""

    def ms(field: str) -> str:
        return f"{1000 * row[field]:.{int(field == 'pause')}f}" if field in row else "-"

    reward = f"{row['reward']:.4f}" if "reward" in row else "-"
    exact = f"{row['exact']:.3f}" if "exact" in row else "-"
    density = "-" if row["density"] is None else f"{row['density']:.3%}"
    return (
        f"{row['step']:5} {reward:>7} {exact:>6} {row.get('staleness', '-'):>6} {density:>8} "
        f"{row['n_bytes']:>11,} {row['whole_bytes'] / row['n_bytes']:>7.1f} {ms('make'):>6} "
        f"{ms('publish'):>8} {ms('fetch'):>6} {ms('apply'):>6} {ms('pause'):>6} {ms('train'):>6}"
    )


def mean(rows: list[Row], field: str) -> float:
    """Of a field that all rows have."""
    return float(sum(r[field] for r in rows) / len(rows))


def held_out(settings: Settings, path: Path) -> float:
    """Mean reward on words that no training saw, four samples each, always the same draws."""
    import torch
    from safetensors.torch import load_file
    from small_lm import Config, SmallLM

    from rl import task

    torch.set_num_threads(1)
    model = SmallLM(Config()).bfloat16()
    model.load_state_dict(load_file(path))
    words = [w for w in task.words(held_out=True)[:128] for _ in range(4)]
    generator = torch.Generator().manual_seed(settings.seed + 7)
    answers = model.sample(task.prompts(words), task.ANSWER, task.END, generator).answers
    return sum(task.reward(w, a) for w, a in zip(words, answers, strict=True)) / len(words)


def both(settings: Settings, place: Path) -> None:
    """Run with patches and with whole weights, and compare."""
    print("== with patches", flush=True)
    patched = run(settings, place / "patches")
    print("\n== the same seeds with whole weights", flush=True)
    whole = run(replace(settings, whole=True), place / "whole")

    rewards = [[r["reward"] for r in rows[1:]] for rows in (patched, whole)]
    n_syncs = ROLLOUTS * len(patched)
    print(f"\n{n_syncs} syncs gave the weights of a full update, bit for bit")
    last = f"{settings.steps:06}.safetensors"
    ends = [(place / way / "check" / last).read_bytes() for way in ("patches", "whole")]
    if rewards[0] != rewards[1] or ends[0] != ends[1]:
        raise SystemExit("the two runs differ: rewards or final weights are not identical")
    print(f"both runs: {len(rewards[0])} rewards identical, final weights byte-identical")

    few = max(1, settings.steps // 5)
    first, final = mean(patched[1 : few + 1], "reward"), mean(patched[-few:], "reward")
    print(f"reward: {first:.4f} in the first {few} steps, {final:.4f} in the last {few}")
    before, after = (
        held_out(settings, place / "patches/check" / n) for n in (f"{0:06}.safetensors", last)
    )
    print(f"reward on held-out words: {before:.4f} before, {after:.4f} after")
    stale = [r["staleness"] for r in patched[1:]]
    print(
        f"staleness: {sum(stale) / len(stale):.2f} steps on average, at most {max(stale)} "
        f"of {settings.lag} allowed"
    )
    n = sum(r["n_bytes"] for r in patched[1:])
    m = sum(r["n_bytes"] for r in whole[1:])
    print(f"sent in {settings.steps} steps: {n:,} bytes as patches, {m:,} whole ({m / n:.1f}x)")
    for field in ("make", "publish", "fetch", "apply", "pause"):
        a, b = (1000 * median([r[field] for r in rows[1:]]) for rows in (patched, whole))
        print(f"{field}: {a:.2f} ms with patches, {b:.2f} ms whole (medians)")


def main() -> None:
    """Parse options."""
    parser = argparse.ArgumentParser(prog="python examples/rl", description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=Settings.steps)
    parser.add_argument("--lr", type=float, default=Settings.lr)
    parser.add_argument("--lag", type=int, default=Settings.lag, help="steps of staleness, at most")
    parser.add_argument("--seed", type=int, default=Settings.seed)
    parser.add_argument("--short", action="store_true", help="five steps of a model hardly trained")
    parser.add_argument(
        "--place", type=Path, help="keep everything here [default: nothing is kept]"
    )
    parser.add_argument("--role", help=argparse.SUPPRESS)
    parser.add_argument("--settings", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.role is not None:
        work(args.role, args.place, Settings(**json.loads(args.settings)))
        return
    settings = Settings(steps=args.steps, lr=args.lr, lag=args.lag, seed=args.seed)
    if args.short:
        settings = replace(settings, steps=5, groups=2, reading=2, warm=5)
    if args.place is not None:
        args.place.mkdir(parents=True)
        both(settings, args.place)
        return
    with tempfile.TemporaryDirectory() as directory:
        both(settings, Path(directory))
