"""--wait: several runs at the same place all succeed, one after the other."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sparsediff import LockedError, make_patch
from sparsediff.disk.locks import locked, waiting
from sparsediff.disk.outputs import staged_file
from sparsediff.shipping.ship import ship
from sparsediff.stores import open_store
from tests.conftest import Run
from tests.support.pairs import tree
from tests.support.processes import assert_one_line, finish, start
from tests.support.runs import Trainer


def all_at_once(*args: object) -> None:
    processes = [start(*args) for _ in range(4)]
    for process in processes:
        code, _, err = finish(process)
        assert code == 0, err
        for line in err.splitlines():
            assert "waiting up to" in line


def test_ranks_of_one_host(base: Path, target: Path, tmp_path: Path) -> None:
    make_patch(base, target, tmp_path / "p")
    out = tmp_path / "out"
    all_at_once("apply", base, tmp_path / "p", "-o", out, "-f", "--wait", "1min")
    assert tree(out) == tree(target)
    all_at_once("make", base, target, "-o", tmp_path / "q", "-f", "--wait", "1min")
    assert (tmp_path / "q").read_bytes() == (tmp_path / "p").read_bytes()
    all_at_once("apply", "--in-place", base, tmp_path / "p", "--wait", "1min")
    assert tree(base) == tree(target)
    assert not list(tmp_path.rglob("*.sparsediff-tmp*"))


def test_pullers_of_one_host(tmp_path: Path) -> None:
    trainer = Trainer(tmp_path / "run")
    store = open_store(str(tmp_path / "store"), create=True)
    trainer.save_steps(1)
    ship(trainer.run, store)
    all_at_once("pull", store.name, tmp_path / "dest", "--wait", "1min")
    assert tree(tmp_path / "dest" / "current") == tree(trainer.run / "step_000001")


def test_it_is_said_and_ends_with_14(base: Path, target: Path, tmp_path: Path, cli: Run) -> None:
    with staged_file(tmp_path / "p", force=False):
        code, _, err = cli("make", base, target, "-o", tmp_path / "p", "--wait", "0.2s")
        assert code == 14
        first, second = err.splitlines(keepends=True)
        assert "note: " in first
        assert "waiting up to" in first
        assert_one_line(second)
        code, _, err = cli("make", base, target, "-o", tmp_path / "p", "--wait", "0.1s", "-q")
        assert_one_line(err)


def test_a_time_needs_its_unit(cli: Run) -> None:
    assert cli("make", "a", "b", "--wait", "5")[0] == 2


def test_only_what_is_inside_waits(tmp_path: Path) -> None:
    told: list[LockedError] = []
    path, flags = tmp_path / "lock", os.O_RDWR | os.O_CREAT
    with locked(path, flags):
        with waiting(0.1, told.append), pytest.raises(LockedError), locked(path, flags):
            pass
        assert len(told) == 1
        with pytest.raises(LockedError), locked(path, flags):
            pass
        assert len(told) == 1
