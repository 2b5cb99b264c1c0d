"""What tells a program to end: one line, exit code 130, nothing left over, at any moment."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sparsediff import make_patch
from tests.support.pairs import tree
from tests.support.processes import wait_until

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]

# A program that is told to end when it has begun to import a module.
TOLD = """
import builtins, os, signal, sys
name, signum = sys.argv[1], int(sys.argv[2])
del sys.argv[1:3]
class Told:
    def find_spec(self, wanted, path=None, target=None):
        if wanted == name:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signum)
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
from sparsediff.__main__ import main
sys.meta_path.insert(0, Told())
main()
"""


@pytest.mark.parametrize("signum", SIGNALS)
@pytest.mark.parametrize(
    "module",
    [
        "sparsediff.cli",
        "click",
        "sparsediff.cli.make_cmd",
        "zstandard",
        "sparsediff.make.write",
        "xxhash",
    ],
)
def test_while_it_is_loaded(
    module: str, signum: int, base: Path, target: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", TOLD, module, str(signum), "make", str(base), str(target)]
    command += ["-o", str(tmp_path / "p"), "-j", "4"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (130, "", "sparsediff: interrupted\n")
    assert {p.name for p in tmp_path.iterdir()} == {"base", "target"}


def test_threads_are_loaded_before_anything_is_begun(
    base: Path, target: Path, tmp_path: Path
) -> None:
    make_patch(base, target, tmp_path / "p")
    arguments = "apply", str(base), str(tmp_path / "p"), "-o", str(tmp_path / "out"), "-j", "4"
    told = "concurrent.futures.thread", str(int(signal.SIGTERM))
    run = subprocess.run([sys.executable, "-c", TOLD, *told, *arguments], capture_output=True)
    assert run.returncode == 130
    assert {p.name for p in tmp_path.iterdir()} == {"base", "target", "p"}


@pytest.fixture
def half_fed(
    base: Path, target: Path, tmp_path: Path
) -> Callable[..., tuple[subprocess.Popen[bytes], bytes]]:
    """Start an apply that waits for the rest of its patch, with a temporary directory made."""
    make_patch(base, target, tmp_path / "p")
    patch = (tmp_path / "p").read_bytes()

    def start(ignored: int | None = None) -> tuple[subprocess.Popen[bytes], bytes]:
        def before() -> None:
            for number in SIGNALS:
                signal.signal(number, signal.SIG_IGN if number == ignored else signal.SIG_DFL)

        paths = str(base), "-", "-o", str(tmp_path / "out")
        command = [sys.executable, "-m", "sparsediff", "apply", *paths]
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, preexec_fn=before)
        assert process.stdin is not None
        process.stdin.write(patch[:-100])
        process.stdin.flush()
        wait_until((tmp_path / ".out.sparsediff-tmp").exists, "temporary directory")
        return process, patch[-100:]

    return start


@pytest.mark.parametrize("signum", SIGNALS)
def test_while_it_works(
    signum: int, half_fed: Callable[..., tuple[subprocess.Popen[bytes], bytes]], tmp_path: Path
) -> None:
    process, _ = half_fed()
    process.send_signal(signum)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, b"", b"sparsediff: interrupted\n")
    assert not [p for p in tmp_path.iterdir() if "out" in p.name]


@pytest.mark.parametrize("signum", [signal.SIGHUP, signal.SIGINT])
def test_what_was_ignored_from_the_start_stays_so(
    signum: int,
    half_fed: Callable[..., tuple[subprocess.Popen[bytes], bytes]],
    target: Path,
    tmp_path: Path,
) -> None:
    """As under nohup, or in the background of a shell."""
    process, rest = half_fed(ignored=signum)
    process.send_signal(signum)
    _, err = process.communicate(rest, timeout=30)
    assert (process.returncode, err) == (0, b"")
    assert tree(tmp_path / "out") == tree(target)


def test_terminal_that_goes(
    half_fed: Callable[..., tuple[subprocess.Popen[bytes], bytes]], tmp_path: Path
) -> None:
    """It takes standard error with it, and says so twice."""
    process, _ = half_fed()
    assert process.stderr is not None
    process.stderr.close()
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGHUP)
    with process:  # closes the pipes
        assert process.wait(30) == 130
    assert not [p for p in tmp_path.iterdir() if "out" in p.name]
