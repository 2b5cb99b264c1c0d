"""Killing or interrupting a function at each point where it touches a disk or a store, in turn."""

from __future__ import annotations

import hashlib
import itertools
import os
import signal
import stat
import subprocess
import sys
import time
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
    prepare: Callable[[], None], act: Callable[[], object], log: Path, place: Path
) -> Iterator[str]:
    """Call ``act`` in child processes that kill themselves, each a state of the disk later.

    A first child gets to the end and says what ``place`` looks like at each point. Points in a
    row that see the same leave the same when they are killed, so one of them is.

    Args:
        prepare: called before each child, in this process.
        act: what to kill; must do the same whenever it is called. If it returns an integer,
            that is an exit code.
        log: file for the names of the points.
        place: directory that has all that ``act`` changes.

    Yields:
        Names of the points with the state that the child left, such as "after link step_1,
        before replace current"; the caller looks at what is left.
    """
    assert _child(prepare, act, log, lambda: _watch(_noting(log, place))) == 0
    seen = [line.split("\t") for line in log.read_text().splitlines()]
    points = [what for what, _ in seen]
    assert len({state for _, state in seen}) > 1, f"nothing happens in {place}"
    for _, group in itertools.groupby(range(len(seen)), lambda i: seen[i][1]):
        same = list(group)
        names = ", ".join(points[i] for i in same)
        code = _child(prepare, act, log, lambda n=same[0]: arm(n + 1, log))  # type: ignore[misc]
        assert code == -signal.SIGKILL, names
        assert log.read_text().split()[:2] == points[same[0]].split()[:2], "not the same again"
        yield names


def interrupted_at_each_point(
    prepare: Callable[[], None], act: Callable[[], object], log: Path, signum: int
) -> Iterator[tuple[str, int]]:
    """Call ``act`` in child processes that signal themselves, each a point later than the last.

    Args:
        prepare: called before each child, in this process.
        act: see `killed_at_each_point`; it can answer the signal.
        log: file for the name of the point.
        signum: of the signal.

    Yields:
        Name of the point, such as "before replace current", and the exit code that ``act``
        returned. Ends when a child got to its end.
    """
    for n in itertools.count(1):
        code = _child(prepare, act, log, lambda n=n: arm(n, log, signum))  # type: ignore[misc]
        if not log.read_text():
            return
        yield log.read_text(), code


def _child(
    prepare: Callable[[], None], act: Callable[[], object], log: Path, arm: Callable[[], None]
) -> int:
    """How a child ended that called ``arm`` and ``act``; one without a point must have done it."""
    failure = log.with_name(f"{log.name}.failure")
    prepare()
    for file in (log, failure):
        file.write_text("")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGTERM, _interrupt)
            arm()
            result = act()
            code = result if isinstance(result, int) else 0
        except BaseException:
            failure.write_text(traceback.format_exc())
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code == 0 or log.read_text(), failure.read_text()
    return code


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
    """Have this process signal itself at the ``n``-th point, whose name goes into ``log``."""
    count = 0

    def point(what: str) -> None:
        nonlocal count
        count += 1
        if count == n:
            with open(log, "w") as f:
                f.write(what)
            os.kill(os.getpid(), signum)

    _watch(point)


def _watch(point: Callable[[str], None]) -> None:
    """Replace everything in `TOUCHES` by what calls ``point`` before and after it."""

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


def _noting(log: Path, place: Path) -> Callable[[str], None]:
    """What writes each point and the state of ``place`` into ``log``."""

    def point(what: str) -> None:
        with open(log, "a") as f:
            f.write(f"{what}\t{_state(place, log)}\n")

    return point


def _state(place: Path, log: Path) -> str:
    """Digest of all that a kill leaves in a directory."""
    found: list[tuple[object, ...]] = []
    recent = time.time() - 1
    for directory, names, files in os.walk(place):
        for name in [*names, *files]:
            path = os.path.join(directory, name)
            if name.startswith(log.name) and directory == str(log.parent):
                continue
            about = os.lstat(path)
            content = b""
            if stat.S_ISLNK(about.st_mode):
                content = os.readlink(path).encode()
            elif stat.S_ISREG(about.st_mode) and about.st_mtime > recent:  # clocks are coarse
                content = Path(path).read_bytes()
            found.append((path, about.st_ino, about.st_mode, about.st_nlink, content))
            if not stat.S_ISDIR(about.st_mode):
                found.append((path, about.st_size, about.st_mtime_ns))
    return hashlib.sha256(repr(sorted(found, key=repr)).encode()).hexdigest()


if __name__ == "__main__":
    arm(int(sys.argv[1]), Path(sys.argv[2]))
    sys.exit(run(sys.argv[3:]))
