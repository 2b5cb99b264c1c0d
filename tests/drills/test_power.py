"""The power fails at any point of a command: old or new, and the next run completes it."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest

from tests.conftest import Run
from tests.support.commands import ALL, NAMES, left_over
from tests.support.power import Recorder, restore

SOME = 25  # of hundreds


@pytest.mark.parametrize("n", [SOME, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", NAMES)
def test_power_failure(name: str, n: int, tmp_path: Path, cli: Run) -> None:
    case = ALL[name](tmp_path)
    case.prepare()
    live, origin = tmp_path / "live", tmp_path / "origin"
    shutil.copytree(live, origin, symlinks=True, copy_function=os.link)
    recorder = Recorder(live, origin)
    with pytest.MonkeyPatch.context() as monkeypatch:
        recorder.watch(monkeypatch)
        assert cli(*case.words)[0] == 0
    recorder.point("at the end")
    states = list(recorder.states)
    assert len(states) > 4, "the disk was hardly touched"
    for i in sorted(random.Random(0).sample(range(len(states)), min(n, len(states)))):
        where = f"{i}, {recorder.states[states[i]]}"
        restore(states[i], live)
        try:
            case.sound()
            code, _, err = cli(*case.words)
            assert code == 0, err
            case.done()
            case.clean()
            assert not left_over(live)
        except AssertionError as e:
            raise AssertionError(f"{where}: {[p for p, _ in states[i]]}: {e}") from e
