"""The program ends at once, but not before what others do at exit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# A program whose command leaves work to the end: a thread, a handler, an object.
PROGRAM = """
import atexit, sys, threading, time
from sparsediff import cli

class Held:
    def __del__(self):
        print("taken apart")

def work():
    time.sleep(0.1)
    print("thread")

def run():
    threading.Thread(target=work).start()
    atexit.register(print, "handler")
    cli.held = Held()
    return int(sys.argv[1])

cli.run = run
"""


def ended(start: str, code: int) -> tuple[int, list[str]]:
    """Exit code and lines of output of the program, which runs after ``start``."""
    command = [sys.executable, "-c", PROGRAM + start + "\ncli.main()", str(code)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stderr == ""
    return done.returncode, done.stdout.splitlines()


@pytest.mark.parametrize("code", [0, 11])
def test_nothing_is_taken_apart_and_all_else_is_done(code: int) -> None:
    assert ended("", code) == (code, ["thread", "handler"])


def test_a_handler_from_before_is_called_too() -> None:
    code, lines = ended("atexit.register(print, 'before')", 11)
    assert (code, lines[:3]) == (11, ["thread", "handler", "before"])


def test_what_cannot_be_flushed_is_still_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", "")
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-c", PROGRAM + "cli.main()", "0"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 120  # of Python
    assert "No space left" in done.stderr


def test_a_defect_is_told_of_as_by_python() -> None:
    command = [sys.executable, "-c", PROGRAM + "cli.main()", "none"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "ValueError" in done.stderr
    assert "taken apart" in done.stdout
