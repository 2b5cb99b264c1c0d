"""Run a command and say what it cost.

The process that measures stays small on purpose: Linux counts the size of the
parent at the moment of the fork into the child's peak memory. So nothing here,
and nothing the runner imports, loads NumPy. Who has loaded it runs this module with a command
as its arguments, which prints the cost as JSON.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Usage:
    """Cost of one run: wall and user + system seconds, peak resident bytes."""

    wall: float
    cpu: float
    peak: int

    def to_json(self) -> dict[str, Any]:
        """As stored in the results."""
        return asdict(self)


class Failed(Exception):  # noqa: N818 - reads well where it is raised
    """The command did not do it; the message is its last words."""


def _last_words(error: bytes, code: int) -> str:
    lines = [line.strip(" |+-╭╮╰╯│─") for line in error.decode(errors="replace").splitlines()]
    lines = [line for line in lines if line]
    return lines[-1][:160] if lines else f"exit code {code}"


def run(argv: list[str], timeout: float = 1800, **environment: str) -> Usage:
    """Run ``argv`` quietly.

    Raises:
        Failed: It could not be started, exited with another code than 0, or ran
            for more than ``timeout`` seconds.
    """
    with tempfile.TemporaryFile() as error:
        start = time.perf_counter()
        try:
            child = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=error,  # where some tools put their errors
                stderr=error,
                env=os.environ | environment,
                start_new_session=True,  # so that a time-out reaches its children too
            )
        except OSError as e:
            raise Failed(str(e)) from e
        late = threading.Timer(timeout, os.killpg, (child.pid, signal.SIGKILL))
        late.start()
        try:
            _, status, usage = os.wait4(child.pid, 0)
        except BaseException:
            os.killpg(child.pid, signal.SIGKILL)
            raise
        finally:
            late.cancel()
        wall = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode == -signal.SIGKILL and wall >= timeout:
            raise Failed(f"stopped after {timeout:.0f} s")
        if child.returncode:
            error.seek(0)
            raise Failed(_last_words(error.read(), child.returncode))
    unit = 1 if sys.platform == "darwin" else 1024
    return Usage(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit)


def output(argv: list[str]) -> str:
    """What a command prints, or nothing if it cannot be run."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    except OSError:
        return ""
    return done.stdout + done.stderr


if __name__ == "__main__":
    print(json.dumps(run(sys.argv[1:]).to_json()))
