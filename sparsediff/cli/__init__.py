"""The command line: the only layer that prints, reads the environment or exits.

Enters: arguments. Leaves: results on stdout, everything else on stderr, an
exit code. The library and rich are imported inside the commands, so that
``--help`` and ``--version`` start quickly.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import os
import signal
import sys
from collections.abc import Iterator
from importlib import import_module
from types import FrameType
from typing import Any, NoReturn

import click

from sparsediff.cli.common import EPILOG_CODES, examples, message, say
from sparsediff.errors import SparsediffError, from_os_error

_COMMANDS = (
    "make",
    "apply",
    "stats",
    "verify",
    "merge",
    "squash",
    "export",
    "show",
    "ship",
    "pull",
    "log",
    "status",
    "prune",
    "check",
    "keygen",
    "sign",
)
_CALLED_ELSEWHERE = {
    "create": "make",
    "diff": "make",
    "fetch": "pull",
    "fsck": "check",
    "gc": "prune",
    "history": "log",
    "info": "show",
    "join": "merge",
    "list": "log",
    "patch": "apply",
    "publish": "ship",
    "push": "ship",
    "restore": "apply",
    "sync": "pull",
}
"""What people type who know other tools, and what it is here."""


class _Group(click.Group):
    """A group whose commands are modules of this package, in the order of use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command = import_module(f"sparsediff.cli.{cmd_name}_cmd").command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as e:
            from difflib import get_close_matches

            known = [*_COMMANDS, *_CALLED_ELSEWHERE]
            meant = get_close_matches(args[0].lower(), known, n=1)
            if not meant:
                raise
            verb = _CALLED_ELSEWHERE.get(meant[0], meant[0])
            problem = f"No such command {args[0]!r}. Did you mean {verb!r}?"
            raise click.UsageError(problem, ctx) from e

    # Before click sees an interrupt, which would print an empty line.

    def make_context(self, *args: Any, **options: Any) -> click.Context:
        with _interruptible():
            return super().make_context(*args, **options)

    def invoke(self, ctx: click.Context) -> Any:
        with _interruptible():
            return super().invoke(ctx)


class _InterruptedError(SparsediffError):
    exit_code = 130


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise _InterruptedError("interrupted") from None


def _print_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from sparsediff.kernels import NAME
        from sparsediff.version import FORMAT_VERSION, __version__

        say(f"sparsediff {__version__} (patch format {FORMAT_VERSION}, kernels: {NAME})")
        ctx.exit()


@click.group(
    cls=_Group,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=examples(
        "sparsediff make step_100/ step_101/ -o 101.sdiff",
        "sparsediff apply step_100/ 101.sdiff -o step_101/",
        "sparsediff stats 101.sdiff",
    )
    + EPILOG_CODES,
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Print version, patch format and kernels, and exit.",
)
def cli() -> None:
    """Small exact patches between model checkpoints.

    Between two steps of training hardly any stored weight changes. sparsediff
    writes what did change into a patch, often several hundred times smaller
    than the checkpoint, and rebuilds the target from base and patch, byte for
    byte.
    """


def run(args: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    try:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")  # a tensor name may not fit the terminal
        result: Any = cli.main(args=args, prog_name="sparsediff", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except click.ClickException as e:
        e.show()
        return e.exit_code
    except (click.Abort, KeyboardInterrupt):
        return _fail("interrupted", _InterruptedError.exit_code)
    except SparsediffError as e:
        return _fail(message(e), e.exit_code)
    except OSError as e:
        error = from_os_error(e, "standard output")
        return _fail(str(error), error.exit_code)


def _fail(message: str, code: int) -> int:
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except (OSError, ValueError):
        _give_up(1)
    try:
        say(f"sparsediff: {message}", err=True)
    except OSError:  # the terminal may be gone
        _give_up(2)
    return code


def _give_up(descriptor: int) -> None:
    """Send what still comes there nowhere: else it would fail again when Python ends."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


def _interrupt(signum: int, frame: FrameType | None) -> NoReturn:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a terminal that goes says so more than once
    while frame is not None:
        # A module of C may make any error of an interrupt. What was begun when something is
        # imported late is as a kill leaves it, and the next run completes or removes it.
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            os.write(2, b"sparsediff: interrupted\n")
            os._exit(_InterruptedError.exit_code)
        frame = frame.f_back
    raise KeyboardInterrupt


def main() -> NoReturn:
    """Run the command line as a program, which cleans up whatever tells it to end."""
    codes: list[int] = []
    if not atexit._ncallbacks():  # else what was registered before would not be called any more
        atexit.register(_end, codes)
    _answer_signals(_interrupt)
    # NumPy's linear algebra, which is not used, would start a thread for each processor.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    codes.append(run())
    _answer_signals(signal.SIG_IGN)  # it is over; Python's own end is not to be interrupted
    sys.exit(codes[0])


def _end(codes: list[int]) -> None:
    """End at once, where Python would first take all modules apart, which takes 10 ms.

    Registered first and so called last: threads have ended, and whatever others do at exit is
    done. What cannot be flushed, or ended without an exit code, is left to Python.
    """
    with contextlib.suppress(OSError, ValueError):
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        if codes:
            os._exit(codes[0])


def _answer_signals(handler: Any) -> None:
    """Handle what tells a program to end, but for what it was started to ignore (nohup)."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(signum) != signal.SIG_IGN:
            signal.signal(signum, handler)
