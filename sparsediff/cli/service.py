"""What the commands that cron runs share: one line per run, metrics, repetition, quiet locks.

Enters: a function that does one run. Leaves: its summary as a line of text or
of JSON, its errors likewise, and an exit code. A run that finds another one at
work ends with 14 and without a word, but on a terminal.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import click

from sparsediff.cli.commands import run_command
from sparsediff.cli.common import Bandwidth, bar_aside, in_options, message, options, say
from sparsediff.cli.stores import opened_store
from sparsediff.errors import LockedError, SparsediffError, one_line

_TRANSIENT = (10, 11, 13, 14)  # after these, --watch goes on

watch_option = click.option(
    "--watch",
    type=click.FloatRange(0.1),
    metavar="SECONDS",
    help="Run again every so many seconds, until interrupted. [default: run once]",
)
once_option = click.option("--once", is_flag=True, help="Run once; this is the default.")
network_options = options(
    click.option(
        "--bwlimit",
        type=Bandwidth(),
        metavar="RATE",
        help="Use no more than this of the network, like 50MB/s or 1Gbps.",
    ),
    click.option(
        "--streams",
        type=click.IntRange(1, 256),
        default=4,
        show_default=True,
        metavar="N",
        help="Requests to the store at once.",
    ),
    click.option(
        "--retries",
        type=click.IntRange(0),
        default=5,
        show_default=True,
        metavar="N",
        help="How often a request that failed is tried again, waiting longer each time.",
    ),
)
report_options = options(
    click.option(
        "--log-json", is_flag=True, help="Print what happens as JSON, one document per line."
    ),
    click.option(
        "--metrics-file",
        metavar="FILE",
        help="Write metrics for Prometheus' node exporter (needs prometheus_client).",
    ),
)


@dataclass(slots=True)
class Outcome:
    """What one run has to tell.

    Attributes:
        line: summary for people.
        document: the same for programs.
        gauges: metrics with their values now.
        added: metrics that only grow, and by how much.
        by_reason: metrics with a value now for each reason.
        error: what the run ends with although it did all that it could.
        about: what that error is about; with --watch it is said when this changes.
    """

    line: str = ""
    document: dict[str, Any] = field(default_factory=dict)
    gauges: dict[str, float] = field(default_factory=dict)
    added: dict[str, float] = field(default_factory=dict)
    by_reason: dict[str, dict[str, float]] = field(default_factory=dict)
    error: SparsediffError | None = None
    about: str = ""


class Service:
    """Runs a verb once or again and again, and reports."""

    def __init__(
        self,
        verb: str,
        *,
        quiet: bool,
        log_json: bool,
        metrics_file: str | None,
        on_error: str | None,
        command_limit: float,
        **labels: str,
    ) -> None:
        self._verb, self._quiet, self._log_json = verb, quiet, log_json
        self._metrics_file, self._labels = metrics_file, labels
        self._on_error, self._limit = on_error, command_limit
        self._last_line = self._last_about = ""
        self._store: Any = None

    @contextmanager
    def opened_store(
        self, url: str, bwlimit: float | None, retries: int, *, create: bool
    ) -> Iterator[Any]:
        """See the function of this name. A bucket is asked again only for what changed there."""
        if self._store is not None and "://" in url:  # a directory may have been unmounted
            yield self._store
            return
        with opened_store(url, bwlimit, retries, create=create) as self._store:
            yield self._store

    def note(self, text: str) -> None:
        """Say what an operator should know."""
        with bar_aside():
            self._say("note", in_options(text), {}, err=True)

    def run(self, once: Callable[[Outcome], None], watch: float | None) -> int:
        """Call ``once``, which fills in an `Outcome`; returns the exit code."""
        while True:
            started = time.monotonic()
            code = self._run(once)
            if watch is None or code not in (0, *_TRANSIENT):
                return code
            time.sleep(max(0.0, watch - (time.monotonic() - started)))

    def _run(self, once: Callable[[Outcome], None]) -> int:
        outcome, started = Outcome(), time.time()
        code, error, about = 0, "", ""
        try:
            once(outcome)
            # --watch has something to say when something happens, not every few seconds.
            if self._log_json or not (self._quiet or outcome.line == self._last_line):
                self._say("done", outcome.line, outcome.document, err=False)
            self._last_line = outcome.line
            if outcome.error is not None:
                raise outcome.error
        except LockedError as e:
            if not self._quiet and sys.stderr is not None and sys.stderr.isatty():
                self._say("note", message(e), {}, err=True)
            return e.exit_code
        except SparsediffError as e:
            code = e.exit_code
            error = message(e)
            about = outcome.about or error
            if not outcome.about or about != self._last_about:
                self._say("error", error, {"exit_code": code}, err=True)
        except Exception as e:  # a defect; who is to be told is told all the same
            if self._on_error is not None:
                self._tell(self._on_error, 1, f"{type(e).__name__}: {e}")
            raise
        if self._metrics_file is not None:
            from sparsediff.cli.metrics import write_metrics

            outcome.gauges |= {"last_run_timestamp_seconds": started, "exit_code": code}
            if code == 0:
                outcome.gauges["last_success_timestamp_seconds"] = time.time()
            write_metrics(
                self._metrics_file,
                self._verb,
                self._labels,
                outcome.gauges,
                outcome.added,
                outcome.by_reason,
            )
        if self._on_error is not None and about not in ("", self._last_about):
            self._tell(self._on_error, code, error)
        self._last_about = about
        return code

    def _tell(self, command: str, code: int, error: str) -> None:
        """Run the command for errors."""
        variables = {"COMMAND": self._verb, "EXIT_CODE": str(code), "ERROR": one_line(error)}
        try:
            run_command(command, variables, self._limit)
        except SparsediffError as e:
            self.note(f"{e} (--on-error)")

    def _say(self, event: str, text: str, document: dict[str, Any], *, err: bool) -> None:
        if self._log_json:
            import json  # takes long

            at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
            line = {"time": at, "command": self._verb, **self._labels, "event": event}
            click.echo(json.dumps(line | {"text": text} | document), err=err)
        else:
            kind = "note: " if event == "note" else ""
            say(f"sparsediff: {kind}{text}" if err else text, err=err)
