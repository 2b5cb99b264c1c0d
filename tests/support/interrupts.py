"""sparsediff, which is sent a signal at the n-th line of its own that runs; the same each time.

Or a program that follows a store until it is at the newest version, with the command line
``follow STORE DIRECTORY``.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from sparsediff import cli

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(cli.__file__))) + os.sep


def interrupted(n: int, signum: str, log: Path, words: tuple[object, ...]) -> tuple[int, str, str]:
    """How a run ended that was sent a signal at its n-th line: exit code, stderr, that line."""
    command = [sys.executable, "-m", __name__, n, signum, log, *words, "-q"]
    child = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60)
    assert child.stdout == ""
    return child.returncode, child.stderr, log.read_text()


def _follow(arguments: list[str]) -> int:
    from sparsediff import Follower, open_store

    try:
        follower = Follower(open_store(arguments[1]), arguments[2], every=0.01, jobs=2)
        for arrival in follower:
            if arrival.version == arrival.latest:
                follower.stop()
    except KeyboardInterrupt:
        print("sparsediff: interrupted", file=sys.stderr)
        return 130
    return 0


def _main(n: int, signum: int, log: Path, arguments: list[str]) -> None:
    """Run a command as a program; ``log`` then says which line it was, or how many there are."""
    count, plain = 0, cli.run
    if arguments[0] == "follow":
        plain = _follow  # type: ignore[assignment]

    def line(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        if event == "line":
            count += 1
            if count == n:
                code = frame.f_code
                log.write_text(f"{code.co_filename[len(_PACKAGE) :]}:{frame.f_lineno}")
                os.kill(os.getpid(), signum)
        return line

    def call(frame: FrameType, *_: Any) -> Any:
        return line if frame.f_code.co_filename.startswith(_PACKAGE) else None

    def run(args: list[str] | None = None) -> int:
        sys.settrace(call)
        try:
            return plain(arguments if args is None else args)
        finally:
            sys.settrace(None)
            if count < n or n == 0:
                log.write_text(str(count))

    signal.signal(signum, signal.SIG_DFL)  # who runs tests in the background may ignore it
    cli.run = run  # which `main` calls
    cli.main()


if __name__ == "__main__":
    _main(int(sys.argv[1]), getattr(signal, sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
