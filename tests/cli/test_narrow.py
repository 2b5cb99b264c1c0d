"""A terminal too narrow for a table: what is left out is said."""

from __future__ import annotations

import os
import sys

import pytest

from sparsediff.cli.tables import print_table


@pytest.mark.parametrize(("width", "left_out"), [(80, None), (20, "b"), (10, "b, c")])
def test_columns_that_are_left_out_are_named(
    width: int,
    left_out: str | None,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((width, 24)))
    print_table(["a", "b", "c", "d"], [["1", "22222222", "33333", "4"]], expendable=("b", "c"))
    out, err = capsys.readouterr()
    if left_out is None:
        assert err == ""
        assert "22222222" in out
    else:
        assert f"no room for {left_out};" in err
        assert err.count("\n") == 1
        assert "22222222" not in out
