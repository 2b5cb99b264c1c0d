"""Tables are what rich prints, byte for byte, without its taking a millisecond a row."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sparsediff.cli import tables
from sparsediff.cli.tables import print_table
from sparsediff.errors import printable

# Wide, narrow, combining and of no width; what rich would take for markup; what is escaped.
cell = st.text("abX.1 [/]≤…日語ｱ한👍🏳é́\u0301\u200b\u200d\t\n\x1b\\$", max_size=9).map(str.strip)
head = st.text("abc±", min_size=1, max_size=6)


def by_rich(columns: list[str], rows: list[list[str]], *, last_is_total: bool) -> str:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for i, name in enumerate(columns):
        table.add_column(name, justify="right" if i else "left", no_wrap=True)
    for i, row in enumerate(rows):
        if last_is_total and i == len(rows) - 1:
            table.add_section()
        table.add_row(*(Text(printable(text)) for text in row))
    console = Console(highlight=False, color_system=None, width=1000)
    with console.capture() as capture:
        console.print(table)
    return "".join(f"{line.rstrip()}\n" for line in capture.get().splitlines())


@given(st.data(), st.integers(1, 4), st.integers(0, 5), st.booleans(), st.integers(1, 7))
def test_as_rich_prints_it(
    data: st.DataObject, n_columns: int, n_rows: int, last_is_total: bool, block: int
) -> None:
    columns = [data.draw(head) for _ in range(n_columns)]
    rows = [[data.draw(cell) for _ in range(n_columns)] for _ in range(n_rows)]
    at_once = mock.patch.object(tables, "_BLOCK", block)
    with at_once, contextlib.redirect_stdout(io.StringIO()) as out:
        print_table(columns, rows, last_is_total=last_is_total)
    assert out.getvalue() == by_rich(columns, rows, last_is_total=last_is_total)


@pytest.mark.parametrize("name", ["層" * 30, "layer" * 12, "a層" * 20])
def test_names_that_are_cut_fit(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((40, 24)))
    print_table(["tensor", "elements"], [[name, "1"], ["b", "22"]])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(cell_len, lines)) <= 40
    assert lines[2].startswith("…")
    assert cell_len(lines[2]) == cell_len(lines[3])
