"""Commands of the operator's own: after a switch, after an error, and never for ever."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from sparsediff.cli.commands import run_command
from sparsediff.cli.service import Outcome, Service
from sparsediff.errors import UnavailableError
from tests.conftest import Run
from tests.support.processes import finish, start, wait_until
from tests.support.runs import Trainer


@pytest.fixture
def trainer(tmp_path: Path) -> Trainer:
    return Trainer(tmp_path / "run", n=300)


def test_a_command_that_hangs_is_stopped_with_all_it_started(
    trainer: Trainer, tmp_path: Path, cli: Run
) -> None:
    trainer.save_steps(1)
    store, dest, started = tmp_path / "store", tmp_path / "dest", tmp_path / "pid"
    assert cli("ship", trainer.run, store)[0] == 0
    hang = f"sleep 1000 & echo $! > {started}; wait"
    before = time.monotonic()
    code, _, err = cli("pull", store, dest, "--exec", hang, "--exec-timeout", "0.2s")
    assert time.monotonic() - before < 60
    assert code == 13
    assert "now step_000001, but the command did not end within 200 ms and was stopped" in err
    assert "the next run runs it again" in err
    child = Path(f"/proc/{started.read_text().strip()}/stat")
    wait_until(lambda: not child.exists() or child.read_text().split()[2] == "Z", "its end")
    assert cli("pull", store, dest, "--exec", "true")[0] == 0


def test_a_command_that_will_not_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparsediff.cli.commands._GRACE", 0.1)
    with pytest.raises(UnavailableError, match="was stopped"):
        run_command("trap '' TERM; while :; do sleep 0.1; done", {}, 0.1)


def test_an_error_is_told_to_a_command(trainer: Trainer, tmp_path: Path, cli: Run) -> None:
    told = tmp_path / "told"
    tell = f'echo "$SPARSEDIFF_COMMAND $SPARSEDIFF_EXIT_CODE $SPARSEDIFF_ERROR" >> {told}'
    store = tmp_path / "store"
    code, _, err = cli("pull", store, tmp_path / "dest", "--on-error", tell, "-q")
    assert code == 2
    assert f"sparsediff: {told.read_text().removeprefix('pull 2 ')}" == err
    trainer.save_steps(1)
    assert cli("ship", trainer.run, store, "--on-error", tell)[0] == 0
    assert len(told.read_text().splitlines()) == 1
    code, _, err = cli("pull", tmp_path / "none", tmp_path / "dest", "--on-error", "exit 3")
    assert code == 2
    assert "sparsediff: note: exit 3: the command failed" in err
    assert "(--on-error)" in err


def test_an_outage_is_told_once_while_watching(tmp_path: Path) -> None:
    told, store = tmp_path / "told", tmp_path / "store"
    store.mkdir()
    tell = f"echo x >> {told}"
    process = start(
        "pull", store, tmp_path / "dest", "--watch", "0.1", "--on-error", tell, "--log-json"
    )
    try:
        wait_until(told.exists, "the command")
        time.sleep(1)  # runs go by, of which nothing else tells
        assert told.read_text() == "x\n"
    finally:
        process.terminate()
        finish(process)


def test_a_defect_is_told_too(
    trainer: Trainer, tmp_path: Path, cli: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("one\ntwo")

    told = tmp_path / "told"
    tell = f'echo "$SPARSEDIFF_EXIT_CODE $SPARSEDIFF_ERROR" > {told}'
    monkeypatch.setattr("sparsediff.shipping.ship.ship", broken)
    trainer.save_steps(1)
    with pytest.raises(RuntimeError):
        cli("ship", trainer.run, tmp_path / "store", "--on-error", tell)
    assert told.read_text() == "1 RuntimeError: one\\x0atwo\n"


def test_what_waits_is_said_once_while_watching(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    told = tmp_path / "told"
    service = Service(
        "ship",
        quiet=True,
        log_json=False,
        metrics_file=None,
        on_error=f"echo x >> {told}",
        command_limit=60,
    )
    rounds = iter(["1 h", "1 h 1 min", "1 h 2 min", "", "1 h"])

    def once(outcome: Outcome) -> None:
        age = next(rounds)
        if age:
            outcome.error = UnavailableError(f"step_2 has waited for {age}")
            outcome.about = "step_2 incomplete"

    assert [service._run(once) for _ in range(5)] == [13, 13, 13, 0, 13]
    assert capfd.readouterr().err == "sparsediff: step_2 has waited for 1 h\n" * 2
    assert told.read_text() == "x\n" * 2
