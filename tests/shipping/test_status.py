"""status says where runs, stores and destinations are, and what waits and why."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from sparsediff.shipping.state import default_state
from tests.conftest import Run
from tests.shipping.test_preview import everything
from tests.support.runs import Trainer


@pytest.fixture
def place(trainer: Trainer, tmp_path: Path, cli: Run) -> Path:
    """A run with one checkpoint that waits, its store, and two destinations."""
    trainer.save_steps(1, 2, 3)
    shutil.move(trainer.run / "step_000003", tmp_path / "later")
    store = tmp_path / "store"
    assert cli("ship", trainer.run, store)[0] == 0
    assert cli("pull", store, tmp_path / "dest", "--exec", "exit 3")[0] == 13
    assert cli("pull", store, tmp_path / "in-place", "--in-place", "--version", "1")[0] == 0
    path = shutil.move(tmp_path / "later", trainer.run / "step_000003")
    next(Path(path).glob("*.safetensors")).unlink()
    assert cli("ship", trainer.run, store)[0] == 0
    return tmp_path


def documents(cli: Run, *args: object) -> list[dict[str, Any]]:
    code, out, err = cli("status", *args, "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert isinstance(found, list)
    return found


def test_all_of_them(place: Path, cli: Run) -> None:
    names = ("run", "store", "dest", "in-place")
    before = everything(place)
    run, store, dest, in_place = documents(cli, *(place / name for name in names))
    assert everything(place) == before
    assert [s["kind"] for s in (run, store, dest, in_place)] == [
        "run",
        "store",
        "destination",
        "destination",
    ]
    assert len({s["id"] for s in (run, store, dest, in_place)}) == 1
    assert [s["name"] for s in (run, store, dest)] == ["step_000002"] * 3
    assert (in_place["name"], in_place["version"], in_place["behind"]) == ("step_000001", 1, 1)
    assert in_place["behind_since"] == store["shipped"]
    assert (dest["behind"], dest["behind_since"]) == (0, None)
    assert dest["problems"] == ["the command after the switch has not succeeded yet"]
    assert in_place["problems"] == []
    (waiting,) = run["waiting"]
    assert (waiting["name"], waiting["reason"]) == ("step_000003", "incomplete")
    assert run["looked"] >= waiting["since"]
    assert run["newest"] > 0


def test_a_run_and_a_destination_without_their_store(place: Path, cli: Run) -> None:
    with_store = documents(cli, place / "run", place / "dest")
    assert with_store[1]["behind"] == 0, "its store is a directory, and is found"
    shutil.rmtree(place / "store")
    run, dest = documents(cli, place / "run", place / "dest")
    assert run == with_store[0]
    assert (dest["version"], dest["name"]) == (2, "step_000002")
    assert (dest["behind"], dest["shipped"]) == (None, None)
    out = cli("status", place / "dest")[1]
    assert f"for how far behind it is, give {place / 'store'} as well" in out


def test_what_people_read(place: Path, cli: Run) -> None:
    code, out, _ = cli("status", place / "run", place / "store", place / "in-place")
    assert code == 0
    head, _, *rows = out.splitlines()
    assert head.split() == ["where", "what", "version", "age", "behind", "waiting"]
    assert [row.split()[1:3] for row in rows[:3]] == [
        ["run", "step_000002"],
        ["store", "step_000002"],
        ["destination", "step_000001"],
    ]
    assert " 1 version, " in rows[2]
    assert f"ago, for {place / 'store'}; the newest checkpoint was written " in rows[3]
    assert "step_000003 has waited for " in rows[4]
    assert "shards of model*.safetensors are missing" in rows[4]


def test_one_that_cannot_be_looked_at_hides_no_other(place: Path, cli: Run) -> None:
    (place / "dest/.sparsediff/state.json").write_text("[")
    code, out, err = cli("status", place / "dest", place / "none", place / "run")
    assert code == 11
    assert "the record of earlier runs is damaged" in err
    assert "is no store, and neither ship nor pull remembers anything of it" in err
    assert "step_000003 has waited for " in out
    (place / "store/latest.json").unlink()
    code, _, err = cli("status", place / "store")
    assert code == 11
    assert "is missing, but not the objects" in err
    (default_state(place / "run") / "seen.json").write_text('{"waiting": [{"name": 3}]}')
    assert cli("status", place / "run")[0] == 11


def test_state_elsewhere(place: Path, trainer: Trainer, cli: Run) -> None:
    default_state(trainer.run).rename(place / "state")
    assert cli("status", trainer.run)[0] == 2
    assert documents(cli, trainer.run, "--state", place / "state")[0]["version"] == 2


def test_run_of_which_nothing_is_shipped_yet(tmp_path: Path, cli: Run) -> None:
    (tmp_path / "run" / "step_1").mkdir(parents=True)
    (tmp_path / "run" / "step_1" / "model.pt").touch()
    cli("ship", tmp_path / "run", tmp_path / "store")
    code, out, _ = cli("status", tmp_path / "run")
    assert code == 0
    assert "ship looked" in out
    assert "None" not in out
