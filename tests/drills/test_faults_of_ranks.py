"""One rank of four whose disk fails wherever it is touched, or whose way to the store does.

Every rank has an error at once, the store keeps the version it had, and the next call publishes.
"""

from __future__ import annotations

import errno
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
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
from tests.support.faulty import FAULTS, FaultyProxy
from tests.support.pairs import tree
from tests.support.processes import use
from tests.support.ranks import SIZE, change, even, exit_codes, said, save_whole
from tests.support.runs import catalog_of
from tests.support.seaweed import Seaweed
from tests.support.touches import Touched

PART_BYTES = {"in parts": 1, "as one": 1 << 20}
DISK = {"full": (errno.ENOSPC, True), "broken": (errno.EIO, False)}  # and whether it goes on
HARMLESS = ("arrives twice", "is late")

Breaks = Callable[[int], Any]
"""Breaks the n-th thing inside; yields a list, which then names it."""


@contextmanager
def disk(fault: str, n: int) -> Iterator[list[str]]:
    code, lasting = DISK[fault]

    def fail() -> None:
        raise OSError(code, os.strerror(code))

    with pytest.MonkeyPatch.context() as patched:
        yield Touched(patched).before(n, fail, lasting=lasting)


@contextmanager
def network(proxy: FaultyProxy, fault: str, n: int) -> Iterator[list[str]]:
    where: list[str] = []
    proxy.spoil(fault, n=n)
    try:
        yield where
    finally:
        if proxy.has_spoiled:
            where.append(proxy.requests[n - 1])
        proxy.spoil(None)


def publish_while_something_fails(rank: int, root: Path) -> None:
    """Publish again and again, while the n-th touch or request of one rank fails."""
    url, victim, how, fault, stride, retries = (root / "what").read_text().split(",")
    joint_module.PART_BYTES = PART_BYTES[how]
    tempfile.tempdir = str(root / f"tmp{rank}")
    os.mkdir(tempfile.tempdir)
    can_fail = retries == "0" and fault not in HARMLESS
    run = partial(
        publish, rank, root, url, int(retries), int(victim), int(stride), can_fail=can_fail
    )
    if fault in DISK or rank != int(victim):
        run(lambda n: disk(fault, n))
        return
    with FaultyProxy(int(os.environ["AWS_ENDPOINT_URL"].rpartition(":")[2])) as proxy:
        os.environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{proxy.port}"

        def breaks(n: int) -> Any:
            proxy.settle()  # what is late comes when the store has gone on
            return network(proxy, fault, n)

        run(breaks)


def publish(
    rank: int,
    root: Path,
    url: str,
    retries: int,
    victim: int,
    stride: int,
    breaks: Breaks,
    *,
    can_fail: bool,
) -> None:
    store = open_store(url, create=True, retries=retries)
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

    publisher.publish(state_dict, next_step())
    n, failures = stride, 0
    while True:
        last, step = whole(), next_step()
        where, error = list[str](), ""
        try:
            if rank == victim:
                with breaks(n) as where:
                    publisher.publish(state_dict, step)
            else:
                publisher.publish(state_dict, step)
        except UnavailableError as e:
            error = str(e)
        where, errors = gathered(where)[victim], gathered(error)
        about = f"{n}: {where}: {errors}"
        if any(errors):
            assert where, about
            assert not retries, about
            failures += 1
            others = [e for r, e in enumerate(errors) if r != victim]
            assert errors[victim], about
            assert all(e == f"rank {victim} failed: {errors[victim]}" for e in others), about
        cannot_remove = bool(where) and where[0].startswith("removal")
        assert cannot_remove or not os.listdir(tempfile.tempdir), about
        assert whole() == (last if any(errors) else step), about
        publisher.publish(state_dict, next_step())
        assert not os.listdir(tempfile.tempdir), about
        if not where:
            break
        n += stride
    assert n > stride  # of one rank that is not the first there are few requests
    assert bool(failures) == can_fail


def gathered(value: Any) -> list[Any]:
    found: list[Any] = [None] * SIZE
    dist.all_gather_object(found, value)
    return found


def drill(
    root: Path,
    victim: int,
    how: str,
    fault: str,
    *,
    url: str = "",
    environment: dict[str, str] | None = None,
    stride: int = 1,
    retries: int = 0,
) -> None:
    root.mkdir()
    url = url or str(root / "store")
    (root / "what").write_text(f"{url},{victim},{how},{fault},{stride},{retries}")
    assert exit_codes(publish_while_something_fails, root, environment or {}) == [0] * SIZE
    assert [said(root, rank) for rank in range(SIZE)] == [""] * SIZE
    store = open_store(url)
    check(store, now=time.time() + 10, grace=5, repair=True)
    assert check(store, now=time.time()).is_sound
    assert {o.key for o in store.list("")} == keys_of(store, catalog_of(store)) | {POINTER}
    assert list(store.leftovers()) == []


def test_disk_of_the_first_rank_is_full(tmp_path: Path) -> None:
    drill(tmp_path / "ranks", 0, "in parts", "full", stride=4)


@pytest.mark.slow
@pytest.mark.parametrize("fault", DISK)
@pytest.mark.parametrize("how", PART_BYTES)
@pytest.mark.parametrize("victim", [0, 2])
def test_disk_of_one_rank_fails(victim: int, how: str, fault: str, tmp_path: Path) -> None:
    drill(tmp_path / "ranks", victim, how, fault)


def test_requests_of_the_first_rank_get_no_answer(
    seaweed: Seaweed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = use(seaweed, monkeypatch)
    root = tmp_path / "ranks"
    drill(root, 0, "in parts", "answer is lost", url=url, environment=seaweed.env, stride=4)


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(
    ("victim", "how", "retries"),
    [(0, "in parts", 0), (0, "in parts", 2), (0, "as one", 0), (2, "in parts", 0)],
)
def test_requests_of_one_rank_fail(
    victim: int,
    how: str,
    fault: str,
    retries: int,
    seaweed: Seaweed,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url = use(seaweed, monkeypatch)
    root = tmp_path / "ranks"
    drill(root, victim, how, fault, url=url, environment=seaweed.env, retries=retries)
