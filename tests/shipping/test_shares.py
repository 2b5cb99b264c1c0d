"""pull --files: a machine that holds a share of each version fetches its share and no more."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from sparsediff import Follower, verify_patch
from sparsediff.errors import CorruptError, UsageError
from sparsediff.shipping.check import check
from sparsediff.shipping.parts import parts_of
from sparsediff.shipping.pull import preview, pull
from sparsediff.shipping.ship import ship
from sparsediff.stores import Store, open_store
from tests.conftest import Run
from tests.support.counting import Counting
from tests.support.kills import killed_at_each_point
from tests.support.pairs import training_pair, tree, write_safetensors
from tests.support.parted import publish_in_parts
from tests.support.refusals import EXIT, refused
from tests.support.runs import catalog_of, settle

PATTERNS = ["model-[12]*", "*.json"]
NAMES = {"model-1.safetensors", "model-2.safetensors", "config.json"}
N = 40_000  # words of a shard


def save(run: Path, step: int, *, moved: bool = False) -> Path:
    """Five shards; with ``moved`` one takes a tensor over from another."""
    place = run / f"step_{step:06}"
    for shard in range(5):
        before, after = training_pair(N, 1e-5, seed=shard)
        tensors = {f"w{shard}": before if step == 1 else after}
        if shard == (2 if moved else 4):
            tensors["moved"] = training_pair(3000, seed=9)[step % 2]
        write_safetensors(place / f"model-{shard}.safetensors", tensors)
    (place / "config.json").write_text(json.dumps({"step": step}))
    settle(place)
    return place


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def store(run: Path, tmp_path: Path) -> Store:
    """A store with two versions, an anchor and a patch."""
    opened = open_store(str(tmp_path / "store"), create=True)
    for step in (1, 2):
        save(run, step)
        ship(run, opened, jobs=1)
    return opened


def share_of(place: Path) -> dict[str, bytes]:
    return {name: data for name, data in tree(place).items() if name in NAMES}


@pytest.mark.parametrize("in_place", [False, True])
def test_share_comes_alone_and_only_its_bytes(
    in_place: bool, store: Store, run: Path, tmp_path: Path
) -> None:
    dest = tmp_path / "dest"
    shown = dest if in_place else dest / "current"
    seen = preview(store, dest, version="step_000001", in_place=in_place, files=PATTERNS)
    asked = Counting(store)
    first = pull(asked, dest, version="step_000001", in_place=in_place, files=PATTERNS, jobs=1)
    assert asked.bytes["read"] == first.fetched_bytes  # no head is fetched twice
    assert tree(shown) == share_of(run / "step_000001")
    assert first.share_bytes == sum(map(len, tree(shown).values()))
    (anchor,) = first.patches
    assert seen.fetched_bytes < anchor.n_bytes * 3 / 4  # the first request included
    assert first.fetched_bytes == seen.fetched_bytes
    second = pull(store, dest, in_place=in_place, files=list(reversed(PATTERNS)), jobs=1)
    assert [p.base for p in second.patches] == [1]
    assert tree(shown) == share_of(run / "step_000002")
    assert not pull(store, dest, in_place=in_place, files=PATTERNS, jobs=1).switched


def test_chain_of_versions_at_once_and_versions_in_parts(run: Path, tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"), create=True)
    saved = [save(run, step) for step in (1, 2)]
    starts: list[Path | None] = [None, saved[0]]
    for i, start in enumerate(starts):
        room = tmp_path / f"room-{i}"
        room.mkdir()
        publish_in_parts(store, [start], saved[i], room, n_parts=5)
    result = pull(store, tmp_path / "dest", files=PATTERNS, jobs=1)
    assert len(result.patches) == 2
    assert all(p.list_bytes for p in result.patches)
    assert tree(tmp_path / "dest" / "current") == share_of(saved[1])


def test_share_that_takes_a_tensor_from_outside_is_fetched_from_an_anchor(
    store: Store, run: Path, tmp_path: Path
) -> None:
    dest = tmp_path / "dest"
    pull(store, dest, files=PATTERNS, jobs=1)
    moved = save(run, 3, moved=True)
    ship(run, store, jobs=1)
    told: list[str] = []
    result = pull(store, dest, files=PATTERNS, jobs=1, note=told.append)
    assert "made from one that is not in it, found model-4.safetensors" in told[0]
    assert result.patches[0].base is None
    assert tree(dest / "current") == share_of(moved)


def test_damage_is_found_where_it_matters_and_only_there(
    store: Store, run: Path, tmp_path: Path
) -> None:
    (patch,) = catalog_of(store).latest.patches
    file = tmp_path / "store" / parts_of(store, patch)[0].key
    data = file.read_bytes()
    outcomes = set()
    for i, at in enumerate([3, 400, *range(1000, len(data), len(data) // 20), len(data) - 1]):
        dest = tmp_path / f"dest-{i}"
        broken = bytearray(data)
        broken[at] ^= 1
        file.write_bytes(broken)
        try:
            pull(store, dest, files=["model-2*"], jobs=1)
        except CorruptError:
            outcomes.add("found")
            assert not (dest / "current").exists()
        else:
            if catalog_of(store).latest.name in os.listdir(dest / "versions"):
                name = "model-2.safetensors"
                wanted = (run / "step_000002" / name).read_bytes()
                assert (dest / "current" / name).read_bytes() == wanted
                outcomes.add("right")
    assert outcomes == {"found", "right"}


def test_other_files_are_refused_in_one_line(
    cli: Run, store: Store, run: Path, tmp_path: Path
) -> None:
    share, all_of_it = tmp_path / "share", tmp_path / "whole"
    code, out, _ = cli("pull", store.name, share, "--files", "model-1*")
    assert code == 0
    assert "fetched for" in out
    assert " of " in out
    before = tree(share / "current")
    for other in ((), ("--files", "model-2*"), ("--files", "model-1*", "--files", "*.json")):
        found = cli("pull", store.name, share, *other)
        refused(found, EXIT["usage"], "holds other files of each version", "--files")
        assert cli("pull", store.name, share, *other, "--dry-run")[0] == EXIT["usage"]
    assert tree(share / "current") == before
    assert cli("pull", store.name, all_of_it)[0] == 0
    found = cli("pull", store.name, all_of_it, "--files", "model-1*")
    refused(found, EXIT["usage"], "holds other files of each version", "expected all files")
    nothing = cli("pull", store.name, tmp_path / "nothing", "--files", "*.bin")
    refused(nothing, EXIT["usage"], "none of the target's files matches --files", "*.bin")
    assert check(store, now=0.0).is_sound


@pytest.mark.parametrize("in_place", [False, True])
def test_a_pull_that_is_killed_is_completed(
    in_place: bool, store: Store, run: Path, tmp_path: Path
) -> None:
    live, saved = tmp_path / "live", tmp_path / "saved"
    dest = live / "dest"
    live.mkdir()
    pull(store, dest, version="step_000001", in_place=in_place, files=PATTERNS, jobs=1)
    shutil.copytree(live, saved, symlinks=True)

    def prepare() -> None:
        shutil.rmtree(live)
        shutil.copytree(saved, live, symlinks=True)

    def act() -> None:
        pull(store, dest, in_place=in_place, files=PATTERNS, jobs=1, streams=1)

    n = 0
    for point in killed_at_each_point(prepare, act, tmp_path / "log", live):
        if not in_place:
            name = os.readlink(dest / "current").rpartition("/")[2]
            assert tree(dest / "current") == share_of(run / name), point
        act()
        assert tree(dest if in_place else dest / "current") == share_of(run / "step_000002"), point
        n += 1
    assert n > 10


def test_what_lies_in_the_place_of_a_fetched_share_is_not_believed(
    store: Store, run: Path, tmp_path: Path
) -> None:
    dest = tmp_path / "dest"
    pull(store, dest, version="step_000001", files=PATTERNS, jobs=1)
    (patch,) = catalog_of(store).latest.patches
    fetched = dest / ".sparsediff" / "fetched"
    whole = (tmp_path / "store" / patch.key).read_bytes()
    (fetched / f"{patch.sha256}.sdiff").write_bytes(whole)  # an intact patch, of other files
    (fetched / f"{patch.sha256}.share").write_text("0" * 64)
    (fetched / f"{patch.sha256}.part").write_bytes(b"x")
    pull(store, dest, files=PATTERNS, jobs=1)
    assert tree(dest / "current") == share_of(run / "step_000002")


def test_follower_of_a_share_has_patches_from_share_to_share(
    store: Store, run: Path, tmp_path: Path
) -> None:
    dest = tmp_path / "dest"
    follower = Follower(store, dest, files=PATTERNS, jobs=1)
    assert follower.poll("step_000001") is not None
    arrival = follower.poll()
    assert arrival is not None
    assert arrival.base is not None
    (patch,) = arrival.patches
    assert verify_patch(patch, base=arrival.base, target=arrival.path).target
    assert tree(arrival.path) == share_of(run / "step_000002")
    late = Follower(store, dest, holding="step_000001", files=PATTERNS, jobs=1).poll()
    assert late is not None
    assert len(late.patches) == 1
    with pytest.raises(UsageError, match="holds other files"):
        Follower(store, dest).poll()
