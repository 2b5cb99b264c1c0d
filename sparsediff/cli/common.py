"""What the commands share: options, help epilogues, numbers for people, progress, tables."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

import click

from sparsediff.cli.documents import encoded
from sparsediff.cli.keys import checked
from sparsediff.errors import SparsediffError, one_line

if TYPE_CHECKING:
    from rich.progress import Progress

F = TypeVar("F", bound=Callable[..., Any])

_BLOCK = 1 << 18  # characters printed at once
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h

_CODES = {
    0: "done",
    1: "unexpected error",
    2: "wrong usage, missing input or existing output",
    10: "wrong base",
    11: "corrupt, malformed or untrusted input",
    12: "unsupported",
    13: "disk full or unavailable, or input changing; try again later",
    14: "another run holds the lock",
    130: "interrupted",
}


_ARGUMENT = re.compile(r"`([a-z_]+)(?:=True)?`")
_OPTIONS = {"state_directory": "--state"}  # those not called like their argument


def in_options(text: str) -> str:
    """A message of the library, which names arguments, in terms of the command line's options."""
    return _ARGUMENT.sub(lambda m: _OPTIONS.get(m[1], f"--{m[1].replace('_', '-')}"), text)


def message(error: SparsediffError) -> str:
    """An error's line as the command line prints it."""
    error.problem = in_options(error.problem)
    return str(error)


def examples(*lines: str) -> str:
    """Epilogue paragraph with example command lines."""
    return "\b\nExamples:\n" + "".join(f"  {line}\n" for line in lines) + "\n"


def exit_codes(*codes: int) -> str:
    """Epilogue paragraph with the exit codes a command can return."""
    return "\b\nExit codes:\n" + "".join(f"  {c:<4} {_CODES[c]}\n" for c in codes)


EPILOG_CODES = exit_codes(*_CODES)

force_option = click.option("-f", "--force", is_flag=True, help="Replace an existing output.")
quiet_option = click.option(
    "-q", "--quiet", is_flag=True, help="Print neither progress nor summary."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


def return_large_blocks() -> None:
    """Have freed blocks of megabytes go back to the system at once, where glibc allocates.

    By itself it takes to keeping them, in pieces and per thread, which doubles the memory that
    dense buckets need. What small buckets need is kept from one to the next: of a hundred files
    the system would spend a quarter of the time on clearing the same pages again.
    """
    import ctypes  # takes long; only verbs that take words apart or together have a use for it

    with suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, 4 << 20)
        mallopt(_M_TRIM_THRESHOLD, 8 << 20)


def _ready_for_buckets(_: click.Context, __: click.Parameter, jobs: int | None) -> int | None:
    """Who takes jobs is going to have buckets in memory."""
    return_large_blocks()
    return jobs


jobs_option = click.option(
    "-j",
    "--jobs",
    type=click.IntRange(1, 256),
    metavar="N",
    callback=_ready_for_buckets,
    help="Threads to use. [default: all processors]",
)


def _wait(ctx: click.Context, _: click.Parameter, seconds: float | None) -> None:
    """Let this command wait for locks, and say so when it does."""
    if seconds is None:
        return
    from sparsediff.disk.locks import waiting

    def tell(error: SparsediffError) -> None:
        if not (ctx.params.get("quiet") or ctx.params.get("log_json")):
            with bar_aside():
                say(f"sparsediff: note: {error}; waiting up to {duration(seconds)}", err=True)

    ctx.with_resource(waiting(seconds, tell))


def options(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    """Apply several option decorators, listed in the order the help shows them."""

    def apply(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


def say(text: str, *, err: bool = False) -> None:
    """Print one line, whatever control characters are in the names it speaks of."""
    click.echo(one_line(text), err=err)


def print_json(document: object) -> None:
    """Print one JSON document on stdout, a block at a time: it may have very many rows."""
    block, size = [], 0
    for piece in encoded(document, "\n"):
        block.append(piece)
        size += len(piece)
        if size >= _BLOCK:
            click.echo("".join(block), nl=False)
            block, size = [], 0
    click.echo("".join(block))


@lru_cache(1 << 12)
def size(n_bytes: float) -> str:
    """Bytes for people: 31.9 kB. Units are powers of 1000."""
    value = float(n_bytes)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 999.5 or unit == "TB":
            break
        value /= 1000
    return f"{value:.0f} B" if unit == "B" else f"{value:.3g} {unit}"


@lru_cache(1 << 12)
def count(n: int) -> str:
    """A count with separators: 14,160,384."""
    return f"{n:,}"


def plural(n: int, noun: str) -> str:
    """A count with its noun: 1 version, 2 versions."""
    return f"{count(n)} {noun}" if n == 1 else f"{count(n)} {noun}s"


@lru_cache(1 << 12)
def percent(share: float | None) -> str:
    """A share for people; more digits near 0 and 1, where sparsity lives."""
    if share is None:
        return "-"
    if share in (0.0, 1.0):
        return f"{share:.0%}".replace("%", " %")
    rest = min(share, 1 - share)
    digits = 1 if rest >= 0.1 else 2 if rest >= 0.01 else 3 if rest >= 0.001 else 5
    return f"{100 * share:.{digits}f} %"


def number(value: float | None, digits: int = 2) -> str:
    """A number for people, ``-`` for none."""
    return "-" if value is None else f"{value:.{digits}f}"


def duration(seconds: float) -> str:
    """A duration for people: 3.2 s, 4 min 10 s, 2 h 5 min, 45 ms."""
    if seconds < 0.9995:
        return f"{1000 * seconds:.3g} ms"
    if seconds < 99.5:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


class Bandwidth(click.ParamType[float]):
    """Bits per second: 1Gbps, 250Mbit/s, 10MB/s."""

    name = "bandwidth"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Parse a value from the command line."""
        if isinstance(value, float):
            return value
        match = re.fullmatch(r"([0-9.]+)\s*([kKMGT]?)(bps|bit/s|b/s|Bps|B/s)", str(value).strip())
        try:
            if match is None:
                raise ValueError
            rate: float = float(match[1]) * 1000.0 ** " KMGT".index((match[2] or " ").upper())
            if not 1 <= rate <= 1e15:
                raise ValueError
        except ValueError:
            self.fail(f"{value!r} is not a bandwidth like 1Gbps or 100MB/s", param, ctx)
        return rate * (8 if match[3].startswith("B") else 1)


class Duration(click.ParamType[float]):
    """Seconds, from 90s, 15min, 12h, 7d or 0: without a unit, 7 could be days."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Parse a value from the command line."""
        if isinstance(value, float):
            return value
        match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*(s|min|h|d|)", str(value).strip())
        if match is None:
            self.fail(f"{value!r} is not a duration like 30s, 15min, 12h or 7d", param, ctx)
        n, unit = float(match[1]), match[2]
        if n and not unit:
            units = f"{match[1]}s, {match[1]}min, {match[1]}h or {match[1]}d"
            self.fail(f"{value!r} has no unit: {units}", param, ctx)
        return n * {"": 1, "s": 1, "min": 60, "h": 3600, "d": 86400}[unit]


class Size(click.ParamType[int]):
    """Bytes, from 500MB, 40GB or 1.5TB, in powers of 1000."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse a value from the command line."""
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([kKMGT]?)B", str(value).strip())
        if match is None:
            self.fail(f"{value!r} is not a size like 500MB or 40GB", param, ctx)
        return int(float(match[1]) * 1000 ** " KMGT".index((match[2] or " ").upper()))


max_bytes_option = click.option(
    "--max-bytes",
    type=Size(),
    metavar="SIZE",
    help="Refuse what is to be rebuilt, before anything is written, if it is larger than"
    " this, as 40GB. [default: any size]",
)


class PatchPath(click.Path):
    """Path of a patch, as `checked` makes it; of ``-`` on a terminal it says what is waited for."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """See `click.ParamType`."""
        if value == "-" and sys.stdin is not None and sys.stdin.isatty():
            say("sparsediff: note: reading the patch from standard input", err=True)
        path = super().convert(value, param, ctx)
        return checked(path) if isinstance(path, str) else path


wait_option = click.option(
    "--wait",
    type=Duration(),
    metavar="TIME",
    expose_value=False,
    callback=_wait,
    help="Wait so long for another run that is writing the same, instead of ending with 14.",
)

ray_option = click.option(
    "--ray",
    metavar="ADDRESS",
    help="Let a cluster of Ray do the work: auto for the one this machine belongs to, or"
    " HOST:PORT. Every node must see the same files.",
)


def selection_options(where: str) -> Callable[[F], F]:
    """``--include`` and ``--exclude``: which files of ``where`` are carried."""
    return options(
        click.option(
            "--include",
            multiple=True,
            metavar="PATTERN",
            help=f"Carry only the files of {where} that match, as '*.safetensors'; repeatable."
            " [default: all]",
        ),
        click.option(
            "--exclude",
            multiple=True,
            metavar="PATTERN",
            help="Do not carry files, nor directories, that match, as 'optimizer*'; repeatable.",
        ),
    )


_bars: list[Progress] = []  # the one on the terminal, if any


@contextmanager
def progress_bar(what: str, *, quiet: bool) -> Iterator[Callable[[int, int], None] | None]:
    """Progress on stderr while it is a terminal; yields None where there is nothing to tell."""
    if quiet or sys.stderr is None or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        _bars.append(bar)
        try:
            yield lambda done, total: bar.update(task, completed=done, total=total)
        finally:
            _bars.pop()


@contextmanager
def bar_aside() -> Iterator[None]:
    """Take the progress bar, if there is one, off the terminal while something else is printed."""
    for bar in _bars:
        bar.stop()
    try:
        yield
    finally:
        for bar in _bars:
            bar.start()


def check_output_stream(output: str, *, as_json: bool) -> None:
    """Refuse ``-`` as an output where standard output cannot take a patch.

    Raises:
        click.UsageError: it is a terminal, or closed, or wanted for something else.
    """
    if output == "-":
        if as_json:
            raise click.UsageError("--json and -o - both want standard output")
        if sys.stdout is None:
            raise click.UsageError("standard output is closed")
        if sys.stdout.isatty():
            raise click.UsageError("will not write a patch to a terminal; give -o PATCH")


def noted(*, quiet: bool) -> Callable[[str], None]:
    """A function that prints notes on stderr, unless the user wants quiet."""

    def tell(text: str) -> None:
        if not quiet:
            with bar_aside():
                say(f"sparsediff: note: {text}", err=True)

    return tell
