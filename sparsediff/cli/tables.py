"""Tables of text, as wide as the terminal and no wider.

Enters: names of columns, and rows of cells, of which there may be very many. Leaves: lines on
standard output; names in them are data, without control characters or markup.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

import click

from sparsediff.cli.common import say
from sparsediff.errors import printable

_BLOCK = 1 << 12  # lines: what is printed at once stays in the cache


def print_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    last_is_total: bool = False,
    expendable: Sequence[str] = (),
) -> None:
    """Print a table on stdout, first column left, the others right.

    On a terminal too narrow for it, the ``expendable`` columns are left out one
    by one, then names in the first column lose their beginning.
    """
    # A tensor name is data: no control characters, and never any markup.
    table = [[name, *_printable(cells)] for name, cells in _transposed(columns, rows)]
    widths = [max(_cells(column)) for column in table]
    room = 1 << 16
    if sys.stdout is not None and sys.stdout.isatty():
        import shutil  # takes long

        room = shutil.get_terminal_size().columns
    left_out = []
    for name in expendable:
        if sum(widths) + 2 * len(widths) > room:
            at = [column[0] for column in table].index(name)
            del widths[at], table[at]
            left_out.append(name)
    first = max(room - sum(widths[1:]) - 2 * len(widths), 12)
    if widths[0] > first:
        table[0] = [_end_of(cell, first) for cell in table[0]]
        widths[0] = max(_cells(table[0]))
    n_lines = len(table[0])
    for start in range(0, n_lines, _BLOCK):
        block = [column[start : start + _BLOCK] for column in table]
        cells = map(_padded, block, widths, range(len(table)))
        lines = ["  ".join(row).rstrip() for row in zip(*cells, strict=True)]
        if last_is_total and len(rows) > 1 and start + _BLOCK >= n_lines:
            lines.insert(-1, "")
        if start == 0:
            lines.insert(1, "─" * (sum(widths) + 2 * len(widths) - 2))
        click.echo("\n".join(lines))
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


def _transposed(
    columns: Sequence[str], rows: Sequence[Sequence[str]]
) -> Iterator[tuple[str, Sequence[str]]]:
    """Name and cells of each column."""
    return zip(columns, zip(*rows, strict=True) if rows else ((),) * len(columns), strict=True)


def _printable(cells: Sequence[str]) -> Sequence[str]:
    """`printable` of each cell; whole columns at a time, as there may be very many rows."""
    if "".join(cells).isprintable() and max(map(len, cells), default=0) <= 100:
        return cells
    return [printable(cell) for cell in cells]


def _padded(column: list[str], width: int, at: int) -> list[str]:
    """Cells of the column ``at`` as wide as the widest, the first to the left, others right."""
    if "".join(column).isascii():
        return [cell.rjust(width) if at else cell.ljust(width) for cell in column]
    gaps = [" " * (width - n) for n in _cells(column)]
    return [gap + cell if at else cell + gap for gap, cell in zip(gaps, column, strict=True)]
