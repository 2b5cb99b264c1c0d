"""A trainer, a shipper, pullers of all kinds and readers, all at once, as processes."""

from __future__ import annotations

import json
import os
import threading
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from sparsediff.shipping.pull import pull
from sparsediff.stores import Store, open_store
from tests.support.processes import finish, running, sparsediff, start, use, wait_until
from tests.support.runs import catalog_of, digest_of, has_arrived


@pytest.fixture(params=["directory", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "directory":
        return str(tmp_path / "store")
    return use(request.getfixturevalue("seaweed"), monkeypatch)


class Reader(threading.Thread):
    """What an inference server does: resolves ``current`` once, then reads all files.

    Args:
        dest: of pull.
        pause: seconds between the one and the other.

    Attributes:
        seen: digests of what it read, in order, without repetitions.
        n_reads: how often it read everything.
        n_gone: how often the directory was removed meanwhile.
    """

    def __init__(self, dest: Path, pause: float = 0.0) -> None:
        super().__init__(daemon=True)
        self.seen: list[str] = []
        self.n_reads = self.n_gone = 0
        self._link, self._pause, self._ended = dest / "current", pause, threading.Event()

    def run(self) -> None:
        while not self._ended.wait(0.005):
            try:
                path = self._link.parent / os.readlink(self._link)
                time.sleep(self._pause)
                digest = digest_of(path)
            except FileNotFoundError:
                self.n_gone += self._link.is_symlink()
                continue
            if not path.exists():  # it was being removed while it was read
                self.n_gone += 1
                continue
            self.n_reads += 1
            if digest not in self.seen[-1:]:
                self.seen.append(digest)

    def end(self) -> None:
        self._ended.set()
        self.join(10)
        assert not self.is_alive()


def hook(seen: Path) -> str:
    """A command for --exec that keeps what it is shown under the version's name."""
    seen.mkdir()
    return f'cp -rL "$SPARSEDIFF_PATH" "{seen}/$SPARSEDIFF_NAME"'


def versions_of(store: Store) -> list[str]:
    return [v.name for v in catalog_of(store).versions]


def play(url: str, room: Path, n: int, pause: float) -> None:
    """Train ``n`` checkpoints and look on; asserts everything there is to assert."""
    run, log, log_of = room / "run", room / "trained", "{}.log".format
    run.mkdir()
    follower, slow, late, far = (room / d for d in ("follower", "slow", "late", "far"))
    seen, seen_slow = room / "seen", room / "seen-slow"
    trainer = start("tests.support.trickle", run, log, n, pause, python=True)
    anchors = ("--squash-every", 4, "--anchor-every", 6)
    ship = ("ship", run, url, "--watch", 0.5, "--marker", "DONE", *anchors)
    follow = ("pull", url, follower, "--watch", 0.4, "--keep", 2, "--exec", hook(seen))
    in_place = ("pull", url, slow, "--in-place", "--watch", 1.1, "--exec", hook(seen_slow))
    readers = [Reader(follower), Reader(follower, 0.95 * pause), Reader(follower, 2.5 * pause)]
    with ExitStack() as stack:
        stack.callback(trainer.kill)
        stack.enter_context(running(*ship, log=room / log_of("ship")))
        store = open_store(url, create=True)
        wait_until(lambda: store.tag("latest.json"), "version")
        stack.enter_context(running(*follow, log=room / log_of("follow")))
        stack.enter_context(running(*in_place, log=room / log_of("slow")))
        for reader in readers:
            reader.start()
            stack.callback(reader.end)
        first = versions_of(store)[0]
        assert sparsediff("pull", url, far, "--version", first, "-q")[0] == 0
        wait_until(lambda: len(versions_of(store)) > n // 3, "progress", 3 * n * pause)
        stack.enter_context(running("pull", url, late, "--watch", 0.4, log=room / log_of("late")))
        code, _, err = finish(trainer, 3 * n * pause + 30)
        assert code == 0, err
        trained = dict(line.split() for line in log.read_text().splitlines())
        last = list(trained)[-1]
        assert len(trained) == n
        wait_until(lambda: versions_of(store)[-1] == last, "last version")
        final = trained[last]
        ends = [follower / "current", slow, late / "current", seen / last, seen_slow / last]
        for end in ends:
            wait_until(partial(has_arrived, end, final), f"last version at {end}")

    for name in ("follow", "slow", "late"):
        problems = [x for x in (room / log_of(name)).read_text().splitlines() if "now " not in x]
        assert [x for x in problems if "nothing new" not in x] == ["sparsediff: interrupted"]
    shipped = versions_of(store)
    assert shipped == sorted(shipped)
    assert set(shipped) <= set(trained)
    assert len(shipped) > n // 2, "the trainer deletes what the shipper is too slow for"
    # Every switch, every read and every version: that of the trainer, byte for byte.
    for switches in (seen, seen_slow):
        for copy in switches.iterdir():
            assert digest_of(copy) == trained[copy.name], copy
    order = list(trained.values())
    assert readers[0].n_reads > n
    assert readers[-1].n_gone, "so slow that --keep 2 is not enough"
    for reader in readers:
        assert set(reader.seen) <= set(order), "read a mixture of versions"
        places = [order.index(digest) for digest in reader.seen]
        assert places == sorted(set(places)), "went back"
    assert len(list(seen.iterdir())) > len(shipped) // 3
    for name in shipped:
        pull(store, room / "each", version=name, jobs=1, keep=1)
        assert digest_of(room / "each/current") == trained[name]
    far_behind(url, far, len(shipped), final)
    code, out, err = sparsediff("check", url, "--json")
    assert code == 0, err
    assert json.loads(out)["sound"]
    assert [p.name for p in (follower / "versions").iterdir() if p.name.startswith(".")] == []
    assert len(list((follower / "versions").iterdir())) == 2
    print(
        f"\n{'s3' if '://' in url else 'directory'}: {n} trained, {len(shipped)} shipped, "
        f"{len(list(seen.iterdir()))} followed, {len(list(seen_slow.iterdir()))} in place, "
        "reads: "
        + ", ".join(f"{r.n_reads} of {len(r.seen)} versions, {r.n_gone} gone" for r in readers)
    )


def far_behind(url: str, dest: Path, n_versions: int, final: str) -> None:
    """Whoever pulls once after all of it takes the shortcuts."""
    code, out, err = sparsediff("pull", url, dest, "--log-json")
    assert code == 0, err
    done = json.loads(out.splitlines()[-1])
    assert digest_of(dest / "current") == final
    assert done["previous"] == 1
    assert done["n_patches"] <= n_versions // 4 + 4


def test_everything_at_once(url: str, tmp_path: Path) -> None:
    play(url, tmp_path, 15, 0.5)


@pytest.mark.slow
def test_everything_at_once_for_longer(url: str, tmp_path: Path) -> None:
    play(url, tmp_path, 64, 0.5)
