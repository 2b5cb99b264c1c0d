"""Command line of the benchmark; see CONTRIBUTING.md."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.bench import machine, pairs
from tests.bench.compare import Options, compare, ours_is_exact
from tests.bench.process import run
from tests.bench.rivals import OURS, TOOLS, Tool


def parser() -> argparse.ArgumentParser:
    """The options."""
    p = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    p.add_argument(
        "--quick",
        action="store_true",
        help="small files, few pairs, one setting, one repeat: for CI",
    )
    p.add_argument("--size", type=float, metavar="MIB", help="size of a file [32]")
    p.add_argument("--repeats", type=int, help="runs of each tool [3]")
    p.add_argument("--pairs", metavar="NAME,…", help=f"of {', '.join(pairs.KINDS)} [all]")
    p.add_argument("--pair", nargs=2, type=Path, action="append", metavar=("BASE", "TARGET"))
    p.add_argument("--tools", metavar="WORD,…", help="only tools whose name has one of these words")
    p.add_argument("--slow", type=float, default=60, help="seconds; slower tools run once [60]")
    p.add_argument("--sort-limit", type=float, default=64, metavar="MIB", help="for bsdiff [64]")
    p.add_argument("--timeout", type=float, default=900, help="seconds for one command [900]")
    p.add_argument("--dir", type=Path, help="where files go [/dev/shm with room, else temporary]")
    p.add_argument("--speed", action="store_true", help="our speed against cmp, sha256sum and cp")
    p.add_argument("--speed-size", metavar="MIB,…", help="sizes of --speed [1024]")
    p.add_argument(
        "--engine",
        action="store_true",
        help="updates of a vLLM engine, each way: in vLLM's environment (CONTRIBUTING.md)",
    )
    p.add_argument(
        "--scale",
        nargs="?",
        const="",
        metavar="CURVE,…",
        help="how costs grow, one curve for each thing that grows [all]",
    )
    p.add_argument("--json", type=Path, help="write the raw results here")
    p.add_argument("--from-json", type=Path, nargs="+", help="run nothing, report these results")
    p.add_argument("--write", type=Path, metavar="MD", help="write a report, and a plot beside it")
    return p


def choose(words: str | None, quick: bool) -> tuple[list[Tool], list[str]]:
    """The tools that are wanted and there, and a note on each that is missing."""
    wanted = [w.lower() for w in words.split(",")] if words else [""]
    tools = [t for t in TOOLS if t is OURS or any(w in t.name.lower() for w in wanted)]
    if quick:  # one setting of each
        tools = list({t.name: t for t in reversed(tools)}.values())[::-1]
    notes = [f"{t.name}: skipped, needs {m}" for t in tools if (m := t.missing())]
    return [t for t in tools if not t.missing()], list(dict.fromkeys(notes))


def place(wanted: Path | None, room: int) -> Path:
    """A directory of its own, in memory if there is ``room`` bytes, which is removed later."""
    memory = Path("/dev/shm")
    if wanted is None and memory.is_dir() and shutil.disk_usage(memory).free > room:
        wanted = memory
    return Path(tempfile.mkdtemp(prefix="sparsediff-bench-", dir=wanted))


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Run what the options ask for."""
    quick = args.quick
    size = args.size or (2 if quick else 32)
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    options = Options(
        size, args.repeats or (1 if quick else 3), args.slow, args.sort_limit, args.timeout
    )
    sizes = [int(s) for s in (args.speed_size or ("8" if quick else "1024")).split(",")]
    names = args.pairs.split(",") if args.pairs else list(pairs.QUICK if quick else pairs.KINDS)
    if args.pair and not args.pairs:
        names = []
    tools, notes = choose(args.tools, quick)
    room = 8.0 * size if quick or not args.speed else 0  # patches, stores, outputs
    if quick or args.speed:
        room = max(room, 2.3 * max(sizes))
    work = place(args.dir, int(room * 2**20))
    document: dict[str, Any] = {
        "machine": machine.describe(),
        "filesystem": machine.filesystem(work),
        "command": shlex.join(["python", "-m", "tests.bench", *sys.argv[1:]]),
        "floor": run(["true"]).peak,
        "versions": {t.package or t.program: t.version() for t in tools},
    }
    try:
        if args.speed or quick:
            from tests.bench.speed import speed

            document["speed"] = speed(sizes, work, options.repeats, _say)
        if quick or not args.speed:
            found, more = compare(names, args.pair or [], tools, work, options, _say)
            document["pairs"], document["notes"] = found, notes + more
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return document


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> int:
    """Measure, print, write."""
    args = parser().parse_args()
    if args.engine:
        from tests.bench import engine

        return engine.main(args.dir, args.quick, args.repeats or 5, args.json)
    if args.scale is not None:
        from tests.bench import scale

        names = [name for name in args.scale.split(",") if name]
        text = scale.main(names, args.dir, args.quick, _say)
        if args.write:
            args.write.write_text(text)
        else:
            print(text)
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # files are removed on the way out
    if args.from_json:
        documents = [json.loads(p.read_text()) for p in args.from_json]
    else:
        documents = [measure(args)]
        if args.json:
            args.json.write_text(json.dumps(documents[0], indent=1) + "\n")
    from tests.bench.report import report

    text = report(documents, args.write)
    if args.write:
        args.write.write_text(text)
    else:
        print(text)
    for document in documents:
        if "pairs" in document and not ours_is_exact(document["pairs"]):
            _say("FAILED: an output of sparsediff was not byte-identical, or there was none")
            return 1
        if any(not row["exact"] for row in document.get("speed", {}).get("rows", [])):
            _say("FAILED: an output of sparsediff was not byte-identical")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
