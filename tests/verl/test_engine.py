"""verl's checkpoint engine through a store, against verl's own classes, where it is installed.

The steps of an update are those of verl's `CheckpointEngineManager`, called one by one.
"""

from __future__ import annotations

import asyncio
import importlib
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sparsediff.errors import UnavailableError, UntrustedError, UsageError
from sparsediff.shipping.catalog_json import POINTER, read_catalog
from sparsediff.shipping.follow import versions
from sparsediff.shipping.sealing import write_catalog
from sparsediff.stores import open_store
from tests.support.keys import new_key

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

pytestmark = pytest.mark.filterwarnings("ignore")

Tensors = dict[str, Any]


class Loop:
    """One rank of a trainer and two rollout workers, as verl makes them from its settings."""

    def __init__(self, tmp_path: Path, **settings: Any) -> None:
        pytest.importorskip("verl", reason="verl is not installed")
        base = importlib.import_module("verl.checkpoint_engine.base")
        libraries = importlib.import_module("verl.utils.import_utils")
        libraries.import_external_libs("sparsediff.verl")  # custom_backend_module
        kwargs = {"store": str(tmp_path / "store"), "directory": str(tmp_path / "host")} | settings
        new = base.CheckpointEngineRegistry.new
        self.cls = base.CheckpointEngineRegistry.get("sparsediff")
        self.trainer = new("sparsediff", is_master=True, bucket_size=1 << 20, **kwargs)
        self.workers = [new("sparsediff", bucket_size=1 << 20, **kwargs) for _ in range(2)]

    def connect(self) -> None:
        metadata = [e.prepare() for e in (self.trainer, *self.workers)]
        actor, rollout = self.cls.build_topology(1, 2, metadata)
        self.trainer.init_process_group(**{k: v[0] for k, v in actor.items()})
        for i, worker in enumerate(self.workers):
            worker.init_process_group(**{k: v[i] for k, v in rollout.items()})

    def update(self, weights: Tensors, step: int | None) -> tuple[dict[str, float], list[Tensors]]:
        """One update: what the trainer is told, and what arrives at each worker."""
        self.connect()
        told: list[dict[str, float]] = []

        def send() -> None:
            told.append(asyncio.run(self.trainer.send_weights(iter(weights.items()), step)))

        async def receive(worker: Any) -> Tensors:
            return {name: tensor async for name, tensor in worker.receive_weights(step)}

        async def all_receive() -> list[Tensors]:
            waiting = [asyncio.create_task(receive(w)) for w in self.workers]
            await asyncio.to_thread(send)
            return await asyncio.gather(*waiting)

        received = asyncio.run(all_receive())
        for engine in (self.trainer, *self.workers):
            engine.finalize()
        return told[0], received


def weights_of(step: int) -> Tensors:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        f"layers.{i}.weight": torch.randn(64, 32, generator=generator) * 0.02 for i in range(3)
    }
    tensors["layers.0.weight"][: step + 1] += 1.0
    return tensors | {"steps": torch.tensor([step])}


def same(received: Tensors, sent: Tensors, dtype: Any) -> bool:
    expected = {n: t.to(dtype) if t.is_floating_point() else t for n, t in sent.items()}
    return received.keys() == expected.keys() and all(
        received[n].dtype == t.dtype and torch.equal(received[n], t) for n, t in expected.items()
    )


def test_every_update_arrives_at_every_worker(tmp_path: Path) -> None:
    loop = Loop(tmp_path)
    sizes = []
    for step in (5, 6, 7):
        told, received = loop.update(weights_of(step), step)
        assert all(same(r, weights_of(step), torch.bfloat16) for r in received)
        sizes.append(told["checkpoint_engine/payload_mbytes"])
    assert max(sizes[1:]) < sizes[0] / 4  # patches after the first
    assert [v.number for v in versions(open_store(str(tmp_path / "store")))] == [5, 6, 7]


def test_training_that_was_taken_back_goes_on(tmp_path: Path) -> None:
    Loop(tmp_path, rollout_dtype=None).update(weights_of(5), 5)
    again = Loop(tmp_path, rollout_dtype=None)  # new processes
    for step in (3, None):
        _, received = again.update(weights_of(step or 0), step)
        assert all(same(r, weights_of(step or 0), torch.float32) for r in received)
    assert [v.number for v in versions(open_store(str(tmp_path / "store")))] == [5, 6, 7]


def test_what_is_loaded_is_the_version_that_arrived_whatever_its_directory_is_called(
    tmp_path: Path,
) -> None:
    """One of the same name is there, of the history from before."""
    Loop(tmp_path, rollout_dtype=None).update(weights_of(5), 5)
    shutil.rmtree(tmp_path / "store")
    again = Loop(tmp_path, rollout_dtype=None)
    again.connect()
    asyncio.run(again.trainer.send_weights(iter(weights_of(6).items()), 5))
    store = open_store(str(tmp_path / "store"))
    found = read_catalog(store)
    assert found is not None
    assert write_catalog(store, replace(found[0], rewind=1), found[1])  # as ship --rewind does

    async def receive(worker: Any) -> Tensors:
        return {name: tensor async for name, tensor in worker.receive_weights(5)}

    received = [asyncio.run(receive(worker)) for worker in again.workers]
    assert all(same(r, weights_of(6), torch.float32) for r in received)


def test_worker_does_not_wait_for_ever(tmp_path: Path) -> None:
    loop = Loop(tmp_path, timeout=0.0)
    loop.connect()

    async def receive() -> None:
        async for _ in loop.workers[0].receive_weights(1):
            pass

    with pytest.raises(UnavailableError, match="no new version within 0 s"):
        asyncio.run(receive())


def test_what_the_trainer_signs_is_taken_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, other = new_key(tmp_path / "key"), new_key(tmp_path / "other")
    trusted, signing = [str(key.public)], [str(key.key)]
    told, received = Loop(tmp_path, trust=trusted, signer=signing).update(weights_of(5), 5)
    assert told["checkpoint_engine/payload_mbytes"] > 0
    assert all(same(r, weights_of(5), torch.bfloat16) for r in received)
    pointer = tmp_path / "store" / POINTER
    signed = pointer.read_bytes()
    for settings in (
        {"trust": [str(other.public)], "signer": signing},
        {"trust": [str(other.public)]},
    ):
        stranger = Loop(tmp_path, **settings)
        with pytest.raises(UntrustedError, match="no signature is trusted"):
            stranger.trainer.prepare()
        with pytest.raises(UntrustedError, match="no signature is trusted"):
            stranger.workers[0]._arrived()
    with pytest.raises(UsageError, match="this store is signed"):
        asyncio.run(Loop(tmp_path).trainer.send_weights(iter(weights_of(6).items()), 6))
    assert pointer.read_bytes() == signed
    monkeypatch.setenv("SPARSEDIFF_TRUST", str(other.public))
    with pytest.raises(UntrustedError, match="no signature is trusted"):
        Loop(tmp_path).workers[0]._arrived()
    with pytest.raises(UsageError, match="one at least"):
        Loop(tmp_path, trust=[])
