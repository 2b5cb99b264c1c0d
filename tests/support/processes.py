"""sparsediff as cron runs it: processes of their own, against a directory or a real S3 server."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.seaweed import Seaweed

_ROOT = Path(__file__).parents[2]

Process = subprocess.Popen[str]


def use(seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch, port: int | None = None) -> str:
    """Set this process and its children to use the server; returns the URL of an empty store."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    for name, value in (seaweed.env if port is None else seaweed.env_through(port)).items():
        monkeypatch.setenv(name, value)
    return f"{seaweed.url}/{uuid.uuid4().hex}"


def start(*args: object, log: Path | None = None, python: bool = False) -> Process:
    """Start ``sparsediff ARGS``, or with ``python`` that module.

    Args:
        args: of the command line.
        log: takes stdout and stderr, one after the other; else they are pipes.
        python: run the module ``args[0]`` instead.
    """
    module = [] if python else ["sparsediff"]
    environment = os.environ | {"PYTHONPATH": str(_ROOT), "PYTHONWARNINGS": "default"}
    # In the background a shell has its children ignore interrupts.
    to_default = ["env", "--default-signal=INT"]
    command = [*to_default, sys.executable, "-m", *module, *map(str, args)]
    if log is None:
        pipe = subprocess.PIPE
        return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True)
    with open(log, "w") as out:
        return subprocess.Popen(command, env=environment, stdout=out, stderr=out, text=True)


def finish(process: Process, timeout: float = 60) -> tuple[int, str, str]:
    """Wait for the end: exit code, stdout, stderr."""
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        process.kill()
        process.wait()
    return process.returncode, out or "", err or ""


def sparsediff(*args: object, timeout: float = 60) -> tuple[int, str, str]:
    """Run ``sparsediff ARGS``: exit code, stdout, stderr."""
    return finish(start(*args), timeout)


@contextmanager
def running(*args: object, log: Path) -> Iterator[Process]:
    """``sparsediff ARGS`` in the background, told to end like a service at the end of this."""
    process = start(*args, log=log)
    try:
        yield process
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 130, log.read_text()
        assert "Traceback" not in log.read_text(), log.read_text()
    finally:
        process.kill()
        process.wait()


def wait_until(condition: Callable[[], object], what: str, timeout: float = 30) -> None:
    """Return when ``condition`` holds.

    Raises:
        AssertionError: it does not within ``timeout`` seconds.
    """
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, f"no {what} within {timeout:g} s"
        time.sleep(0.05)


def assert_one_line(err: str) -> None:
    """It is one message of ours."""
    assert re.fullmatch(r"sparsediff: [^\n]+\n", err), err
