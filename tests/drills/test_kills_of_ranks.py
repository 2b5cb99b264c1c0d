"""kill -9 of one rank of four at every point of publishing, of a part and of a merge."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from sparsediff import merge_parts, open_store, pull, versions
from sparsediff.make import Share, make_part, make_patch
from sparsediff.shipping.catalog_json import POINTER
from sparsediff.shipping.check import check
from sparsediff.shipping.objects import keys_of
from sparsediff.torch import Publisher
from sparsediff.torch import joint as joint_module
from tests.support.kills import arm, killed_at_each_point
from tests.support.pairs import training_pair, tree, write_safetensors
from tests.support.processes import use
from tests.support.ranks import change, even, exit_codes, said, save_whole
from tests.support.runs import catalog_of


def publish_and_die(rank: int, root: Path) -> None:
    """Publish a version, and another, at a point of which one rank is killed."""
    url, victim, point = (root / "what").read_text().split()
    joint_module.PART_BYTES = 1
    tempfile.tempdir = str(root / "scratch")
    publisher = Publisher(url, jobs=1)
    state_dict: dict[str, Any] = even()
    save_whole(state_dict, root / "step_000000", rank)
    publisher.publish(state_dict, 0)
    change(state_dict, 1)
    save_whole(state_dict, root / "step_000001", rank)
    if rank == int(victim):
        arm(int(point), root / "log")
    publisher.publish(state_dict, 1)


def drill(
    room: Path, url: str, environment: dict[str, str], victim: int, point: int, lefts: set[str]
) -> str:
    """Kill a rank at a point; what that was, empty if there are not so many.

    ``lefts`` takes the names of what it left among temporary files, until the next publisher came.
    """
    root = room / f"{victim}-{point}"
    root.mkdir()
    scratch = root / "scratch"
    scratch.mkdir()
    (root / "what").write_text(f"{url} {victim} {point}")
    codes = exit_codes(publish_and_die, root, environment)
    where = (root / "log").read_text() if (root / "log").exists() else ""
    expected = [-signal.SIGKILL if where and r == victim else 0 for r in range(len(codes))]
    assert codes == expected
    assert where or not any(said(root, rank) for rank in range(len(codes)))
    store = open_store(url)
    names = [v.name for v in versions(store)]
    assert names in (["step_000000"], ["step_000000", "step_000001"]), where
    for rank, code in enumerate(codes):
        if code == 0 and (len(names) == 1 or said(root, rank)):
            assert "UnavailableError" in said(root, rank), where
    pull(store, root / "dest", jobs=1)
    assert tree(root / "dest" / "current") == tree(root / names[-1]), where
    check(store, now=time.time() + 10, grace=5, repair=True)
    assert check(store, now=time.time()).is_sound
    assert {o.key for o in store.list("")} == keys_of(store, catalog_of(store)) | {POINTER}, where
    left = os.listdir(scratch)
    assert where or not left
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("tempfile.tempdir", str(scratch))
        Publisher(store, jobs=1).publish(even(), 2)
    assert os.listdir(scratch) == [], where
    lefts.update(left)
    return where


@pytest.fixture(params=["directory", "s3"])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Any]:
    """URL that stores lie below, and the environment that they need."""
    if request.param == "directory":
        return f"{request.getfixturevalue('tmp_path')}/stores", {}
    seaweed = request.getfixturevalue("seaweed")
    return use(seaweed, monkeypatch), seaweed.env


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 2])
def test_rank_that_is_killed_at_each_point(
    victim: int, place: tuple[str, dict[str, str]], tmp_path: Path
) -> None:
    where, lefts = list[str](), set[str]()
    while not where or where[-1]:
        url = f"{place[0]}/{victim}-{len(where)}"
        if "://" not in url:
            Path(url).mkdir(parents=True)
        where.append(drill(tmp_path, url, place[1], victim, len(where) + 1, lefts))
    assert any("put" in point for point in where)
    assert lefts


def test_rank_that_is_killed_when_it_has_put_its_part(tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    point, lefts = 0, set[str]()
    while True:  # a few of many: all of them are behind `slow`
        point += 4
        if not drill(tmp_path, str(store), {}, 2, point, lefts):
            break
        shutil.rmtree(store)
        store.mkdir()
    assert point > 4
    assert lefts


def test_part_and_merge_that_are_killed_are_made_again(tmp_path: Path) -> None:
    base, target = tmp_path / "base", tmp_path / "target"
    for place, words in zip((base, target), training_pair(5000), strict=True):
        write_safetensors(place / "model.safetensors", {"w": words})
    made = tmp_path / "made"
    part, other, patch = made / "1", made / "2", made / "patch"

    def prepare() -> None:
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir()
        make_part(base, target, Share(2, 2), other, jobs=1)

    def act() -> None:
        make_part(base, target, Share(1, 2), part, jobs=1, force=True)
        merge_parts([part, other], patch, force=True)

    make_patch(base, target, tmp_path / "whole")
    points = []
    for point in killed_at_each_point(prepare, act, tmp_path / "log", made):
        points.append(point)
        assert not patch.exists() or patch.read_bytes() == (tmp_path / "whole").read_bytes()
        act()
        assert patch.read_bytes() == (tmp_path / "whole").read_bytes(), point
        assert sorted(os.listdir(made)) == ["1", "2", "patch"], point
    assert len(points) > 3
