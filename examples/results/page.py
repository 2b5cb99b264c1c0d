"""Tables as text: on a terminal and as a page of Markdown, which are the same.

Enters: tables. Leaves: Markdown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """A section of the page.

    Attributes:
        title: of the section.
        text: what the table shows.
        head: of the columns.
        rows: cells, as many as there are columns.
        command: what prints the figures, or the checkpoints they are of; a line for each.
        why: why ours are not the paper's.
    """

    title: str
    text: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    command: str
    why: str

    def markdown(self) -> str:
        """The section."""
        lines = [[*self.head], ["---", *["--:"] * (len(self.head) - 1)], *map(list, self.rows)]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.head))]
        lines[1] = ["-" * widths[0], *("-" * (w - 1) + ":" for w in widths[1:])]
        padded = [
            [
                line[0].ljust(widths[0]),
                *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True)),
            ]
            for line in lines
        ]
        table = "\n".join("| " + " | ".join(line) + " |" for line in padded)
        commands = "\n".join(f"$ {line}" for line in self.command.splitlines())
        return (
            f"## {self.title}\n\n{wrapped(self.text)}\n\n{table}\n\n"
            f"```console\n{commands}\n```\n\n{wrapped(self.why)}\n"
        )


def wrapped(text: str, width: int = 96) -> str:
    """Lines of at most so many characters."""
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + 1 + len(word) > width:
            lines.append("")
        lines[-1] += (" " if lines[-1] else "") + word
    return "\n".join(lines)


def percent(share: float | None) -> str:
    """Three digits that count."""
    return "-" if share is None or share != share else f"{significant(100 * share)} %"


def significant(value: float | None) -> str:
    """Three digits that count, without an exponent."""
    if value is None or value != value:
        return "-"
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    digits = 2
    scaled = abs(value)
    while scaled < 1 and digits < 8:
        scaled, digits = scaled * 10, digits + 1
    while scaled >= 10:
        scaled, digits = scaled / 10, digits - 1
    return f"{value:.{digits}f}"


def duration(seconds: float) -> str:
    """In a unit that suits it."""
    for unit, name in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if seconds >= unit or name == "µs":
            return f"{significant(seconds / unit)} {name}"
    raise AssertionError


def size(n_bytes: float) -> str:
    """In a decimal unit that suits it."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B")):
        if n_bytes >= unit:
            return f"{significant(n_bytes / unit)} {name}"
    return "0 B"
