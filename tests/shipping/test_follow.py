"""Following a store from Python: what arrives is whole, and says how to get there."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from sparsediff import Follower, UnavailableError, UsageError, apply_patch, pull, ship, versions
from sparsediff.disk.locks import lock
from sparsediff.shipping.acks import read_acks
from sparsediff.shipping.follow import Arrival
from sparsediff.stores import Store, open_store
from sparsediff.stores.directory import DirectoryStore
from tests.support.pairs import tree
from tests.support.runs import Trainer


def test_each_version_comes_with_the_way_from_the_last(
    store: Store, trainer: Trainer, tmp_path: Path
) -> None:
    follower = Follower(store, tmp_path / "models")
    with pytest.raises(UnavailableError, match="shipped"):
        follower.poll()
    with pytest.raises(UnavailableError):
        versions(store)
    source = trainer.save_steps(1)
    ship(trainer.run, store)
    first = follower.poll()
    assert first is not None
    assert (first.version.name, first.previous, first.patches) == ("step_000001", None, [])
    assert tree(first.path) == tree(source[0])
    assert follower.poll() is None
    source += trainer.save_steps(2, 3)
    ship(trainer.run, store)
    both = follower.poll()
    assert both is not None
    assert both.previous == first.version
    assert both.base == first.path
    assert len(both.patches) == 2
    apply_patch(first.path, both.patches, tmp_path / "applied")
    assert tree(tmp_path / "applied") == tree(source[2]) == tree(both.path)
    assert follower.latest == both.latest == versions(store)[-1]
    assert [v.name for v in versions(store)] == [p.name for p in source]
    kept = {p.name for p in (tmp_path / "models/.sparsediff/patches").iterdir()}
    assert kept == {p.name for p in both.patches}
    for number in (4, 5, 6):
        trainer.save_steps(number)
        ship(trainer.run, store)
        assert follower.poll() is not None
    assert not kept & {p.name for p in (tmp_path / "models/.sparsediff/patches").iterdir()}


def test_followers_share_a_directory_also_with_pull(
    store: Store, trainer: Trainer, tmp_path: Path
) -> None:
    trainer.save_steps(1)
    ship(trainer.run, store)
    pull(store, tmp_path / "models")
    followers = [Follower(store, tmp_path / "models", holding="step_000001") for _ in range(3)]
    assert [f.poll() for f in followers] == [None] * 3
    for number, by_pull in ((2, False), (3, True)):
        trainer.save_steps(number)
        ship(trainer.run, store)
        if by_pull:
            pull(store, tmp_path / "models")  # which keeps no patches
        with ThreadPoolExecutor() as pool:
            arrivals = list(pool.map(Follower.poll, followers))
        for i, arrival in enumerate(arrivals):
            assert arrival is not None
            assert arrival.base is not None
            apply_patch(arrival.base, arrival.patches, tmp_path / f"{number}-{i}")
            assert tree(tmp_path / f"{number}-{i}") == tree(arrival.path)


def test_without_the_base_there_is_a_version_but_no_way(
    store: Store, trainer: Trainer, tmp_path: Path
) -> None:
    trainer.save_steps(1, 2)
    ship(trainer.run, store)
    for holding, previous in (("step_000001", True), ("another", False)):
        models = tmp_path / holding
        arrival = Follower(store, models, holding=holding).poll()
        assert arrival is not None
        assert (arrival.previous is not None) is previous
        assert (arrival.base, arrival.patches) == (None, [])
        assert arrival.path == models / "versions/step_000002"


def test_one_version_and_back(store: Store, trainer: Trainer, tmp_path: Path) -> None:
    trainer.save_steps(1, 2, 3)
    ship(trainer.run, store)
    follower = Follower(store, tmp_path / "models")
    first = follower.poll("step_000001")
    assert first is not None
    assert follower.poll("1") is None
    assert follower.lag == 2
    second = follower.poll("step_000002")
    assert second is not None
    assert (second.base, len(second.patches)) == (first.path, 1)
    back = follower.poll("step_000001")
    assert back is not None
    assert (back.path, back.patches) == (first.path, [])
    follower.holding("step_000002")
    third = follower.poll()
    assert third is not None
    assert third.base == second.path
    with pytest.raises(UsageError, match="no version 'x'"):
        follower.poll("x")


def held_up(store: Store, trainer: Trainer, models: Path) -> int:
    """A version that follows on the one in a directory, which another run has locked."""
    trainer.save_steps(1)
    ship(trainer.run, store)
    pull(store, models)
    trainer.save_steps(2)
    ship(trainer.run, store)
    return lock(models / ".sparsediff/lock", os.O_RDWR)


def test_stop_ends_it_while_another_run_holds_the_directory(
    store: Store, trainer: Trainer, tmp_path: Path
) -> None:
    fd = held_up(store, trainer, tmp_path / "models")
    follower = Follower(store, tmp_path / "models", holding="step_000001")
    arrived: list[Arrival] = []
    following = threading.Thread(target=lambda: arrived.extend(follower), daemon=True)
    following.start()
    while follower.latest is None:
        time.sleep(0.01)
    follower.stop()
    following.join(60)
    assert not following.is_alive()
    assert arrived == []
    assert "another run is writing here" in str(follower.problem)
    os.close(fd)


def test_cancelled_while_another_run_holds_the_directory(
    store: Store, trainer: Trainer, tmp_path: Path
) -> None:
    fd = held_up(store, trainer, tmp_path / "models")
    follower = Follower(store, tmp_path / "models", holding="step_000001")

    async def follow() -> None:
        async for _ in follower:
            raise AssertionError("it is locked")

    async def cancel() -> None:
        following = asyncio.create_task(follow())
        while follower.latest is None:
            await asyncio.sleep(0.01)
        following.cancel()
        await asyncio.wait([following])
        assert following.cancelled()

    ran = threading.Thread(target=lambda: asyncio.run(cancel()), daemon=True)
    ran.start()
    ran.join(60)  # the loop ends when its threads have
    assert not ran.is_alive()
    os.close(fd)
    arrival = next(iter(follower))
    assert arrival.version.name == "step_000002"


def test_what_came_after_it_was_cancelled_comes_again(
    store: Store, trainer: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.close(held_up(store, trainer, tmp_path / "models"))
    follower = Follower(store, tmp_path / "models", holding="step_000001", ack="here")
    reading, may_read, plain = threading.Event(), threading.Event(), DirectoryStore.read

    def read(*args: Any) -> bytes:
        reading.set()
        assert may_read.wait(60)
        return plain(*args)

    monkeypatch.setattr(DirectoryStore, "read", read)

    async def cancel() -> None:
        following = asyncio.ensure_future(anext(aiter(follower)))
        while not reading.is_set():
            await asyncio.sleep(0.01)
        following.cancel()
        await asyncio.wait([following])
        may_read.set()

    asyncio.run(cancel())
    assert (tmp_path / "models/versions/step_000002").is_dir()

    async def follow() -> str:
        arrival = await asyncio.wait_for(anext(aiter(follower)), 60)
        return arrival.version.name

    assert asyncio.run(follow()) == "step_000002"
    (ack,) = read_acks(store)
    assert ack.version == 1  # the other has been taken only now


def test_iteration_waits_for_the_store_and_ends_when_stopped(
    trainer: Trainer, tmp_path: Path
) -> None:
    store = open_store(str(tmp_path / "store"), create=True, retries=0)
    follower = Follower(store, tmp_path / "models", every=0.01)
    arrived = []

    def feed(name: str) -> None:
        arrived.append(name)
        if len(arrived) == 3:
            follower.stop()
            return
        trainer.save_steps(len(arrived) + 1)
        ship(trainer.run, store)

    trainer.save_steps(1)
    shipper = threading.Thread(target=lambda: ship(trainer.run, store))
    shipper.start()
    for arrival in follower:
        feed(arrival.version.name)
    shipper.join()
    assert arrived == ["step_000001", "step_000002", "step_000003"]

    async def follow() -> None:
        again = Follower(store, tmp_path / "models", every=0.01, holding="step_000001")
        pointer = tmp_path / "store/latest.json"
        pointer.rename(tmp_path / "away")

        async def mend() -> None:
            while again.problem is None:
                await asyncio.sleep(0.01)
            assert "missing" in again.problem
            (tmp_path / "away").rename(pointer)

        mending = asyncio.create_task(mend())
        async for arrival in again:
            assert arrival.version.name == "step_000003"
            again.stop()
        await mending
        assert again.problem is None

    asyncio.run(follow())
