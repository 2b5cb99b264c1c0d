"""A disk that fails once, wherever a command touches it: one line, old or new, then it works."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from sparsediff import export_patch, make_patch
from sparsediff.disk.names import is_temp
from sparsediff.make.shares import Share
from sparsediff.make.write import make_part
from sparsediff.shipping.pull import pull
from sparsediff.shipping.ship import ship
from sparsediff.stores import open_store
from tests.conftest import Run
from tests.support.drill import Drill
from tests.support.keys import new_key
from tests.support.pairs import model_directory, tree
from tests.support.refusals import EXIT
from tests.support.runs import Trainer, assert_sound, catalog_of

TOUCHES = (
    "fsync",
    "ftruncate",
    "link",
    "mkdir",
    "open",
    "pwrite",
    "rename",
    "replace",
    "rmdir",
    "symlink",
    "unlink",
)
LOCK = ".lock.sparsediff-tmp"
REMOVALS = ("rmdir", "unlink")  # what is left after one that failed, the next run removes


class FailingDisk:
    """Functions of `os` that change a disk, the n-th call of which fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch

    def fail(self, n: int, code: int) -> list[str]:
        """Let the n-th call from now on fail; the list holds its name as soon as it has."""
        count, failed = 0, list[str]()

        def wrap(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
            def wrapped(*args: Any, **kwargs: Any) -> Any:
                nonlocal count
                if name != "open" or args[1] & (os.O_WRONLY | os.O_RDWR):
                    count += 1
                    if count == n:
                        failed.append(name)
                        raise OSError(code, os.strerror(code))
                return function(*args, **kwargs)

            return wrapped

        for name in TOUCHES:
            self._patch.setattr(os, name, wrap(name, getattr(os, name)))
        return failed

    def mend(self) -> None:
        self._patch.undo()


class Case(NamedTuple):
    """A command, to be tried on a disk that fails.

    Attributes:
        prepare: puts the directory ``live`` back to what it was before.
        words: of the command line.
        sound: asserts what must hold whenever the command ended.
        done: asserts what must hold once it ended with 0.
    """

    prepare: Callable[[], None]
    words: tuple[object, ...]
    sound: Callable[[], None]
    done: Callable[[], None]


def files_in(live: Path) -> dict[str, bytes]:
    """All files, without those that have temporary names."""
    return {
        name: content
        for name, content in tree(live).items()
        if not any(is_temp(part) for part in Path(name).parts)
    }


def left_over(live: Path) -> list[str]:
    """Files and directories with temporary names; the lock of a store stays."""
    return [str(p) for p in live.rglob("*") if is_temp(p.name) and p.name != LOCK]


def one_output(room: Path, words: tuple[object, ...], after: dict[str, bytes]) -> Case:
    """A command that writes ``live/out``, where nothing was before, or what it wrote then."""
    live = room / "live"

    def prepare() -> None:
        shutil.rmtree(live, ignore_errors=True)
        live.mkdir()

    def sound() -> None:
        assert files_in(live) in ({}, after)

    def done() -> None:
        assert files_in(live) == after

    return Case(prepare, (*words, "--force"), sound, done)


def pair(room: Path) -> tuple[Path, Path, Path]:
    base, target = model_directory(room / "base"), model_directory(room / "target", lr=1e-6)
    make_patch(base, target, room / "p")
    return base, target, room / "p"


def a_make(room: Path) -> Case:
    base, target, patch = pair(room)
    words = ("make", base, target, "-o", room / "live/out", "-j", 1)
    return one_output(room, words, {"out": patch.read_bytes()})


def a_signed_make(room: Path) -> Case:
    base, target, patch = pair(room)
    key = new_key(room / "key")
    words = ("make", base, target, "-o", room / "live/out", "-j", 1, "--sign", key.key)
    case = one_output(room, words, {})

    def sound() -> None:
        found = files_in(room / "live")
        assert found.get("out", patch.read_bytes()) == patch.read_bytes()
        assert found.keys() <= {"out", "out.sig"}

    def done() -> None:
        assert (room / "live/out").read_bytes() == patch.read_bytes()
        assert (room / "live/out.sig").exists()

    return case._replace(sound=sound, done=done)


def an_apply(room: Path) -> Case:
    base, target, patch = pair(room)
    words = ("apply", base, patch, "-o", room / "live/out", "-j", 1)
    after = {f"out/{name}": content for name, content in tree(target).items()}
    return one_output(room, words, after)


def an_apply_in_place(room: Path) -> Case:
    base, target, patch = pair(room)
    old, new, live = tree(base), tree(target), room / "live"

    def prepare() -> None:
        shutil.rmtree(live, ignore_errors=True)
        shutil.copytree(base, live)

    def sound() -> None:
        for name, content in files_in(live).items():
            if not Path(name).name.startswith("."):  # what an update notes of itself
                assert content in (old.get(name), new.get(name)), name

    def done() -> None:
        assert tree(live) == new

    return Case(prepare, ("apply", "--in-place", live, patch, "-j", 1), sound, done)


def a_squash(room: Path) -> Case:
    base, target, patch = pair(room)
    further = model_directory(room / "further", lr=2e-6)
    make_patch(target, further, room / "q")
    make_patch(base, further, room / "whole")
    words = ("squash", base, patch, room / "q", "-o", room / "live/out", "-j", 1)
    return one_output(room, words, {"out": (room / "whole").read_bytes()})


def an_export(room: Path) -> Case:
    base, _, patch = pair(room)
    export_patch(patch, base, room / "exported")
    words = ("export", base, patch, "-o", room / "live/out")
    return one_output(room, words, {"out": (room / "exported").read_bytes()})


def a_merge(room: Path) -> Case:
    base, target, patch = pair(room)
    parts = [room / f"{i}.part" for i in (1, 2)]
    for i, path in enumerate(parts, 1):
        make_part(base, target, Share(i, 2), path)
    words = ("merge", *parts, "-o", room / "live/out")
    return one_output(room, words, {"out": patch.read_bytes()})


def a_signature(room: Path) -> Case:
    _, _, patch = pair(room)
    key, live = new_key(room / "key"), room / "live"

    def prepare() -> None:
        shutil.rmtree(live, ignore_errors=True)
        live.mkdir()
        shutil.copy(patch, live / "p")

    def sound() -> None:
        found = files_in(live)
        assert found["p"] == patch.read_bytes()
        assert found.keys() <= {"p", "p.sig"}

    def done() -> None:
        assert (live / "p.sig").exists()

    return Case(prepare, ("sign", live / "p", "--sign", key.key), sound, done)


def a_ship(room: Path) -> Case:
    drill = Drill(room)
    originals = drill.originals

    def sound() -> None:
        assert_sound(open_store(drill.store), originals, drill.scratch())

    def done() -> None:
        sound()
        assert catalog_of(open_store(drill.store)).latest.name == "step_000300"

    words = ("ship", drill.run, drill.store, "--retries", 0, "-j", 1)
    return Case(drill.restore, words, sound, done)


def a_pull(room: Path) -> Case:
    live, trainer = room / "live", Trainer(room / "run", n=500)
    trainer.save_steps(1)
    store = open_store(str(room / "store"), create=True)
    ship(room / "run", store, state_directory=room / "state")
    pull(store, room / "dest", keep=1)
    trainer.save_steps(2)
    ship(room / "run", store, state_directory=room / "state")
    versions = [tree(room / f"run/step_00000{i}") for i in (1, 2)]

    def prepare() -> None:
        shutil.rmtree(live, ignore_errors=True)
        shutil.copytree(room / "dest", live / "dest", symlinks=True)

    def sound() -> None:
        assert tree(live / "dest/current") in versions

    def done() -> None:
        assert tree(live / "dest/current") == versions[1]

    words = ("pull", room / "store", live / "dest", "--keep", 1, "--retries", 0, "-j", 1)
    return Case(prepare, words, sound, done)


def a_prune(room: Path) -> Case:
    drill = Drill(room)
    drill.ship()
    drill.save()
    originals = drill.originals

    def sound() -> None:
        assert_sound(open_store(drill.store), originals, drill.scratch())

    return Case(drill.restore, ("prune", drill.store, "--keep", 1, "--grace", "0s"), sound, sound)


CASES = {
    "make": a_make,
    "make signed": a_signed_make,
    "apply": an_apply,
    "apply in place": an_apply_in_place,
    "squash": a_squash,
    "export": an_export,
    "merge": a_merge,
    "sign": a_signature,
    "ship": a_ship,
    "pull": a_pull,
    "prune": a_prune,
}


@pytest.fixture
def disk() -> Iterator[FailingDisk]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield FailingDisk(monkeypatch)


CODES = [
    pytest.param(errno.ENOSPC, id="full"),
    pytest.param(errno.EIO, id="broken", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("name", CASES)
def test_an_error_of_the_disk(
    name: str, code: int, tmp_path: Path, disk: FailingDisk, cli: Run
) -> None:
    case = CASES[name](tmp_path)
    for n in range(1, 1000):
        case.prepare()
        failed = disk.fail(n, code)
        found, out, err = cli(*case.words)
        disk.mend()
        where = f"{n}: {failed}: {found} {err}"
        case.sound()
        if failed and failed[0] not in REMOVALS:
            assert not left_over(tmp_path / "live"), where
        if found:
            assert found == EXIT["unavailable"], where
            assert failed, where
            assert err.count("\n") == 1, where
            assert err.startswith("sparsediff: "), where
            assert out == "", where
        else:
            case.done()
        if not failed:
            assert n > 3, "the disk was hardly touched"
            return
        again = cli(*case.words)
        assert again[0] == 0, (where, again)
        case.done()
        assert not left_over(tmp_path / "live"), where
