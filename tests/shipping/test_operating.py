"""What an operator of ship and pull meets: mistakes, accidents, and what is said about them."""

from __future__ import annotations

import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from sparsediff.make import MakeResult, make_patch
from sparsediff.shipping import snapshot
from sparsediff.shipping.state import default_state
from tests.conftest import Run
from tests.support.runs import Trainer


def ship_command(trainer: Trainer, place: Path) -> list[str]:
    return [sys.executable, "-m", "sparsediff", "ship", str(trainer.run), str(place / "store")]


@pytest.fixture
def trainer(tmp_path: Path) -> Trainer:
    trainer = Trainer(tmp_path / "run")
    trainer.save_steps(1, 2)
    return trainer


def test_nothing_is_left_of_a_source_that_is_none(tmp_path: Path, cli: Run) -> None:
    code, _, err = cli("ship", tmp_path / "rnu", tmp_path / "store")
    assert (code, err) == (2, f"sparsediff: {tmp_path / 'rnu'}: no such file or directory\n")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("where", [".", "store"])
def test_nothing_is_written_into_the_source(where: str, trainer: Trainer, cli: Run) -> None:
    before = sorted(trainer.run.iterdir())
    for arguments in ([trainer.run / where], ["store", "--state", trainer.run / where]):
        code, _, err = cli("ship", trainer.run, *arguments)
        assert code == 2
        assert "lies in the source" in err
    assert sorted(trainer.run.iterdir()) == before


def test_one_state_for_two_stores(trainer: Trainer, tmp_path: Path, cli: Run) -> None:
    assert cli("ship", trainer.run, tmp_path / "a")[0] == 0
    code, _, err = cli("ship", trainer.run, tmp_path / "b")
    assert code == 13
    assert f"shipped to {tmp_path / 'a'}: is it mounted" in err
    assert "another --state" in err
    assert cli("ship", trainer.run, tmp_path / "b", "--state", tmp_path / "state-b")[0] == 0
    # Both have versions now, and are told apart by their ids.
    _, _, err = cli("ship", trainer.run, tmp_path / "b")
    assert f"was kept for {tmp_path / 'a'}" in err


def test_a_store_spelled_otherwise_and_not_mounted(
    trainer: Trainer, tmp_path: Path, cli: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli("ship", "run", "store")[0] == 0
    (tmp_path / "store").rename(tmp_path / "elsewhere")
    code, _, err = cli("ship", "run", tmp_path / "store")
    assert code == 13
    assert "is it mounted" in err


def test_what_was_noted_is_noted_once(trainer: Trainer, tmp_path: Path, cli: Run) -> None:
    command = ("ship", trainer.run, tmp_path / "store")
    assert cli(*command)[0] == 0
    for file in default_state(trainer.run).glob("kept/*/run/config.json"):
        file.unlink()  # it may be the source's
        file.write_text("changed")
    assert "kept checkpoint was modified" in cli(*command)[2]
    assert cli(*command)[2] == ""
    trainer.save_steps(3)
    assert "anchor" in cli(*command)[1]


def test_a_version_that_was_kept_costs_nothing(trainer: Trainer, tmp_path: Path, cli: Run) -> None:
    store, dest = tmp_path / "store", tmp_path / "dest"
    cli("ship", trainer.run, store)
    cli("pull", store, dest, "--version", "1")
    cli("pull", store, dest)
    code, out, _ = cli("pull", store, dest, "--version", "1")
    assert code == 0
    assert "from a version that was kept, 0 B fetched for" in out
    assert "x)" not in out


def test_lines_of_prune(trainer: Trainer, tmp_path: Path, cli: Run) -> None:
    store = tmp_path / "store"
    cli("ship", trainer.run, store, "--anchor-every", "1")
    prune = ("prune", store, "--keep", "1")
    _, out, _ = cli(*prune, "--dry-run")
    assert out.startswith("would drop 1 version (2 objects, ")
    _, out, _ = cli(*prune)
    assert out.startswith("dropped 1 version (2 objects, ")
    assert out.endswith("a run in 1 h 0 min or later deletes them); 1 version kept, step_000002\n")
    _, out, _ = cli(*prune, "--grace", "0")
    assert out.startswith("nothing to drop; deleted 2 objects (")


def test_trainer_deletes_what_is_being_read(
    trainer: Trainer, tmp_path: Path, cli: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kept checkpoint may be a hard link, whose ctime changes when the other name goes."""

    def late(base: Path, target: Path, output: Path, **options: Any) -> MakeResult:
        def delete(done: int, total: int) -> None:
            shutil.rmtree(trainer.run / "step_000001", ignore_errors=True)

        return make_patch(base, target, output, **(options | {"progress": delete}))

    monkeypatch.setattr(snapshot, "clone", lambda *_: False)  # as where blocks cannot be shared
    monkeypatch.setattr("sparsediff.shipping.ship.make_patch", late)
    code, out, err = cli("ship", trainer.run, tmp_path / "store")
    assert (code, err) == (0, "")
    assert out.startswith("shipped 2 versions")
    assert not (trainer.run / "step_000001").exists()


def test_watching_repeats_no_line(trainer: Trainer, tmp_path: Path) -> None:
    command = ship_command(trainer, tmp_path)
    with subprocess.Popen([*command, "--watch", "0.1"], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        assert run.stdout.readline().startswith("shipped 2 versions")
        assert run.stdout.readline().startswith("nothing new to ship")
        time.sleep(0.5)  # and some more of these
        trainer.save_steps(3)
        line = run.stdout.readline()
        if "still being written" in line:  # it was looked at that very moment
            line = run.stdout.readline()
        assert line.startswith("shipped step_000003")
        run.send_signal(signal.SIGTERM)
    assert run.returncode == 130


def test_another_run_is_told_of_on_a_terminal(trainer: Trainer, tmp_path: Path) -> None:
    from sparsediff.disk.locks import locked

    home = default_state(trainer.run)
    home.mkdir()
    command = ship_command(trainer, tmp_path)
    ours, theirs = pty.openpty()
    with locked(home / "lock", os.O_RDWR | os.O_CREAT):
        assert subprocess.run(command, stderr=theirs).returncode == 14
        assert "another run" in os.read(ours, 100_000).decode()
        silent = subprocess.run(command, stderr=subprocess.PIPE)
    assert (silent.returncode, silent.stderr) == (14, b"")
    os.close(ours)
    os.close(theirs)


def test_what_is_said_stands_on_lines_of_its_own(trainer: Trainer, tmp_path: Path) -> None:
    """Above, below, but not behind the progress bar."""
    subprocess.run(ship_command(trainer, tmp_path), check=True, stdout=subprocess.DEVNULL)
    command = [sys.executable, "-m", "sparsediff", "pull", "store", "dest", "--exec", "echo told"]
    ours, theirs = pty.openpty()
    assert subprocess.run(command, cwd=tmp_path, stdout=theirs, stderr=theirs).returncode == 0
    os.close(theirs)
    shown = ""
    with suppress(OSError):  # when all has been read
        while True:  # a terminal gives what was written piece by piece
            shown += os.read(ours, 100_000).decode()
    os.close(ours)
    before, told, after = shown.partition("told\r\n")
    assert told
    assert before.endswith("\x1b[2K")  # the line was erased
    assert "dest: now step_000002" in after
