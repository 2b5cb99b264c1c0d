"""Commands that change a disk, each with what must hold whenever it ended."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from sparsediff import export_patch, make_patch, open_patch
from sparsediff.disk.names import is_temp
from sparsediff.make import make_part
from sparsediff.make.shares import Share
from sparsediff.patch.signed import Signed
from sparsediff.shipping.check import check
from sparsediff.shipping.pointer import sign_store
from sparsediff.shipping.pull import pull
from sparsediff.shipping.ship import ship
from sparsediff.signing import trust
from sparsediff.stores import open_store
from tests.support.drill import Drill
from tests.support.keys import Pair, new_key
from tests.support.pairs import model_directory, tree
from tests.support.runs import Trainer, assert_sound, catalog_of

LOCK = ".lock.sparsediff-tmp"


class Case(NamedTuple):
    """A command, to be tried on a disk that fails, or is cut off.

    Attributes:
        prepare: puts the directory ``live`` back to what it was before.
        words: of the command line.
        sound: asserts what must hold whenever the command ended.
        done: asserts what must hold once it ended with 0.
        clean: has another command remove what this one leaves to it, if anything.
    """

    prepare: Callable[[], None]
    words: tuple[object, ...]
    sound: Callable[[], None]
    done: Callable[[], None]
    clean: Callable[[], object] = lambda: None


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
    """Of a patch that is not there, or is in the place of one that was signed."""
    return signed_make(room, again=False)


def a_signed_make_again(room: Path) -> Case:
    return signed_make(room, again=True)


def a_signed_squash_again(room: Path) -> Case:
    """Of a chain of one patch, which comes out as it is."""
    return signed_make(room, again=True, verb="squash")


def signed_make(room: Path, *, again: bool, verb: str = "make") -> Case:
    base, target, patch = pair(room)
    key, live = new_key(room / "key"), room / "live"
    out, signature = live / "out", live / "out.sig"
    (room / "before").mkdir()
    if again:
        make_patch(target, base, room / "before/out", signer=key.signer)
    old = tree(room / "before")

    def prepare() -> None:
        shutil.rmtree(live, ignore_errors=True)
        shutil.copytree(room / "before", live)

    def sound() -> None:
        found = files_in(live)
        assert found.keys() <= {"out", "out.sig"}
        if again or "out" in found:  # whichever it is, it can be read by who trusts the key
            assert found["out"] in (patch.read_bytes(), old.get("out"))
            with open_patch(Signed(out, key.trust)):
                pass

    def done() -> None:
        sound()
        assert out.read_bytes() == patch.read_bytes()
        assert len(json.loads(signature.read_text())["signatures"]) == 1

    last = target if verb == "make" else patch
    words = (verb, base, last, "-o", out, "-j", 1, "--sign", key.key, "--force")
    return Case(prepare, words, sound, done)


def an_apply(room: Path) -> Case:
    base, target, patch = pair(room)
    words = ("apply", base, patch, "-o", room / "live/out", "-j", 1)
    after = {f"out/{name}": content for name, content in tree(target).items()}
    return one_output(room, words, after)


def an_apply_over_the_base(room: Path) -> Case:
    base, target, patch = pair(room)
    live = room / "live"
    before, after = (
        {f"out/{name}": content for name, content in tree(of).items()} for of in (base, target)
    )

    def prepare() -> None:
        shutil.rmtree(live, ignore_errors=True)
        shutil.copytree(base, live / "out")

    def sound() -> None:
        assert files_in(live) in (before, after)

    def done() -> None:
        assert files_in(live) == after

    return Case(prepare, ("apply", base, patch, "-o", live / "out", "-j", 1, "-f"), sound, done)


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


def cleaning(drill: Drill, key: Pair | None = None) -> Callable[[], object]:
    """Of the store: objects of no version, and what puts of killed runs left, are old by then."""

    def clean() -> None:
        store = open_store(drill.store, signer=None if key is None else key.signer)
        check(store, now=time.time() + 10, grace=1.0, repair=True)

    return clean


def a_ship(room: Path) -> Case:
    drill = Drill(room)
    originals = drill.originals

    def sound() -> None:
        assert_sound(open_store(drill.store), originals, drill.scratch())

    def done() -> None:
        sound()
        assert catalog_of(open_store(drill.store)).latest.name == "step_000300"

    words = ("ship", drill.run, drill.store, "--retries", 0, "-j", 1)
    return Case(drill.restore, words, sound, done, cleaning(drill))


def signed_store(room: Path, *words: object) -> Case:
    """A command on the store of `a_ship`, which one key signed; and now another one signs."""
    drill, old, key = Drill(room), new_key(room / "old"), new_key(room / "key")
    store = open_store(drill.store)
    store.signer = old.signer
    sign_store(store)
    drill.save()
    originals = drill.originals

    def sound() -> None:
        assert_sound(open_store(drill.store, trust=either), originals, drill.scratch())

    either = trust([old.public, key.public])
    found = tuple({"RUN": drill.run, "STORE": drill.store}.get(str(w), w) for w in words)
    found = (*found, "--sign", key.key, "--trust", old.public, "--trust", key.public)
    return Case(drill.restore, found, sound, sound, cleaning(drill, key))


def a_signed_ship(room: Path) -> Case:
    words = ("ship", "RUN", "STORE", "--retries", 0, "-j", 1)
    case = signed_store(room, *words)

    def done() -> None:
        case.sound()
        assert catalog_of(open_store(str(room / "live/store"))).latest.name == "step_000300"

    return case._replace(done=done)


def a_signed_pointer(room: Path) -> Case:
    return signed_store(room, "sign", "STORE")


def pulled(room: Path, *options: object, shown: str) -> Case:
    """Of the second version, where the first is; ``shown`` is where readers see it."""
    live, trainer = room / "live", Trainer(room / "run", n=500)
    in_place = "--in-place" in options
    trainer.save_steps(1)
    store = open_store(str(room / "store"), create=True)
    ship(room / "run", store, state_directory=room / "state")
    pull(store, room / "first/dest", in_place=in_place)
    trainer.save_steps(2)
    ship(room / "run", store, state_directory=room / "state")
    versions = [tree(room / f"run/step_00000{i}") for i in (1, 2)]

    def prepare() -> None:
        shutil.rmtree(live, ignore_errors=True)
        shutil.copytree(room / "first", live, symlinks=True)

    def sound() -> None:
        if in_place:
            for name, content in files_in(live / "dest").items():
                assert content in [version[name] for version in versions], name
            return
        assert tree(live / shown) in versions
        for version in (live / "dest/versions").glob("step_*"):  # all of it or nothing
            assert tree(version) in versions, version

    def done() -> None:
        assert tree(live / shown) == versions[1]

    words = ("pull", room / "store", live / "dest", "--retries", 0, "-j", 1, *options)
    return Case(prepare, words, sound, done)


def a_pull(room: Path) -> Case:
    return pulled(room, "--keep", 1, shown="dest/current")


def a_pull_in_place(room: Path) -> Case:
    return pulled(room, "--in-place", shown="dest")


def a_prune(room: Path) -> Case:
    drill = Drill(room)
    drill.ship()
    drill.save()
    originals = drill.originals

    def sound() -> None:
        assert_sound(open_store(drill.store), originals, drill.scratch())

    words = ("prune", drill.store, "--keep", 1, "--grace", "0s")
    return Case(drill.restore, words, sound, sound, cleaning(drill))


CASES = {
    "make": a_make,
    "make signed": a_signed_make,
    "make signed again": a_signed_make_again,
    "apply": an_apply,
    "apply over the base": an_apply_over_the_base,
    "apply in place": an_apply_in_place,
    "squash": a_squash,
    "squash signed again": a_signed_squash_again,
    "export": an_export,
    "merge": a_merge,
    "sign": a_signature,
    "sign a store": a_signed_pointer,
    "ship": a_ship,
    "pull": a_pull,
    "pull in place": a_pull_in_place,
    "prune": a_prune,
}
SLOW = {"ship signed": a_signed_ship}
ALL = CASES | SLOW
NAMES = [*CASES, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
