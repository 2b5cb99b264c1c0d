"""Ctrl-C and SIGTERM at any line that a command runs, in the middle of an import, too."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Run
from tests.support.commands import ALL, left_over
from tests.support.interrupts import interrupted

SIGNALS = ["SIGINT", "SIGTERM"]
VERBS = ["apply in place", "pull", "pull in place", "ship"]


@pytest.mark.parametrize(
    ("name", "points"),
    [("pull", 6), *(pytest.param(verb, 40, marks=pytest.mark.slow) for verb in VERBS)],
)
def test_a_signal_at_any_line(name: str, points: int, tmp_path: Path, cli: Run) -> None:
    case, log = ALL[name](tmp_path), tmp_path / "log"
    case.prepare()
    code, err, n_lines = interrupted(0, "SIGINT", log, case.words)
    assert (code, err) == (0, "")
    case.done()
    where: list[str] = []
    for i in range(points):
        n = 1 + int(n_lines) * (2 * i + 1) // (2 * points)
        case.prepare()
        code, err, place = interrupted(n, SIGNALS[i % 2], log, case.words)
        where.append(place)
        about = (n, place, code, err)
        assert (code, err) == (130, "sparsediff: interrupted\n"), about
        case.sound()
        again = cli(*case.words)
        assert again[0] == 0, (about, again)
        case.done()
        case.clean()
        assert not left_over(tmp_path / "live"), about
    assert len(set(where)) > points // 2, where
