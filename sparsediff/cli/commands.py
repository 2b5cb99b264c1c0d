"""Commands of the operator's own that `ship` and `pull` run: after a switch, after an error.

Enters: a line for the shell, what it should know, and how long it may take. Leaves: its
exit code. It runs in a session of its own, so that all of what it starts can be stopped.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from sparsediff.cli.common import Duration, bar_aside, duration, options
from sparsediff.errors import UnavailableError

if TYPE_CHECKING:
    from subprocess import Popen

_GRACE = 5.0  # seconds that a command has to end itself when it is stopped

command_options = options(
    click.option(
        "--on-error",
        metavar="COMMAND",
        help="Run this when a run fails, in a shell that has SPARSEDIFF_COMMAND, _EXIT_CODE and"
        " _ERROR in its environment; with --watch, once for each error in a row.",
    ),
    click.option(
        "--exec-timeout",
        type=Duration(),
        default=3600.0,
        metavar="TIME",
        help="How long a command may take; then it is stopped, and has failed. [default: 1h]",
    ),
)


def run_command(command: str, variables: Mapping[str, str], limit: float) -> None:
    """Run a command and wait for it.

    Args:
        command: for the shell.
        variables: added to its environment, each as ``SPARSEDIFF_`` and its name.
        limit: seconds.

    Raises:
        UnavailableError: it failed, or took too long and was stopped.
    """
    import subprocess  # takes long

    environment = os.environ | {f"SPARSEDIFF_{k}": v for k, v in variables.items()}
    with bar_aside():
        process = subprocess.Popen(
            command,
            shell=True,
            env=environment,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            _stop(process)
            raise UnavailableError(
                f"the command did not end within {duration(limit)} and was stopped", file=command
            ) from None
        except BaseException:
            _stop(process)
            raise
    if code:
        raise UnavailableError("the command failed", file=command, found=f"exit code {code}")


def _stop(process: Popen[bytes]) -> None:
    """End a command and all it started."""
    from subprocess import TimeoutExpired

    for signum, patience in ((signal.SIGTERM, _GRACE), (signal.SIGKILL, None)):
        try:
            os.killpg(process.pid, signum)
            process.wait(patience)
        except TimeoutExpired:
            continue
        except ProcessLookupError:
            return
