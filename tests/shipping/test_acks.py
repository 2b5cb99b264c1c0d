"""A fleet says in the store what it holds, and a shipper can wait for the slowest."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from sparsediff import Follower, Policy, UsageError, pull, ship
from sparsediff.shipping import acks
from sparsediff.shipping.acks import Acknowledger, read_acks
from sparsediff.shipping.check import check
from sparsediff.shipping.prune import prune
from sparsediff.shipping.state import load_seen
from sparsediff.shipping.status import fleet
from sparsediff.stores import Store, open_store
from tests.conftest import Run
from tests.stores.test_both_kinds import url as url
from tests.support.refusals import refused
from tests.support.runs import Trainer, catalog_of

HOSTILE = [
    b"",
    b"[]",
    b"{",
    b"[" * 3000,
    b"{}" + b" " * 5000,
    b'{"format": "sparsediff-ack"}',
    b'{"format": "other", "id": "00112233445566778899aabbccddeeff", "version": 1, "name": "a"}',
    b'{"format": "sparsediff-ack", "id": "x", "version": 1, "name": "a"}',
    b'{"format": "sparsediff-ack", "id": "00112233445566778899aabbccddeeff", "version": -1,'
    b' "name": "a"}',
    b'{"format": "sparsediff-ack", "id": "00112233445566778899aabbccddeeff", "version": 1,'
    b' "name": "../a"}',
]


def held(store: Store) -> dict[str, int]:
    return {ack.machine: ack.version for ack in read_acks(store)}


def test_what_is_held_is_said_in_every_kind_of_store(
    url: str, trainer: Trainer, tmp_path: Path, cli: Run
) -> None:
    store = open_store(url, retries=0)
    trainer.save_steps(1, 2)
    ship(trainer.run, store)
    before = [s.key for s in store.list("")]
    assert cli("pull", url, tmp_path / "a", "--ack", "node-7")[0] == 0
    assert cli("pull", url, tmp_path / "b", "--ack", "node_8.x", "--version", "1")[0] == 0
    assert cli("pull", url, tmp_path / "c")[0] == 0
    assert held(store) == {"node-7": 2, "node_8.x": 1}
    assert cli("pull", url, tmp_path / "b", "--ack", "node_8.x")[0] == 0
    assert held(store) == {"node-7": 2, "node_8.x": 2}
    added = {s.key for s in store.list("")} - set(before)
    assert added == {"acks/node-7.json", "acks/node_8.x.json"}
    # A reader that knows nothing of them, and whoever cleans up, does not mind.
    found = check(store, now=time.time() + 1e6, repair=True)
    assert found.is_sound
    assert (found.orphans, found.removed) == ([], [])
    prune(store, now=time.time() + 1e6, grace=0.0)
    assert held(store) == {"node-7": 2, "node_8.x": 2}
    store.delete("acks/node-7.json")
    assert held(store) == {"node_8.x": 2}


def test_no_version_leaves_a_machine_too_far_behind(
    trainer: Trainer, tmp_path: Path, cli: Run
) -> None:
    place, metrics = tmp_path / "store", tmp_path / "m.prom"
    store = open_store(str(place), create=True)
    bounded = ("ship", trainer.run, place, "--hold-behind", 2, "--metrics-file", metrics)
    trainer.save_steps(1, 2)
    assert "shipped 2 versions" in cli(*bounded)[1], "nobody is there to wait for"
    for name in ("a", "b"):
        assert cli("pull", place, tmp_path / name, "--ack", name)[0] == 0
    trainer.save_steps(3)
    assert cli(*bounded)[0] == 0
    assert cli("pull", place, tmp_path / "a", "--ack", "a")[0] == 0
    trainer.save_steps(4, 5)
    code, out, _ = cli(*bounded[:-2], "--dry-run")
    assert code == 0
    assert "would ship step_000004: " in out
    assert "step_000005 has waited for " in out
    assert out.count("machine b is 1 version behind (--hold-behind)") == 1
    code, out, err = cli(*bounded)
    assert (code, err) == (0, "")
    assert "shipped step_000004" in out
    assert "step_000005 waits: machine b is 2 versions behind (--hold-behind)" in out
    assert catalog_of(store).latest.version == 4
    reasons = {
        sample.labels["reason"]: sample.value
        for family in text_string_to_metric_families(metrics.read_text())
        for sample in family.samples
        if sample.name == "sparsediff_ship_waiting_checkpoints"
    }
    assert (reasons["held"], reasons["ready"]) == (1, 0)
    (waiting,) = load_seen(tmp_path / ".run.sparsediff-ship").waiting
    assert (waiting.name, waiting.reason) == ("step_000005", "held")
    code, out, err = cli(*bounded, "--stalled-after", "1s")
    assert code == 13
    assert "step_000005 has waited for" in err
    assert "machine b is 2 versions behind" in err
    assert cli(*bounded, "--ack-max-age", "1h")[0] == 0
    assert catalog_of(store).latest.version == 4
    assert cli("pull", place, tmp_path / "b", "--ack", "b")[0] == 0
    assert "shipped step_000005" in cli(*bounded)[1]


@pytest.mark.parametrize("how", ["too old", "deleted", "not asked"])
def test_a_machine_that_is_gone_can_be_left_out(
    how: str, store: Store, trainer: Trainer, tmp_path: Path
) -> None:
    trainer.save_steps(1)
    ship(trainer.run, store)
    (version,) = catalog_of(store).versions
    Acknowledger("gone").tell(store, catalog_of(store).id, version)
    policy = Policy(hold_behind=1)
    trainer.save_steps(2, 3)
    result = ship(trainer.run, store, policy)
    assert [s.version.version for s in result.shipped] == [2]
    assert result.held is not None
    assert [w.reason for w in result.waiting] == ["held"]
    file = tmp_path / "store/acks/gone.json"
    os.utime(file, (time.time() - 600,) * 2)
    if how == "too old":
        assert ship(trainer.run, store, Policy(hold_behind=1, ack_max_age=3600)).held is not None
        policy = Policy(hold_behind=1, ack_max_age=60)
    elif how == "deleted":
        file.unlink()
    else:
        policy = Policy()
    assert [s.version.version for s in ship(trainer.run, store, policy).shipped] == [3]


@pytest.mark.parametrize("data", HOSTILE)
def test_what_cannot_be_read_holds_nothing(
    data: bytes, store: Store, trainer: Trainer, tmp_path: Path, cli: Run
) -> None:
    trainer.save_steps(1)
    ship(trainer.run, store)
    place = tmp_path / "store/acks"
    (place / "deeper").mkdir(parents=True)
    (place / "bad.json").write_bytes(data)
    for stranger in ("x.txt", "-a.json", "a b.json", "deeper/a.json"):  # nobody's
        (place / stranger).write_bytes(data)
    os.symlink(place / "bad.json", place / "link.json")
    (ack,) = read_acks(store)
    assert (ack.machine, ack.version) == ("bad", 0)
    assert ack.problem is not None
    assert ack.problem.startswith("acks/bad.json is damaged, expected ")
    trainer.save_steps(2)
    result = ship(trainer.run, store, Policy(hold_behind=1))
    assert result.held is not None
    assert result.held.startswith("what machine bad holds cannot be read")
    code, out, _ = cli("status", tmp_path / "store")
    assert code == 0
    assert "bad: acks/bad.json is damaged" in out


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "-a", ".a", "a\n", "ä", "x" * 101])
def test_names_that_are_none(name: str, tmp_path: Path, cli: Run) -> None:
    (tmp_path / "store").mkdir()
    result = cli("pull", tmp_path / "store", tmp_path / "dest", "--ack", name)
    refused(result, 2, "not a name for a machine in --ack")
    with pytest.raises(UsageError, match="machine"):
        Follower(open_store(str(tmp_path / "store")), tmp_path / "dest", ack=name)


def test_status_shows_the_fleet(trainer: Trainer, tmp_path: Path, cli: Run) -> None:
    place = tmp_path / "store"
    trainer.save_steps(1, 2)
    assert cli("ship", trainer.run, place)[0] == 0
    assert cli("pull", place, tmp_path / "a", "--ack", "fast")[0] == 0
    assert cli("pull", place, tmp_path / "b", "--ack", "slow", "--version", 1)[0] == 0
    store = open_store(str(place))
    slow, fast = fleet(store, catalog_of(store))
    assert (slow.place, slow.name, slow.version, slow.behind) == ("slow", "step_000001", 1, 1)
    assert (fast.place, fast.behind, fast.behind_since) == ("fast", 0, None)
    assert slow.behind_since == catalog_of(store).latest.shipped
    assert slow.looked == (place / "acks/slow.json").stat().st_mtime
    documents = json.loads(cli("status", place, "--json")[1])
    assert [(d["kind"], d["place"]) for d in documents[1:]] == [
        ("machine", "slow"),
        ("machine", "fast"),
    ]
    out = cli("status", place)[1]
    rows = out.partition("\n\n")[2].splitlines()
    assert rows[0].split() == ["machine", "store", "version", "age", "behind", "heard", "of"]
    assert [row.split()[0] for row in rows[2:]] == ["slow", "fast"]


def test_a_machine_of_another_history_holds_nothing(
    store: Store, trainer: Trainer, tmp_path: Path
) -> None:
    trainer.save_steps(1, 2)
    ship(trainer.run, store)
    catalog = catalog_of(store)
    Acknowledger("a").tell(store, "0" * 32, catalog.latest)
    (ack,) = read_acks(store)
    assert ack.behind(catalog) == 2
    assert fleet(store, catalog)[0].shipped is None


def test_a_follower_acknowledges_what_the_caller_has_done_with(
    store: Store, trainer: Trainer, tmp_path: Path
) -> None:
    trainer.save_steps(1)
    ship(trainer.run, store)
    follower = Follower(store, tmp_path / "models", ack="engine")
    assert follower.poll() is not None
    assert held(store) == {}, "the caller may still be loading it"
    assert follower.poll() is None
    assert held(store) == {"engine": 1}
    trainer.save_steps(2)
    ship(trainer.run, store)
    assert follower.poll() is not None
    assert held(store) == {"engine": 1}
    follower.holding("step_000001")  # the new one could not be used
    assert follower.poll() is not None
    assert held(store) == {"engine": 1}
    assert follower.poll() is None
    assert held(store) == {"engine": 2}


def test_the_same_is_said_again_twice_a_minute(
    store: Store, trainer: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer.save_steps(1)
    ship(trainer.run, store)
    catalog, machine = catalog_of(store), Acknowledger("a")
    file = tmp_path / "store/acks/a.json"
    machine.tell(store, catalog.id, catalog.latest)
    file.unlink()
    machine.tell(store, catalog.id, catalog.latest)
    assert not file.exists()
    monkeypatch.setattr(acks, "_REFRESH", 0.0)
    machine.tell(store, catalog.id, catalog.latest)
    assert file.exists()


def test_what_was_pulled_stays_where_it_cannot_be_said(
    trainer: Trainer, tmp_path: Path, cli: Run
) -> None:
    place = tmp_path / "store"
    trainer.save_steps(1)
    assert cli("ship", trainer.run, place)[0] == 0
    (place / "acks").write_text("in the way")
    code, out, err = cli("pull", place, tmp_path / "dest", "--ack", "a")
    assert code == 2
    assert "now step_000001" in out
    assert f"{place}/acks/a.json: not a directory" in err
    failing = ("pull", place, tmp_path / "other", "--ack", "b", "--exec", "exit 1")
    (place / "acks").unlink()
    assert cli(*failing)[0] == 13
    assert held(open_store(str(place))) == {}, "its command has not succeeded"


def test_a_follower_of_a_store_that_was_begun_anew_begins_anew(
    trainer: Trainer, tmp_path: Path
) -> None:
    models = tmp_path / "models"
    first, second = (open_store(str(tmp_path / n), create=True) for n in ("first", "second"))
    trainer.save_steps(1)
    ship(trainer.run, first)
    link = tmp_path / "store"
    link.symlink_to(tmp_path / "first")
    store = open_store(str(link))
    follower = Follower(store, models)
    assert follower.poll() is not None
    other = Trainer(tmp_path / "again", seed=1)
    other.save_steps(1)
    ship(other.run, second, Policy(rewind=True))
    link.unlink()
    link.symlink_to(tmp_path / "second")
    arrival = follower.poll()
    assert arrival is not None
    assert (arrival.version.version, arrival.previous, arrival.base) == (1, None, None)
    pull(store, models)
    assert follower.poll() is None
