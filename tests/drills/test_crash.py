"""Interrupts and kills wherever a command touches the disk: old or new, nothing between."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from sparsediff import make_patch
from sparsediff.cli import run
from sparsediff.disk.names import is_temp
from tests.support.kills import interrupted_at_each_point, killed_at_each_point
from tests.support.pairs import RNG, model_directory, tree

VERBS = ["make", "apply", "replace", "squash"]


class Room:
    """A pair of checkpoints with its patch, and a place to be put back before each run."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.base = model_directory(root / "base")
        self.target = model_directory(root / "target", lr=1e-6)
        for i in range(2):
            (self.base / f"f{i}").write_bytes(RNG(i).bytes(2000))
            (self.target / f"f{i}").write_bytes(RNG(i + 50).bytes(2000))
        self.patch, self.live = root / "p", root / "live"
        make_patch(self.base, self.target, self.patch)

    @property
    def out(self) -> Path:
        return self.live / "out"

    def command(self, verb: str) -> tuple[object, ...]:
        if verb == "make":
            return "make", self.base, self.target, "-o", self.out, "-q", "-f"
        if verb == "squash":  # of one patch, which is then that patch
            return "squash", self.base, self.patch, "-o", self.out, "-q", "-f"
        return "apply", self.base, self.patch, "-o", self.out, "-q", "-f"

    def preparing(self, verb: str) -> Callable[[], None]:
        def prepare() -> None:
            shutil.rmtree(self.live, ignore_errors=True)
            self.live.mkdir()
            if verb == "replace":
                shutil.copytree(self.base, self.out)

        return prepare

    def states(self, verb: str) -> tuple[dict[str, bytes], dict[str, bytes]]:
        """What may be there: before, and after."""
        if verb in ("make", "squash"):
            return {}, {"out": self.patch.read_bytes()}
        after = {f"out/{name}": content for name, content in tree(self.target).items()}
        if verb == "replace":
            return {f"out/{name}": content for name, content in tree(self.base).items()}, after
        return {}, after

    def seen(self) -> dict[str, bytes]:
        """All files in place, without those that have temporary names."""
        files = (p for p in self.live.rglob("*") if p.is_file())
        names = {p.relative_to(self.live): p for p in files}
        return {str(n): p.read_bytes() for n, p in names.items() if not any(map(is_temp, n.parts))}


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Room:
    return Room(tmp_path_factory.mktemp("crash"))


@pytest.mark.parametrize("verb", VERBS)
def test_kill_leaves_old_or_new(verb: str, room: Room, tmp_path: Path) -> None:
    arguments = [*map(str, room.command(verb)), "-j", "1"]  # the same points each time
    points = []
    for point in killed_at_each_point(
        room.preparing(verb), lambda: run(arguments), tmp_path / "log", room.live
    ):
        points.append(point)
        assert room.seen() in room.states(verb), point
        assert run(arguments) == 0, point
        assert room.seen() == room.states(verb)[1], point
        assert [p.name for p in room.live.iterdir()] == ["out"], point  # and nothing left over
    assert len(points) >= 2


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("verb", VERBS)
def test_interrupt_cleans_up(verb: str, sig: int, room: Room, tmp_path: Path) -> None:
    arguments = [str(a) for a in room.command(verb)]
    points = []
    for point, code in interrupted_at_each_point(
        room.preparing(verb), lambda: run(arguments), tmp_path / "log", sig
    ):
        points.append(point)
        assert code == 130, point
        assert room.seen() in room.states(verb), point
        assert [p.name for p in room.live.iterdir()] in ([], ["out"]), point
    assert len(points) >= 2


def test_kill_in_place_is_finished_by_another_run(room: Room, tmp_path: Path) -> None:
    old, new = tree(room.base), tree(room.target)
    arguments = ["apply", "--in-place", str(room.out), str(room.patch), "-q", "-j", "1"]
    points = []
    for point in killed_at_each_point(
        room.preparing("replace"), lambda: run(arguments), tmp_path / "log", room.live
    ):
        points.append(point)
        for name, content in tree(room.out).items():
            if not os.path.basename(name).startswith("."):
                assert content in (old.get(name), new.get(name)), point
        assert run(arguments) == 0, point
        assert tree(room.out) == new, point
    assert len(points) >= 2
