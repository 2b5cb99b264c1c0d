"""Ship and pull on a real S3 server while things go wrong.

Servers and runs are killed, objects damaged, shippers race, and objects are pruned
under the pullers.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import obstore
import pytest
from obstore.store import S3Store

from sparsediff.disk.names import is_temp
from sparsediff.shipping.check import check
from sparsediff.shipping.policy import Policy
from sparsediff.shipping.pull import pull
from sparsediff.shipping.ship import ship
from sparsediff.stores import Store, open_store
from tests.conftest import Run
from tests.support.drill import Drill
from tests.support.kills import command_killed_at_each_point
from tests.support.pairs import RNG, tree, write_safetensors
from tests.support.processes import (
    Process,
    assert_one_line,
    finish,
    running,
    sparsediff,
    start,
    use,
    wait_until,
)
from tests.support.runs import Trainer, assert_sound, catalog_of, digest_of, has_arrived, settle
from tests.support.seaweed import Proxy, Seaweed, free_ports


@pytest.fixture
def url(seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch) -> str:
    """Of an empty store on the server."""
    return use(seaweed, monkeypatch)


@pytest.fixture
def store(url: str) -> Store:
    return open_store(url)


@pytest.fixture
def trainer(tmp_path: Path) -> Trainer:
    return Trainer(tmp_path / "run", n=3000)


@pytest.fixture
def proxy(seaweed: Seaweed) -> Iterator[Proxy]:
    with Proxy(seaweed.ports["s3"]) as proxy:
        yield proxy


@pytest.fixture
def big(tmp_path: Path) -> Path:
    """A run with a checkpoint that takes several requests to move."""
    path = tmp_path / "big/step_1"
    n = 13 << 20
    write_safetensors(path / "m.safetensors", {"w": ("U8", (n,), RNG(0).bytes(n))})
    settle(path)
    return path.parent


def through(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")


# The server


RETRIES = pytest.mark.parametrize("retries", [0, pytest.param(20, marks=pytest.mark.slow)])


def kill_and_restart(seaweed: Seaweed, process: Process, retries: int) -> None:
    """Asserts that the run goes on after it, or ends in one line if it may not retry."""
    seaweed.kill()
    if retries == 0:
        code, _, err = finish(process)
        assert code == 13
        assert_one_line(err)
    time.sleep(1)
    seaweed.restart()
    if retries:
        assert finish(process)[::2] == (0, "")


@RETRIES
def test_server_killed_during_an_upload(
    retries: int,
    seaweed: Seaweed,
    store: Store,
    url: str,
    proxy: Proxy,
    big: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    through(proxy, monkeypatch)
    process = start("ship", big, url, "--bwlimit", "8MB/s", "--retries", retries)
    wait_until(lambda: proxy.bytes_in > 6 << 20, "upload")
    kill_and_restart(seaweed, process, retries)
    if retries == 0:
        assert list(store.list("")) == []
        assert sparsediff("ship", big, url)[0] == 0
    assert_sound(store, {"step_1": tree(big / "step_1")}, tmp_path)
    assert {o.key for o in store.list("")} == catalog_of(store).keys() | {"latest.json"}


@pytest.mark.slow
@RETRIES
def test_server_killed_during_a_download(
    retries: int,
    seaweed: Seaweed,
    store: Store,
    url: str,
    proxy: Proxy,
    big: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ship(big, store)
    through(proxy, monkeypatch)
    dest = tmp_path / "dest"
    process = start("pull", url, dest, "--bwlimit", "8MB/s", "--retries", retries)
    wait_until(lambda: proxy.bytes_out > 1 << 20, "download")
    kill_and_restart(seaweed, process, retries)
    if retries == 0:
        assert not (dest / "current").exists()
        assert sparsediff("pull", url, dest)[0] == 0
    assert tree(dest / "current") == tree(big / "step_1")


@pytest.mark.slow
def test_answers_cut_short_again_and_again(
    seaweed: Seaweed,
    url: str,
    proxy: Proxy,
    big: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ship(big, open_store(url))
    through(proxy, monkeypatch)
    process = start("pull", url, tmp_path / "dest", "--bwlimit", "10MB/s", "--retries", 20)
    for n_bytes in range(100, 5 << 20, 1 << 18):
        while process.poll() is None and proxy.bytes_out < n_bytes:
            time.sleep(0.001)
        proxy.cut()
    assert finish(process)[::2] == (0, "")
    assert tree(tmp_path / "dest/current") == tree(big / "step_1")


@pytest.mark.parametrize("verb", ["ship", "pull", "check"])
def test_server_down(
    verb: str,
    url: str,
    trainer: Trainer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cli: Run,
) -> None:
    trainer.save_steps(1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_ports(1)[0]}")
    arguments = {"ship": (trainer.run, url), "pull": (url, tmp_path / "dest"), "check": (url,)}
    started = time.monotonic()
    code, out, err = cli(verb, *arguments[verb], "--retries", 0)
    assert time.monotonic() - started < 5
    assert (code, out) == (13, "")
    assert_one_line(err)
    assert not (tmp_path / "dest").exists()


# Objects


def bucket(url: str) -> S3Store:
    """The bucket below ``url``, to do harm to."""
    name, _, prefix = url.removeprefix("s3://").partition("/")
    config = {"endpoint": os.environ["AWS_ENDPOINT_URL"]}
    return S3Store(name, prefix=prefix, config=config, client_options={"allow_http": True})  # type: ignore[arg-type]


def damage(how: str, url: str, key: str) -> None:
    there = bucket(url)
    data = bytearray(obstore.get(there, key).bytes())
    if how == "missing":
        obstore.delete(there, key)
        return
    if how == "truncated":
        del data[len(data) // 2 :]
    elif how == "longer":
        data += b"\0"
    elif how == "empty":
        data.clear()
    else:
        data[len(data) // 2] ^= 1
    obstore.put(there, key, bytes(data))


HOWS = ["missing", "truncated", "longer", "empty", "flipped"]


@pytest.mark.parametrize("how", HOWS)
def test_damaged_objects(
    how: str, url: str, store: Store, trainer: Trainer, tmp_path: Path, cli: Run
) -> None:
    paths = trainer.save_steps(1, 2, 3, 4, 5)
    originals = {p.name: tree(p) for p in paths}
    ship(trainer.run, store, Policy(anchor_every=3, squash_every=2))
    latest = catalog_of(store).latest
    keys = {p.base: p.key for p in latest.patches}
    assert set(keys) == {3, 4}
    dest = tmp_path / "dest"
    pull(store, dest, version="step_000003")
    damage(how, url, keys[3])
    code, out, err = cli("pull", url, dest, "-q", "--version", "step_000004")
    assert (code, out, err) == (0, "", "")
    pull(store, tmp_path / "other", version="step_000003")
    code, _, err = cli("pull", url, tmp_path / "other", "-q")
    assert code == 0
    assert err.startswith(f"sparsediff: note: {url}/{keys[3]}: object ")
    assert err.endswith("; trying another way\n")
    assert err.count("\n") == 1
    assert tree(tmp_path / "other/current") == originals["step_000005"]
    damage(how, url, keys[4])
    code, _, err = cli("pull", url, dest)
    assert code == 11
    *notes, error = err.splitlines()
    assert all(n.startswith("sparsediff: note: ") for n in notes)
    assert error == (
        f"sparsediff: {url}: no intact way to version 5 (step_000005); "
        "sparsediff check STORE says what is damaged"
    )
    assert tree(dest / "current") == originals["step_000004"]
    code, _, err = cli("check", url)
    assert code == 11
    assert all(key in err for key in keys.values())
    (path,) = trainer.save_steps(6)
    assert cli("check", url, "--repair")[0] == 11
    assert cli("ship", trainer.run, url)[0] == 0
    assert cli("pull", url, dest)[0] == 0
    assert tree(dest / "current") == tree(path)


@pytest.mark.parametrize("how", HOWS)
def test_damaged_pointer(
    how: str, url: str, store: Store, trainer: Trainer, tmp_path: Path, cli: Run
) -> None:
    trainer.save_steps(1, 2)  # with one only, it could still be on its way
    ship(trainer.run, store)
    trainer.save_steps(3)
    damage(how, url, "latest.json")
    before = {o.key: o.n_bytes for o in store.list("")}
    for arguments in (("ship", trainer.run, url), ("pull", url, tmp_path / "d"), ("check", url)):
        code, _, err = cli(*arguments)
        assert code == (13 if how == "missing" and arguments[0] == "ship" else 11)
        assert_one_line(err)
        assert url in err
    assert {o.key: o.n_bytes for o in store.list("")} == before


# Runs against each other


def test_two_shippers_race(url: str, store: Store, trainer: Trainer, tmp_path: Path) -> None:
    originals: dict[str, dict[str, bytes]] = {}
    lost = 0
    for round_ in range(3):
        paths = trainer.save_steps(*range(5 * round_ + 1, 5 * round_ + 6))
        originals |= {p.name: tree(p) for p in paths}
        pair = [
            start("ship", trainer.run, url, "--state", tmp_path / f"state{i}", "--squash-every", 3)
            for i in range(2)
        ]
        for process in pair:
            code, _, err = finish(process)
            assert code == 0, err
            assert set(err.splitlines()) <= {
                f"sparsediff: note: {url}: another shipper published meanwhile"
            }
            lost += err.count("\n")
        assert [v.name for v in catalog_of(store).versions] == list(originals)
    assert lost, "there was no race"
    assert_sound(store, originals, tmp_path / "scratch")
    assert sparsediff("check", url, "--repair", "--grace", "0s", "-q")[0] == 0
    assert {o.key for o in store.list("")} == catalog_of(store).keys() | {"latest.json"}


@pytest.mark.slow
def test_runs_killed_at_random_moments(
    url: str, store: Store, trainer: Trainer, tmp_path: Path
) -> None:
    rng = random.Random(7)
    dest, in_place = tmp_path / "dest", tmp_path / "in-place"
    runs: list[tuple[object, ...]] = [
        ("ship", trainer.run, url, "--squash-every", 3, "--anchor-every", 4),
        ("pull", url, dest),
        ("pull", url, in_place, "--in-place"),
    ]
    originals: dict[str, dict[str, bytes]] = {}
    killed = 0
    for i in range(25):
        (path,) = trainer.save_steps(i, shards=1 + i // 5 % 2)
        originals[path.name] = tree(path)
        process = start(*runs[rng.choice((0, 0, 1, 2))])
        time.sleep(rng.uniform(0.03, 0.3))  # from before it has begun to after its end
        process.kill()
        code, _, err = finish(process)
        assert code in (-9, 0) or (code == 13 and "nothing has been shipped" in err), err
        killed += code == -9
        assert not (dest / "current").exists() or tree(dest / "current") in originals.values()
    assert killed >= 5
    for run in runs:
        code, _, err = sparsediff(*run)
        assert code == 0, err
    last = list(originals)[-1]
    assert tree(dest / "current") == originals[last]
    assert tree(in_place) == originals[last]
    assert [v.name for v in catalog_of(store).versions] == list(originals)
    assert sparsediff("check", url, "--repair", "--grace", "0s", "-q") == (0, "", "")
    assert {o.key for o in store.list("")} == catalog_of(store).keys() | {"latest.json"}
    assert_sound(store, originals, tmp_path / "scratch")
    for directory in (dest / "versions", dest / ".sparsediff", trainer.run.parent):
        assert not any(is_temp(p.name) for p in directory.iterdir())


def test_objects_pruned_under_the_pullers(
    url: str, store: Store, trainer: Trainer, tmp_path: Path
) -> None:
    """Without any grace: whoever has read the pointer may find nothing of what it names."""
    trainer.save_steps(1)
    ship(trainer.run, store)
    policy = Policy(anchor_every=2, squash_every=3)
    originals = {"step_000001": tree(trainer.run / "step_000001")}
    dest = tmp_path / "dest"
    watch = ("pull", url, dest, "--watch", 0.1, "--log-json")
    slowly = ("--bwlimit", "8kB/s")  # there is time to prune meanwhile
    newcomers = [start("pull", url, tmp_path / "new0", *slowly)]
    log = tmp_path / "log"
    with running(*watch, log=log):
        for i in range(2, 13):
            (path,) = trainer.save_steps(i)
            originals[path.name], last = tree(path), digest_of(path)
            ship(trainer.run, store, policy, jobs=1)
            shutil.rmtree(path)
            code, _, err = sparsediff("prune", url, "--keep", 1, "--grace", "0s", "-q")
            assert code == 0, err
            if i % 2:
                newcomers.append(start("pull", url, tmp_path / f"new{i}", *slowly))
        notes = 0
        for process in newcomers:
            code, _, err = finish(process)
            assert code == 0, err
            notes += err.count("; trying another way\n")
        wait_until(lambda: has_arrived(dest / "current", last), "last version")
    said = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    assert {line["event"] for line in said} <= {"done", "note"}
    for new in tmp_path.glob("new*"):
        assert tree(new / "current") in originals.values()
    assert notes, "nobody met the pruning"


# Every point at which a run touches anything


class S3Drill(Drill):
    """Puts the bucket back as well."""

    def save(self) -> None:
        super().save()
        there = bucket(self.store)
        keys = [o.key for o in open_store(self.store).list("")]
        self._objects = {key: bytes(obstore.get(there, key).bytes()) for key in keys}

    def restore(self) -> None:
        super().restore()
        there = bucket(self.store)
        for found in list(open_store(self.store).list("")):
            if found.key not in self._objects:
                obstore.delete(there, found.key)
        for key, data in self._objects.items():
            obstore.put(there, key, data)


@pytest.mark.slow
def test_ship_killed_at_each_point(url: str, tmp_path: Path) -> None:
    drill = S3Drill(tmp_path, url)
    store = open_store(url)
    policy = ("--squash-every", 2, "--anchor-weight", 0.01)  # as that of the drill
    run = ("ship", drill.run, url, *policy, "-j", 1, "--streams", 1, "-q")
    points = []
    for point in command_killed_at_each_point(drill.restore, run, tmp_path / "log"):
        points.append(point)
        assert_sound(store, drill.originals, drill.scratch())
        drill.ship()
        names = [v.name for v in catalog_of(store).versions]
        assert names == ["step_000100", "step_000200", "step_000300"], point
        assert catalog_of(store).latest.step is not None, point
        check(store, now=time.time() + 10, grace=1.0, repair=True)
        assert {o.key for o in store.list("")} == catalog_of(store).keys() | {"latest.json"}, point
    assert {"before swap latest.json", "after swap latest.json"} <= set(points)
    assert sum(p.startswith("before put ") for p in points) > 1
    print(f"\n{len(points)} points")


@pytest.mark.slow
def test_pull_killed_at_each_point(url: str, tmp_path: Path) -> None:
    drill = S3Drill(tmp_path, url)
    drill.ship()
    store, dest = open_store(url), drill.live / "dest"
    originals = drill.originals
    pull(store, dest, version="step_000100", jobs=1)
    drill.save()
    run = ("pull", url, dest, "-j", 1, "--streams", 1, "--keep", 1, "-q")
    points = []
    for point in command_killed_at_each_point(drill.restore, run, tmp_path / "log"):
        points.append(point)
        shown = tree(dest / "current")
        assert shown in (originals["step_000100"], originals["step_000300"]), point
        pull(store, dest, jobs=1, keep=1)
        assert tree(dest / "current") == originals["step_000300"], point
        assert [p.name for p in (dest / "versions").iterdir()] == ["step_000300"], point
    assert "before replace current" in points
    print(f"\n{len(points)} points")
