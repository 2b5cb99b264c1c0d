"""What a cron job or a service manager sees of ship and pull, run as processes."""

from __future__ import annotations

import json
import os
import signal
import stat
import time
from functools import partial
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from sparsediff.disk.names import is_temp
from sparsediff.stores import open_store
from tests.support.pairs import RNG, tree, write_safetensors
from tests.support.processes import finish, running, sparsediff, start, use, wait_until
from tests.support.runs import Trainer, catalog_of, settle
from tests.support.seaweed import Seaweed, free_ports


@pytest.fixture(params=["directory", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Of an empty store."""
    if request.param == "directory":
        return str(tmp_path / "store")
    return use(request.getfixturevalue("seaweed"), monkeypatch)


@pytest.fixture
def trainer(tmp_path: Path) -> Trainer:
    return Trainer(tmp_path / "run", n=3000)


def big_run(path: Path, n_bytes: int, n: int = 1) -> Path:
    """Checkpoints that do not compress and hardly differ; leaves those that are there alone."""
    for i in range(1, n + 1):
        step = path / f"step_{i}"
        if not step.exists():
            data = RNG(0).bytes(n_bytes - 16) + RNG(i).bytes(16)
            write_safetensors(step / "m.safetensors", {"w": ("U8", (n_bytes,), data)})
            settle(step)
    return path


def temps(path: Path) -> list[Path]:
    return [p for p in path.rglob("*") if is_temp(p.name) and p.name != ".lock.sparsediff-tmp"]


def test_second_run_ends_at_once_without_a_word(url: str, tmp_path: Path) -> None:
    run, dest = big_run(tmp_path / "run", 3_000_000), tmp_path / "dest"
    ship, pull = ("ship", run, url), ("pull", url, dest)
    metrics = ("--metrics-file", tmp_path / "metrics.prom")
    for command, lock in (
        (ship, tmp_path / ".run.sparsediff-ship/lock"),
        (pull, dest / ".sparsediff/fetched"),
    ):
        first = start(*command, "--bwlimit", "100kB/s")  # half a minute
        wait_until(lock.exists, "first run")
        time.sleep(0.1)
        for more in ((), ("--log-json",), metrics):
            assert sparsediff(*command, *more) == (14, "", "")
        assert first.poll() is None, "the second was not at once"
        first.terminate()
        assert finish(first)[0] == 130
        assert sparsediff(*command)[0] == 0
    assert not (tmp_path / "metrics.prom").exists()


def test_every_line_is_json(
    url: str, trainer: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lines(text: str) -> list[dict[str, object]]:
        said = [json.loads(line) for line in text.splitlines()]
        for line in said:
            assert {"time", "command", "event", "text", "store"} <= set(line)
        return said

    dest = tmp_path / "dest"
    ship = ("ship", trainer.run, url, "--log-json")
    pull = ("pull", url, dest, "--log-json")
    code, out, err = sparsediff(*ship)
    assert (code, out) == (13, "")
    assert [(e["event"], e["exit_code"]) for e in lines(err)] == [("error", 13)]
    paths = trainer.save_steps(1, 2)
    code, out, err = sparsediff(*ship)
    assert (code, err) == (0, "")
    (done,) = lines(out)
    assert [v["name"] for v in done["shipped"]] == ["step_000001", "step_000002"]  # type: ignore[attr-defined]
    assert sparsediff(*pull, "--version", "1", "--keep", 1)[::2] == (0, "")
    shard = next((dest / "versions/step_000001").glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-2] + b"xx")
    code, out, err = sparsediff(*pull)
    assert code == 0
    assert [e["event"] for e in lines(err)] == ["note"]
    (done,) = lines(out)
    assert (done["version"], done["switched"], done["previous"]) == (2, True, 1)
    assert tree(dest / "current") == tree(paths[1])
    code, out, err = sparsediff("pull", url, dest, "--log-json", "--version", "nine")
    assert (code, out) == (2, "")
    assert [(e["event"], e["exit_code"]) for e in lines(err)] == [("error", 2)]


def metrics_of(path: Path) -> dict[str, float]:
    """Values by name; asserts that it is what Prometheus reads."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(path.read_text()):
        assert family.documentation
        for sample in family.samples:
            assert sample.name not in found or "reason" in sample.labels
            found[sample.name] = found.get(sample.name, 0.0) + sample.value
    return found


def test_metrics_over_runs(url: str, trainer: Trainer, tmp_path: Path) -> None:
    files = {verb: tmp_path / f"metrics/{verb}.prom" for verb in ("ship", "pull")}
    files["ship"].parent.mkdir()
    dest = tmp_path / "dest"
    commands = {"ship": ("ship", trainer.run, url), "pull": ("pull", url, dest)}
    sent = fetched = 0.0
    for i in range(1, 4):
        trainer.save_steps(i)
        for verb, command in commands.items():
            before = files[verb].stat().st_ino if i > 1 else 0
            code, out, err = sparsediff(*command, "--log-json", "--metrics-file", files[verb])
            assert code == 0, err
            assert files[verb].stat().st_ino != before, "written in place"
            done = json.loads(out)
            if verb == "ship":
                sent += sum(v["sent_bytes"] for v in done["shipped"])
            else:
                fetched += done["fetched_bytes"]
        ship, pull = (metrics_of(files[verb]) for verb in ("ship", "pull"))
        for name, found, moved in (("ship", ship, sent), ("pull", pull, fetched)):
            assert found[f"sparsediff_{name}_versions_total"] == i
            assert found[f"sparsediff_{name}_moved_bytes_total"] == moved
            assert found[f"sparsediff_{name}_version"] == i
            assert found[f"sparsediff_{name}_lag_versions"] == 0
            assert found[f"sparsediff_{name}_exit_code"] == 0
    assert sorted(p.name for p in files["ship"].parent.iterdir()) == ["pull.prom", "ship.prom"]
    assert stat.S_IMODE(files["ship"].stat().st_mode) & 0o044, "the node exporter reads it"


def test_metrics_of_a_failed_run(
    seaweed: Seaweed, trainer: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = use(seaweed, monkeypatch)
    dest, file = tmp_path / "dest", tmp_path / "metrics.prom"
    trainer.save_steps(1)
    assert sparsediff("ship", trainer.run, url)[0] == 0
    pull = ("pull", url, dest, "--metrics-file", file, "--retries", 0)
    assert sparsediff(*pull)[0] == 0
    before = metrics_of(file)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_ports(1)[0]}")
    assert sparsediff(*pull)[0] == 13
    after = metrics_of(file)
    assert after["sparsediff_pull_exit_code"] == 13
    changed = {k for k in after if after[k] != before[k]}
    assert changed == {"sparsediff_pull_exit_code", "sparsediff_pull_last_run_timestamp_seconds"}
    assert set(after) == set(before)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_run_that_is_told_to_end(how: signal.Signals, url: str, tmp_path: Path) -> None:
    """At once, however much several threads still have to move, and nothing is left of it."""
    run, dest = big_run(tmp_path / "run", 9_000_000), tmp_path / "dest"
    ship, pull = ("ship", run, url, "--anchor-every", 1), ("pull", url, dest)
    assert sparsediff(*ship)[0] == 0
    big_run(run, 9_000_000, 2)  # to be sent: a small patch and a large anchor
    state = tmp_path / ".run.sparsediff-ship/state.json"
    for command, has_begun in (
        (ship, lambda: json.loads(state.read_text())["pending"]),
        (pull, lambda: list((dest / ".sparsediff/fetched").glob("*.part"))),
    ):
        process = start(*command, "--bwlimit", "300kB/s")
        wait_until(has_begun, "first bytes")
        time.sleep(0.3)
        process.send_signal(how)
        told = time.monotonic()
        code, out, err = finish(process)
        assert (code, out, err) == (130, "", "sparsediff: interrupted\n")
        assert time.monotonic() - told < 10, "to move all of it takes half a minute"
        assert temps(tmp_path) == []
        assert sparsediff(*command)[0] == 0
    assert tree(dest / "current") == tree(run / "step_2")
    store = open_store(url)
    assert {o.key for o in store.list("")} == catalog_of(store).keys() | {"latest.json"}
    assert temps(tmp_path) == []
    assert sorted(p.name for p in (dest / ".sparsediff").rglob("*")) == [
        "empty", "fetched", "lock", "state.json"
    ]  # fmt: skip


def said_twice(log: Path, text: str) -> bool:
    return log.read_text().count(text) > 1


def test_watch_survives_an_outage(
    seaweed: Seaweed, trainer: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, dest = use(seaweed, monkeypatch), tmp_path / "dest"
    logs = {verb: tmp_path / f"{verb}.log" for verb in ("ship", "pull")}
    trainer.save_steps(1)
    often = ("--watch", 0.2, "--retries", 0, "-q")
    with (
        running("ship", trainer.run, url, *often, log=logs["ship"]),
        running("pull", url, dest, *often, log=logs["pull"]),
    ):
        wait_until((dest / "current").exists, "first version")
        seaweed.kill()
        (path,) = trainer.save_steps(2)
        for log in logs.values():
            wait_until(partial(said_twice, log, "unavailable"), f"errors in {log.name}")
        seaweed.restart()
        wait_until(lambda: os.readlink(dest / "current").endswith(path.name), "second version")
        assert tree(dest / "current") == tree(path)
    for log in logs.values():
        *lines, last = log.read_text().splitlines()
        assert last == "sparsediff: interrupted"
        assert all(x.startswith(("sparsediff: " + url, "sparsediff: s3:")) for x in lines)


def test_bwlimit_holds(url: str, tmp_path: Path) -> None:
    run = big_run(tmp_path / "run", 3_000_000)
    for command in (("ship", run, url), ("pull", url, tmp_path / "dest")):
        started = time.monotonic()
        assert sparsediff(*command, "--bwlimit", "2MB/s")[0] == 0
        assert 1.3 < time.monotonic() - started < 10


def test_limit_is_shared_by_all_streams(url: str, tmp_path: Path) -> None:
    run = big_run(tmp_path / "run", 1_000_000, 3)
    assert sparsediff("ship", run, url, "--anchor-every", 1)[0] == 0
    versions = catalog_of(open_store(url)).versions
    n_bytes = sum(p.n_bytes for v in versions for p in v.patches)
    assert n_bytes > 3_000_000
    started = time.monotonic()
    assert sparsediff("check", url, "--bwlimit", "2MB/s", "--streams", 8)[0] == 0
    assert time.monotonic() - started > n_bytes / 2e6 - 0.3
