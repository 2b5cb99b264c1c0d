"""How long something is, on the command line, has a unit."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from sparsediff.cli.common import Duration
from tests.conftest import Run


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("0.0", 0), ("90s", 90), ("1.5min", 90), ("2 h", 7200), ("7d", 604800)],
)
def test_durations(text: str, seconds: float) -> None:
    assert Duration().convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["7", "0.5", "1e3", "-1s", "7 weeks", "d", "", "nan"])
def test_no_durations(text: str) -> None:
    with pytest.raises(click.BadParameter):
        Duration().convert(text, None, None)


@pytest.mark.parametrize(
    "command",
    [
        ("prune", ".", "--max-age", "7"),
        ("prune", ".", "--keep", "1", "--grace", "7"),
        ("check", ".", "--grace", "7"),
        ("ship", ".", "store", "--settled", "7"),
    ],
)
def test_a_bare_number_is_refused_with_a_hint(
    command: tuple[str, ...], cli: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = cli(*command)
    assert code == 2
    assert "'7' has no unit: 7s, 7min, 7h or 7d" in err
