"""Two runs of one command at once: one is told to come later, or both get there; all is whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparsediff.stores import directory
from tests.conftest import Run
from tests.support.commands import ALL, NAMES, left_over
from tests.support.refusals import EXIT
from tests.support.touches import Touched, at_each
from tests.support.touches import touched as touched

FEW = 13  # points
# What a store became meanwhile, these look at in their next run.
LATER = {"prune": EXIT["unavailable"], "sign a store": EXIT["unavailable"]}


@pytest.mark.parametrize("few", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", NAMES)
def test_two_runs(
    name: str,
    few: bool,
    tmp_path: Path,
    touched: Touched,
    cli: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before each touch of the disk by one, another begins and comes to its end."""
    monkeypatch.setattr(directory, "_LOCK_WAIT", 0.0)  # it would not end while it is waited for
    case = ALL[name](tmp_path)
    other: list[tuple[int, str, str]] = []

    def run(n: int) -> bool:
        """Whether there was an n-th touch."""
        case.prepare()
        other.clear()
        where = touched.before(n, lambda: other.append(cli(*case.words)))
        ours = cli(*case.words)
        touched.leave()
        for code, out, err in [ours, *other]:
            assert code in (0, EXIT["locked"], LATER.get(name)), (n, where, ours, other)
            assert code == 0 or err.count("\n") <= 1, (n, where, ours, other)
            assert code == 0 or out == "", (n, where, ours, other)
        assert 0 in (ours[0], *(o[0] for o in other)), (n, where, ours, other)
        case.done()
        assert not left_over(tmp_path / "live"), (n, where, ours, other)
        return bool(where)

    assert at_each(run, FEW if few else None) > 3, "the disk was hardly touched"
