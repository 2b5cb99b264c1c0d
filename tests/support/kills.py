"""Killing or interrupting a function at each point where it touches a disk or a store, in turn."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sparsediff.apply import chain, in_place, rebuild, write
from sparsediff.cli import _interrupt, run
from sparsediff.disk import outputs
from sparsediff.shipping import fetch
from sparsediff.stores.cloud import CloudStore
from sparsediff.stores.directory import DirectoryStore

# What changes something that outlives the process: (where it is looked up, its name).
TOUCHES: list[tuple[Any, str]] = [
    (os, "rename"),
    (os, "replace"),
    (os, "link"),
    (os, "symlink"),
    (os, "unlink"),
    (os, "mkdir"),
    (os, "rmdir"),
    (os, "ftruncate"),
    (outputs, "publish"),
    *[
        (store, name)
        for store in (DirectoryStore, CloudStore)
        for name in ("put", "swap", "delete")
    ],
    *[
        (module, name)
        for module in (chain, fetch, in_place, rebuild, write)
        for name in ("write_all", "write_at", "create", "clone")
        if hasattr(module, name)
    ],
]


def killed_at_each_point(
    prepare: Callable[[], None], act: Callable[[], object], log: Path
) -> Iterator[str]:
    """Call ``act`` in child processes that kill themselves, each a point later than the last.

    Args:
        prepare: called before each child, in this process.
        act: what to kill; must do the same whenever it is called. If it returns an integer,
            that is an exit code.
        log: file for the names of the points.

    Yields:
        Name of the point at which the child was killed, such as "before replace
        current"; the caller looks at what is left. Ends when a child got to its end.
    """
    for point, code in _signalled(prepare, act, log, signal.SIGKILL):
        assert code == -signal.SIGKILL, point
        yield point


def interrupted_at_each_point(
    prepare: Callable[[], None], act: Callable[[], object], log: Path, signum: int
) -> Iterator[tuple[str, int]]:
    """Like `killed_at_each_point`, with a signal that ``act`` can answer.

    Yields:
        Name of the point, and the exit code that ``act`` returned.
    """
    yield from _signalled(prepare, act, log, signum)


def _signalled(
    prepare: Callable[[], None], act: Callable[[], object], log: Path, signum: int
) -> Iterator[tuple[str, int]]:
    """Points at which children signalled themselves, and how they ended.

    A child that gets to its end without a signal must have done what it was to do.
    """
    failure = log.with_name(f"{log.name}.failure")
    n = 0
    while True:
        n += 1
        prepare()
        for file in (log, failure):
            file.write_text("")
        child = os.fork()
        if child == 0:
            code = 1
            try:
                signal.signal(signal.SIGINT, signal.default_int_handler)
                signal.signal(signal.SIGTERM, _interrupt)
                arm(n, log, signum)
                result = act()
                code = result if isinstance(result, int) else 0
            except BaseException:
                failure.write_text(traceback.format_exc())
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        if not log.read_text():
            assert code == 0, failure.read_text()
            return
        yield log.read_text(), code


def command_killed_at_each_point(
    prepare: Callable[[], None], arguments: tuple[object, ...], log: Path
) -> Iterator[str]:
    """`killed_at_each_point` of a command line, in processes that share nothing with this one.

    Threads of a client do not survive a fork.
    """
    n = 0
    while True:
        n += 1
        prepare()
        log.write_text("")
        command = [sys.executable, "-m", "tests.support.kills", n, log, *arguments]
        child = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        if child.returncode == 0:
            return
        assert child.returncode == -signal.SIGKILL, child.stderr
        yield log.read_text()


def arm(n: int, log: Path, signum: int = signal.SIGKILL) -> None:
    """Replace everything in `TOUCHES` by what counts, and signals at the ``n``-th point."""
    count = 0

    def point(what: str) -> None:
        nonlocal count
        count += 1
        if count == n:
            with open(log, "w") as f:
                f.write(what)
            os.kill(os.getpid(), signum)

    def wrap(owner: Any, name: str) -> Callable[..., Any]:
        function = getattr(owner, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            names = [Path(a).name for a in args if isinstance(a, (str, Path))]
            about = names[0 if owner in (DirectoryStore, CloudStore) else -1] if names else ""
            point(f"before {name} {about}")
            result = function(*args, **kwargs)
            point(f"after {name} {about}")
            return result

        return wrapped

    for owner, name in TOUCHES:
        setattr(owner, name, wrap(owner, name))


if __name__ == "__main__":
    arm(int(sys.argv[1]), Path(sys.argv[2]))
    sys.exit(run(sys.argv[3:]))
