"""Followers, and `pull`, in one directory at once; and a follower that is interrupted anywhere."""

from __future__ import annotations

import shutil
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from sparsediff import Follower, open_store, pull, ship
from sparsediff.errors import LockedError
from sparsediff.shipping import follow
from sparsediff.stores import Store
from tests.support.commands import left_over
from tests.support.interrupts import interrupted
from tests.support.pairs import tree
from tests.support.processes import finish, start, wait_until
from tests.support.runs import Trainer
from tests.support.touches import Touched, at_each
from tests.support.touches import touched as touched

FEW = 9  # points
PROGRAM = "tests.support.following"


class Room:
    """A store with two versions, and a directory that holds the first of them.

    Attributes:
        live: all that is changed.
        models: the directory.
        saved: what was shipped, by name.
    """

    def __init__(self, room: Path) -> None:
        self._room, self.live, self.models = room, room / "live", room / "live/models"
        self._trainer = Trainer(room / "run", n=500)
        self.saved: dict[str, dict[str, bytes]] = {}
        self.ship()
        pull(self.store, room / "first/models", jobs=1)
        self.ship()

    @property
    def store(self) -> Store:
        return open_store(str(self._room / "store"), create=True)

    def ship(self) -> None:
        """Another version."""
        (path,) = self._trainer.save_steps(len(self.saved) + 1)
        ship(self._trainer.run, self.store, jobs=1)
        self.saved[path.name] = tree(path)

    def prepare(self) -> None:
        """Put the directory back to the first version."""
        shutil.rmtree(self.live, ignore_errors=True)
        shutil.copytree(self._room / "first", self.live, symlinks=True)

    def follower(self) -> Follower:
        return Follower(self.store, self.models, holding="step_000001", jobs=1)

    def assert_whole(self, about: object, *, shown: str | None = None) -> None:
        """Whatever bears the name of a version is all of it; readers see ``shown``."""
        for path in (self.models / "versions").glob("step_*"):
            assert tree(path) == self.saved[path.name], about
        current = (self.models / "current").resolve().name
        assert shown in (None, current), about
        assert current in self.saved, about
        assert (self.models / "current").is_dir(), about


@pytest.fixture
def place(tmp_path: Path) -> Room:
    return Room(tmp_path)


@pytest.mark.parametrize("few", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("one", "another"), [("follow", "follow"), ("follow", "pull"), ("pull", "follow")]
)
def test_another_comes_before_each_touch_of_the_disk(
    one: str,
    another: str,
    few: bool,
    place: Room,
    touched: Touched,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(follow, "_PATIENCE", 0.0)  # it would not end while it is waited for

    def act(kind: str) -> str:
        """Bring the directory to the newest version: "" or why not."""
        try:
            if kind == "pull":
                pull(place.store, place.models, keep=1, jobs=1)
                return ""
            arrival = place.follower().poll()
            assert arrival is not None
            assert tree(arrival.path) == place.saved[arrival.version.name]
        except LockedError as e:
            return str(e)
        return ""

    refused = 0

    def run(n: int) -> bool:
        """Whether there was an n-th touch."""
        nonlocal refused
        place.prepare()
        said: list[str] = []
        where = touched.before(n, lambda: said.append(act(another)))
        said.append(act(one))
        touched.leave()
        about = n, where, said
        assert "" in said, about
        assert all("another run is writing here" in s for s in said if s), about
        refused += any(said)
        place.assert_whole(about, shown="step_000002")
        assert act(another) == "", about
        place.assert_whole(about, shown="step_000002")
        assert not left_over(place.live), about
        return bool(where)

    assert at_each(run, FEW if few else None) > FEW, "the disk was hardly touched"
    assert refused


@pytest.mark.parametrize("points", [6, pytest.param(40, marks=pytest.mark.slow)])
def test_a_signal_at_any_line_of_a_follower(points: int, place: Room, tmp_path: Path) -> None:
    """Threads end as well, else the process would not; and the next one comes to the end."""
    words, log = ("follow", place.store.name, place.models), tmp_path / "log"
    place.prepare()
    code, err, n_lines = interrupted(0, "SIGINT", log, words)
    assert (code, err) == (0, "")
    place.assert_whole("", shown="step_000002")
    where: list[str] = []
    for i in range(points):
        n = 1 + int(n_lines) * (2 * i + 1) // (2 * points)
        place.prepare()
        code, err, at = interrupted(n, ["SIGINT", "SIGTERM"][i % 2], log, words)
        where.append(at)
        about = n, at, code, err
        assert (code, err) == (130, "sparsediff: interrupted\n"), about
        place.assert_whole(about)
        arrival = place.follower().poll()
        assert arrival is not None
        assert arrival.patches, about
        place.assert_whole(about, shown="step_000002")
        assert not left_over(place.live), about
    assert len(set(where)) > points // 2, where


def all_have_some(logs: list[Path]) -> bool:
    return all("step_" in log.read_text() for log in logs)


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_all_are_ended_while_versions_come(
    signum: signal.Signals, place: Room, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two followers and a `pull` in one directory: processes of their own, a moment later each."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    store, models = place.store.name, place.models
    for i in range(8):
        place.prepare()
        logs = [tmp_path / f"{i}-{n}.log" for n in range(3)]
        pulling = ("pull", store, models, "--watch", 0.1, "--keep", 1)
        running = [
            start(PROGRAM, "loop", store, models, log=logs[0], python=True),
            start(PROGRAM, "asyncio", store, models, log=logs[1], python=True),
            start(*pulling, log=logs[2]),
        ]
        try:
            wait_until(partial(all_have_some, logs), "arrival")
            for _ in range(2):
                place.ship()
            time.sleep(0.02 * i)
            for process in running:
                process.send_signal(signum)
            codes = [finish(process)[0] for process in running]
        finally:
            for process in running:
                process.kill()
                process.wait()
        about = i, codes, [log.read_text()[-300:] for log in logs]
        ends = {-signum, 130} if signum == signal.SIGINT else {-signum}
        assert {codes[0], codes[1]} <= ends, about
        assert codes[2] == (-signum if signum == signal.SIGKILL else 130), about
        place.assert_whole(about)
        follower = Follower(place.store, models, jobs=1)
        assert follower.poll() is not None
        place.assert_whole(about, shown=list(place.saved)[-1])
        assert not left_over(place.live), about
        assert list(scratch.iterdir()) == [], about
