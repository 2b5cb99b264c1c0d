"""Tables of text, as wide as the terminal and no wider.

Enters: names of columns, and rows of cells, of which there may be very many. Leaves: lines on
standard output; names in them are data, without control characters or markup.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from itertools import islice

import click

from sparsediff.cli.common import say
from sparsediff.errors import printable

_BLOCK = 1 << 12  # lines: what is printed at once stays in the cache


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    last_is_total: bool = False,
    expendable: Sequence[str] = (),
) -> None:
    """Print a table on stdout, first column left, the others right.

    On a terminal too narrow for it, the ``expendable`` columns are left out one
    by one, then names in the first column lose their beginning. Until all rows are known they are
    held as little more than the bytes that are printed.
    """
    widths, blocks, n_rows = _cells(columns), [], 0
    left = iter(rows)
    while block := [*islice(left, _BLOCK)]:
        # A tensor name is data: no control characters, and never any markup.
        cells = [_printable(column) for column in zip(*block, strict=True)]
        widths = [max(n, *_cells(column)) for n, column in zip(widths, cells, strict=True)]
        blocks.append(["\n".join(column).encode() for column in cells])
        n_rows += len(block)
    room = 1 << 16
    if sys.stdout is not None and sys.stdout.isatty():
        import shutil  # takes long

        room = shutil.get_terminal_size().columns
    shown, left_out = [*range(len(columns))], []
    for name in expendable:
        if sum(widths[i] + 2 for i in shown) > room:
            shown.remove(columns.index(name))
            left_out.append(name)
    first = max(room - sum(widths[i] for i in shown[1:]) - 2 * len(shown), 12)
    is_cut, widths[0] = widths[0] > first, min(widths[0], first)

    def lines(cells: Sequence[Sequence[str]]) -> list[str]:
        rows = zip(*(cells[i] for i in shown), strict=True)
        if all("".join(cells[i]).isascii() for i in shown):
            form = "  ".join(f"%{widths[i]}s" if i else f"%-{widths[i]}s" for i in shown)
            return [(form % row).rstrip() for row in rows]
        return [
            "  ".join(map(_padded, row, (widths[i] for i in shown), shown)).rstrip() for row in rows
        ]

    click.echo(lines([[name] for name in columns])[0])
    click.echo("─" * (sum(widths[i] + 2 for i in shown) - 2))
    for packed in blocks:
        texts = [column.decode().split("\n") for column in packed]
        if is_cut:
            texts[0] = [_end_of(cell, first) for cell in texts[0]]
        printed = lines(texts)
        if last_is_total and n_rows > 1 and packed is blocks[-1]:
            printed.insert(-1, "")
        click.echo("\n".join(printed))
    if left_out:
        width = f"{room} columns have no room for {', '.join(left_out)}"
        say(f"sparsediff: note: {width}; a wider terminal or --json shows all", err=True)


def _cells(column: Sequence[str]) -> list[int]:
    """Columns of a terminal that each text takes."""
    if "".join(column).isascii():
        return [*map(len, column)]
    from rich.cells import cell_len

    return [len(text) if text.isascii() else cell_len(text) for text in column]


def _end_of(text: str, room: int) -> str:
    """A text, or as much of its end as there is room for."""
    if _cells([text])[0] <= room:
        return text
    while _cells([text])[0] >= room:
        text = text[1:]
    return "…" + text


def _printable(cells: Sequence[str]) -> Sequence[str]:
    """`printable` of each cell; whole columns at a time, as there may be very many rows."""
    if "".join(cells).isprintable() and max(map(len, cells), default=0) <= 100:
        return cells
    return [printable(cell) for cell in cells]


def _padded(cell: str, width: int, at: int) -> str:
    """A cell of the column ``at`` as wide as the widest, the first to the left, others right."""
    gap = " " * (width - _cells([cell])[0])
    return gap + cell if at else cell + gap
