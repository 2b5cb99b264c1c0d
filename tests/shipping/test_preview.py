"""--dry-run says what a run would do, does nothing, and the run then does that."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from sparsediff.shipping.policy import Policy
from sparsediff.shipping.preview import preview
from sparsediff.shipping.ship import ship
from sparsediff.shipping.state import default_state
from sparsediff.stores import Store
from tests.conftest import Run
from tests.support.runs import Trainer


def everything(path: Path) -> dict[str, tuple[int, int]]:
    """Size and ctime of all there is."""
    found = {p: os.lstat(p) for p in path.rglob("*")}
    return {str(p): (s.st_size, s.st_ctime_ns) for p, s in found.items()}


@pytest.mark.parametrize(
    "policy",
    [Policy(), Policy(anchor_every=2), Policy(newest=True)],
    ids=["weight", "count", "new"],
)
@pytest.mark.parametrize("lost", [False, True])
def test_ship_does_what_was_said(
    policy: Policy, lost: bool, trainer: Trainer, store: Store, tmp_path: Path
) -> None:
    for numbers in ((1, 2), (3, 4, 5)):
        trainer.save_steps(*numbers)
        if lost:
            shutil.rmtree(default_state(trainer.run), ignore_errors=True)
        before = everything(tmp_path)
        said = preview(trainer.run, store, policy).planned
        assert everything(tmp_path) == before
        done = ship(trainer.run, store, policy).shipped
        kinds = ["anchor" if s.version.step is None else "patch" for s in done]
        if policy.anchor_every is not None:
            kinds = ["anchor" if s.version.anchor is not None else "patch" for s in done]
        assert [(p.name, p.kind) for p in said] == list(
            zip([s.version.name for s in done], kinds, strict=True)
        )
        assert [p.n_bytes for p in said] == [s.version.n_bytes for s in done]


def test_what_is_said_of_a_run(trainer: Trainer, tmp_path: Path, cli: Run) -> None:
    first, second = trainer.save_steps(1, 2)
    store = tmp_path / "store"
    command = ("ship", trainer.run, store, "--dry-run")
    shutil.move(second, tmp_path / second.name)
    code, out, err = cli(*command)
    assert (code, err) == (0, "")
    assert out.startswith("would ship step_000001: ")
    assert out.endswith(", as an anchor\n")
    assert sorted(os.listdir(tmp_path)) == ["run", second.name], "nothing is made"
    assert cli("ship", trainer.run, store)[0] == 0
    shutil.move(tmp_path / second.name, second)
    next(second.glob("*.safetensors")).unlink()
    code, out, _ = cli(*command, "--stalled-after", "0s")
    assert code == 0
    assert "step_000002 has waited for " in out
    assert ", which is too long: shards of" in out
    assert "nothing new to ship, the store is at step_000001" in out
    (first / "config.json").write_text("{}")
    _, out, _ = cli(*command)
    assert "would ship step_000001, if it differs from what was shipped: " in out
    document = json.loads(cli(*command, "--json")[1])
    assert [p["is_again"] for p in document["would_ship"]] == [True]
    assert [w["reason"] for w in document["waiting"]] == ["incomplete"]


def test_what_ship_would_refuse_is_refused(trainer: Trainer, tmp_path: Path, cli: Run) -> None:
    trainer.save_steps(1)
    store, other = tmp_path / "store", tmp_path / "other"
    cli("ship", trainer.run, store)
    shutil.copytree(trainer.run, other)
    code, _, err = cli("ship", other, store, "--dry-run")
    assert code == 2
    assert "holds the checkpoints of another run" in err
    assert cli("ship", other, store, "--dry-run", "--adopt")[0] == 0
    (store / "latest.json").unlink()
    shutil.rmtree(store / "versions")
    code, _, err = cli("ship", trainer.run, store, "--dry-run")
    assert code == 13
    assert "is it mounted" in err
    for options in (("--watch", "1"), ("--on-error", "true"), ("--metrics-file", "m")):
        assert cli("ship", trainer.run, store, "--dry-run", *options)[0] == 2
    assert cli("ship", trainer.run, store, "--json")[0] == 2


@pytest.mark.parametrize("options", [(), ("--in-place",)])
def test_pull_does_what_was_said(
    options: tuple[str, ...], trainer: Trainer, tmp_path: Path, cli: Run
) -> None:
    store, dest = tmp_path / "store", tmp_path / "dest"
    trainer.save_steps(1, 2, 3)
    cli("ship", trainer.run, store)
    command = ("pull", store, dest, *options)
    for version in ("1", "3", "3"):
        before = everything(tmp_path)
        said = json.loads(cli(*command, "--version", version, "--dry-run", "--json")[1])
        assert everything(tmp_path) == before
        done = json.loads(cli(*command, "--version", version, "--log-json")[1])
        for name in ("version", "name", "fetched_bytes", "target_bytes"):
            assert said[name] == done[name]
        assert said["current"] == done["previous"]
        assert said["switches"] == done["switched"]
        assert len(said["patches"]) == done["n_patches"]


def test_what_is_said_of_a_pull(trainer: Trainer, tmp_path: Path, cli: Run) -> None:
    store, dest = tmp_path / "store", tmp_path / "dest"
    trainer.save_steps(1, 2)
    cli("ship", trainer.run, store)
    command = ("pull", store, dest, "--dry-run", "--exec", "reload")
    code, out, _ = cli(*command)
    assert code == 0
    assert f"{dest}: would go to step_000002, from 1 anchor and 1 patch, " in out
    assert out.endswith("would run reload\n")
    assert not dest.exists()
    cli("pull", store, dest, "--version", "1")
    assert "step_000002, now at step_000001, from 1 patch, " in cli(*command)[1]
    assert cli(*command, "--version", "1")[1].startswith("nothing new to pull, ")
    code, _, err = cli(*command, "--version", "9")
    assert code == 2
    assert "has no version '9'" in err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").touch()
    assert cli("pull", store, tmp_path / "mine", "--dry-run")[0] == 2
