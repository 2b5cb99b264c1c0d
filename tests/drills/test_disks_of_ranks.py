"""A disk of one rank of four that fails wherever it is touched: every rank has an error, at once.

The store keeps the version it had, and the next call publishes.
"""

from __future__ import annotations

import errno
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from sparsediff import open_store, pull
from sparsediff.errors import UnavailableError
from sparsediff.shipping.catalog_json import POINTER
from sparsediff.shipping.check import check
from sparsediff.shipping.objects import keys_of
from sparsediff.shipping.policy import Policy
from sparsediff.torch import Publisher
from sparsediff.torch import joint as joint_module
from tests.support.pairs import tree
from tests.support.ranks import change, even, save_whole, start
from tests.support.runs import catalog_of
from tests.support.touches import Touched

# How much a rank puts itself; when all is stored whole; what fails, and whether it goes on failing.
PUT = {"in parts": 1, "as one": 1 << 20}
FAULTS = {"full": (errno.ENOSPC, True), "broken": (errno.EIO, False)}


def gathered(value: Any) -> list[Any]:
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return found


def publish_on_a_disk_that_fails(rank: int, root: Path) -> None:
    """Publish again and again, while the n-th touch of the disk by one rank fails."""
    victim, how, fault, stride = (root / "what").read_text().split(",")
    joint_module.PART_BYTES = PUT[how]
    code, lasting = FAULTS[fault]
    tempfile.tempdir = str(root / f"tmp{rank}")
    os.mkdir(tempfile.tempdir)
    store = open_store(str(root / "store"), create=True, retries=0)
    publisher = Publisher(store, jobs=1, policy=Policy(anchor_every=2))
    state_dict: dict[str, Any] = even()
    steps = iter(range(1, 10000))

    def next_step() -> int:
        step = next(steps)
        change(state_dict, step)
        save_whole(state_dict, root / f"step_{step:06}", rank)
        return step

    def whole() -> int:
        """The step that readers get, which is as it was saved."""
        if rank == 0:
            pull(store, root / "dest", jobs=1, keep=1)
            name = (root / "dest" / "current").resolve().name
            assert tree(root / "dest" / "current") == tree(root / name)
        dist.barrier()
        return catalog_of(store).latest.number or 0

    def fail() -> None:
        raise OSError(code, os.strerror(code))

    publisher.publish(state_dict, next_step())
    where, failures = list[str](), 0
    for n in range(1, 1000, int(stride)):
        last, step = whole(), next_step()
        with pytest.MonkeyPatch.context() as patched:
            touched = (
                Touched(patched).before(n, fail, lasting=lasting) if rank == int(victim) else []
            )
            said = ""
            try:
                publisher.publish(state_dict, step)
            except UnavailableError as e:
                said = str(e)
        where = gathered(touched)[int(victim)]
        errors = gathered(said)
        about = f"{n}: {where}: {errors}"
        failed = [bool(e) for e in errors]
        assert failed == [any(failed)] * len(errors), about
        if any(failed):
            assert where, about
            failures += 1
            assert os.strerror(code).lower() in errors[int(victim)], about
            others = [e for r, e in enumerate(errors) if r != int(victim)]
            assert all(e.startswith(f"rank {victim} failed: ") for e in others), about
            assert not os.listdir(tempfile.tempdir), about
        assert whole() == (last if any(failed) else step), about
        publisher.publish(state_dict, next_step())
        if not where:
            break
    assert failures > 5


def drill(root: Path, victim: int, how: str, fault: str, stride: int) -> None:
    root.mkdir()
    (root / "what").write_text(f"{victim},{how},{fault},{stride}")
    assert start(publish_on_a_disk_that_fails, root) == [""] * 4
    store = open_store(str(root / "store"))
    check(store, now=time.time() + 10, grace=5, repair=True)
    assert check(store, now=time.time()).is_sound
    assert {o.key for o in store.list("")} == keys_of(store, catalog_of(store)) | {POINTER}
    assert list(store.leftovers()) == []


def test_disk_of_the_first_rank_is_full(tmp_path: Path) -> None:
    drill(tmp_path / "ranks", 0, "in parts", "full", 5)


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("how", PUT)
@pytest.mark.parametrize("victim", [0, 2])
def test_disk_of_one_rank_fails(victim: int, how: str, fault: str, tmp_path: Path) -> None:
    drill(tmp_path / "ranks", victim, how, fault, 1)
