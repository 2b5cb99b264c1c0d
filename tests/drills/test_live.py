"""Publisher and Follower where disks and networks fail, and killed: old or new, never half."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sparsediff import Follower, open_store, pull, versions
from sparsediff.errors import SparsediffError, UnavailableError
from sparsediff.shipping.catalog_json import POINTER
from sparsediff.shipping.check import check
from sparsediff.shipping.objects import keys_of
from sparsediff.shipping.ship import ship
from sparsediff.stores import Store
from sparsediff.torch import Publisher, apply_to_state_dict
from tests.support.commands import left_over
from tests.support.faulty import FAULTS, FaultyProxy
from tests.support.kills import killed_at_each_point
from tests.support.limits import limited
from tests.support.pairs import tree
from tests.support.processes import use
from tests.support.runs import Trainer, catalog_of
from tests.support.seaweed import Seaweed
from tests.support.touches import Touched
from tests.support.touches import touched as touched

State = dict[str, torch.Tensor]
SOME = 6  # of these points one
CODES = [
    (errno.ENOSPC, SOME),
    pytest.param(errno.ENOSPC, 1, marks=pytest.mark.slow),
    pytest.param(errno.EIO, 1, marks=pytest.mark.slow),
]


def failing(code: int) -> Callable[[], None]:
    def fail() -> None:
        raise OSError(code, os.strerror(code))

    return fail


# A publisher


def state(step: int) -> State:
    """Words of a step, which none before has in their places."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(3000, generator=generator).bfloat16()
    weight[step * 50 : step * 50 + 50] += step
    return {"weight": weight, "bias": torch.full((7,), float(step))}


@pytest.mark.parametrize(("code", "step"), CODES)
def test_publishing_on_a_disk_that_fails(
    code: int, step: int, tmp_path: Path, touched: Touched
) -> None:
    """Scratch files, too: all that it writes lies below one directory."""
    live = tmp_path / "live"
    scratch = live / "scratch"
    scratch.mkdir(parents=True)
    n_failed = 0
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("tempfile.tempdir", str(scratch))
        store = open_store(str(live / "store"), create=True, retries=0)
        publisher = Publisher(store, jobs=1)
        publisher.publish(state(0), 0)
        for n in range(1, 200, step):
            before = [v.number for v in versions(store)]
            failed, raised = touched.before(n, failing(code)), False
            try:
                publisher.publish(state(2 * n - 1), 2 * n - 1)
            except UnavailableError as e:
                assert os.strerror(code).lower() in str(e), failed  # noqa: PT017
                assert "\n" not in str(e)  # noqa: PT017
                n_failed, raised = n_failed + 1, True
            touched.leave()
            published = [v.number for v in versions(store)]
            assert published in (before, [*before, 2 * n - 1]), failed
            assert not left_over(live / "store"), failed
            assert not os.listdir(scratch) or failed[0].startswith("removal"), failed
            if not failed:
                break
            done = publisher.publish(state(2 * n), 2 * n)
            assert not os.listdir(scratch), failed
            assert (done.version.step is None) == (raised and published != before), failed
    assert n_failed >= 12 // step
    last = f"step_{2 * n - 1:06}"
    pull(store, tmp_path / "dest")
    save_file(state(2 * n - 1), tmp_path / "want", {"format": "pt"})
    found = tmp_path / f"dest/versions/{last}/model.safetensors"
    assert found.read_bytes() == (tmp_path / "want").read_bytes()
    check(store, now=time.time() + 10, grace=5, repair=True)
    assert {o.key for o in store.list("")} == keys_of(store, catalog_of(store)) | {POINTER}


# A follower


class Engine:
    """Live tensors, and a follower that says what becomes of them.

    Args:
        store: with one version, which the tensors begin with.
        trainer: that ships to it.
        directory: of the follower.
    """

    def __init__(self, store: Store, trainer: Trainer, directory: Path) -> None:
        self.store, self.trainer = store, trainer
        self.saved = trainer.save_steps(1)
        ship(trainer.run, open_store(store.name), jobs=1)
        pull(store, directory, jobs=1)
        self.follower = Follower(store, directory, holding="step_000001", jobs=1)
        self.tensors = self.of(0)

    def of(self, i: int) -> State:
        """What the tensors are in a version."""
        found: State = {}
        for file in self.saved[i].glob("*.safetensors"):
            found |= load_file(file)
        return found

    def ship(self) -> None:
        """The next version."""
        self.saved += self.trainer.save_steps(len(self.saved) + 1)
        ship(self.trainer.run, open_store(self.store.name), jobs=1)

    def holds(self, i: int) -> bool:
        return all(torch.equal(t, self.tensors[name]) for name, t in self.of(i).items())

    def look(self) -> str:
        """Look once, and take over what has come: "" or the error."""
        try:
            arrival = self.follower.poll()
            if arrival is None:
                return ""
            assert tree(arrival.path) == tree(self.saved[-1])
            assert arrival.patches, "there was a way"
            (patch,) = arrival.patches
            apply_to_state_dict(patch, self.tensors, jobs=1)
        except SparsediffError as e:
            assert isinstance(e, UnavailableError), e  # noqa: PT017
            assert "\n" not in str(e)  # noqa: PT017
            return str(e)
        return ""


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    store = open_store(str(tmp_path / "store"), create=True, retries=0)
    return Engine(store, Trainer(tmp_path / "run", n=300), tmp_path / "live/dest")


def follows_on(engine: Engine, failed: str, about: object) -> None:
    """After a look that may have failed: nothing is half, and the next look brings what is new."""
    last = len(engine.saved) - 1
    assert engine.holds(last - 1 if failed else last), about
    shown = tree(engine.follower._directory / "current")
    assert shown in (tree(engine.saved[last - 1]), tree(engine.saved[last])), about
    assert engine.look() == "", about
    assert engine.holds(last), about


@pytest.mark.parametrize(("code", "step"), CODES)
def test_following_on_a_disk_that_fails(
    code: int, step: int, engine: Engine, tmp_path: Path, touched: Touched
) -> None:
    n_failed = 0
    for n in range(1, 200, step):
        engine.ship()
        where = touched.before(n, failing(code))
        failed = engine.look()
        touched.leave()
        assert not failed or (where and os.strerror(code).lower() in failed), (n, where, failed)
        n_failed += bool(failed)
        follows_on(engine, failed, (n, where, failed))
        assert not left_over(tmp_path / "live"), (n, where)
        if not where:
            break
    assert n_failed > 20 // step
    assert n < 190


def test_following_with_few_descriptors(engine: Engine, tmp_path: Path) -> None:
    lowest = os.dup(0)
    os.close(lowest)
    engine.ship()
    assert engine.look() == ""  # everything is imported
    for n in range(100):
        engine.ship()
        with limited(resource.RLIMIT_NOFILE, lowest + n):
            failed = engine.look()
        follows_on(engine, failed, (n, failed))
        assert not left_over(tmp_path / "live"), n
        if not failed:
            break
    assert 3 < n < 99


def test_following_that_is_killed(engine: Engine, tmp_path: Path) -> None:
    """Whoever begins again holds in memory what it was at before, or nothing."""
    engine.ship()
    live, saved = tmp_path / "live", tmp_path / "saved"
    shutil.copytree(live, saved, symlinks=True)
    contents = [tree(path) for path in engine.saved]

    def prepare() -> None:
        shutil.rmtree(live)
        shutil.copytree(saved, live, symlinks=True)

    def follower(holding: str | None) -> Follower:
        return Follower(engine.store, live / "dest", holding=holding, jobs=1)

    def act() -> None:
        assert follower("step_000001").poll() is not None

    points = []
    for i, point in enumerate(killed_at_each_point(prepare, act, tmp_path / "log", live)):
        points.append(point)
        assert tree(live / "dest/current") in contents, point
        arrival = follower("step_000001" if i % 4 else None).poll()
        assert arrival is not None, point
        assert tree(arrival.path) == contents[1], point
        if i % 4:
            (patch,) = arrival.patches
            tensors = engine.of(0)
            apply_to_state_dict(patch, tensors, jobs=1)
            assert all(torch.equal(t, tensors[name]) for name, t in engine.of(1).items()), point
        assert not left_over(live), point
    assert len(points) > 20


@pytest.fixture
def proxy(seaweed: Seaweed) -> Iterator[FaultyProxy]:
    with FaultyProxy(seaweed.ports["s3"]) as proxy:
        yield proxy


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(
    ("where", "most"), [("GET .*/versions/", 1), pytest.param("", 99, marks=pytest.mark.slow)]
)
def test_following_a_store_that_fails(
    where: str,
    most: int,
    fault: str,
    seaweed: Seaweed,
    proxy: FaultyProxy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = open_store(use(seaweed, monkeypatch, proxy.port), retries=0)
    engine = Engine(store, Trainer(tmp_path / "run", n=300), tmp_path / "live/dest")
    n_spoiled = 0
    for n in range(1, most + 1):
        engine.ship()
        proxy.spoil(fault, where, n)
        failed = engine.look()
        spoiled = proxy.has_spoiled
        requests = proxy.requests
        proxy.spoil(None)
        assert spoiled or not failed, (n, failed, requests)
        follows_on(engine, failed, (n, failed, requests))
        n_spoiled += spoiled
        if not spoiled:
            break
    assert n_spoiled
    assert n < 99
