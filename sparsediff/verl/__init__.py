"""verl's weights through a store: a checkpoint engine that verl loads by name.

Enters: on the trainer's ranks, names and full tensors, from verl. Leaves: versions in a store,
patches against the ones before; and on the rollout's workers names and full tensors again,
byte for byte those that were sent, read from files that were verified first. For verl to
import, as ``custom_backend_module``, and nobody else.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from verl.checkpoint_engine.base import CheckpointEngine, CheckpointEngineRegistry

from sparsediff import signing
from sparsediff.errors import UnavailableError
from sparsediff.shipping.catalog_json import read_catalog
from sparsediff.shipping.follow import Follower
from sparsediff.shipping.records import Version
from sparsediff.stores import Store, open_store
from sparsediff.torch.publisher import WEIGHTS, ship_stream

_EVERY = 0.2  # seconds from one look at the store to the next


@CheckpointEngineRegistry.register("sparsediff")
class StoreCheckpointEngine(CheckpointEngine):
    """Sends what changed since the last update through a store, and receives it from there.

    Each update is one version. Before it, the trainer's first rank says which version is the
    latest, and every rollout worker waits for the one after that; so a training that was
    taken back to an earlier step goes on with the next number.

    Args:
        bucket_size: of verl; not needed.
        is_master: whether this is the trainer's first rank.
        store: URL or directory, the same for all.
        directory: of each rollout host, where versions are put; workers of a host share it.
        rollout_dtype: that floating point tensors are sent in; None as they are.
        device: of the tensors that rollout workers are given.
        timeout: seconds that a rollout worker waits for the version.
        publisher: arguments of `Publisher`, as ``run`` and ``files``.
        trust: keys of which one must have signed the store, as `signing.public_key` takes them;
            None: it need not be signed.
        signer: keys that sign it, as `signing.private_key` takes them, which only ranks of the
            trainer read; None: it is not signed.
    """

    def __init__(
        self,
        bucket_size: int,
        *,
        store: str,
        directory: str,
        is_master: bool = False,
        rollout_dtype: torch.dtype | str | None = "bfloat16",
        device: str | None = None,
        timeout: float = 1800.0,
        publisher: dict[str, Any] | None = None,
        trust: Sequence[str] | None = None,
        signer: Sequence[str] | None = None,
    ) -> None:
        self._store, self._directory, self._is_first = store, directory, is_master
        if isinstance(rollout_dtype, str):
            rollout_dtype = getattr(torch, rollout_dtype)
        self._dtype: Any = rollout_dtype
        self._device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._timeout, self._publisher = timeout, publisher or {}
        self._trust = signing.trust(signing.environment_keys() if trust is None else trust)
        self._signer = signer
        self._target: Store | None = None  # where this rank publishes
        self._before: tuple[int, int] = 0, 0
        self._follower: Follower | None = None
        self._path: Path | None = None  # of the version that arrived last

    def prepare(self) -> tuple[int, int] | None:
        """On the trainer's first rank: the latest version, and the number of its step."""
        if not self._is_first:
            return None
        latest = self._latest()
        return (0, 0) if latest is None else (latest.version, latest.number or 0)

    @classmethod
    def build_topology(
        cls,
        actor_wg_world_size: int,
        rollout_world_size: int,
        metadata: list[Any],
    ) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
        """Every worker is told what the first rank said; there are no connections."""
        before = next(m for m in metadata if m is not None)
        return {"before": [before] * actor_wg_world_size}, {"before": [before] * rollout_world_size}

    def init_process_group(self, before: tuple[int, int]) -> None:
        """Know the latest version before the update."""
        self._before = before[0], before[1]

    def finalize(self) -> None:
        """There is nothing to end."""

    async def send_weights(
        self, weights: Iterable[tuple[str, torch.Tensor]], global_steps: int | None = None
    ) -> dict[str, float]:
        """Publish the next version; every rank of the trainer must call this.

        Args:
            weights: names and full tensors, the same on every rank.
            global_steps: number of the version's step, if it is larger than the last one's.

        Returns:
            Figures of the update, for verl to log.

        Raises:
            SparsediffError: as `ship_stream` does; no version appears.
        """
        step = max(global_steps or 0, self._before[1] + 1)
        if self._target is None:
            self._target = self._open(signing.signer(self._signer))
        published = ship_stream(self._cast(weights), self._target, step=step, **self._publisher)
        return {
            "checkpoint_engine/payload_mbytes": published.patch_bytes / (1 << 20),
            "checkpoint_engine/make_seconds": published.make_seconds,
            "checkpoint_engine/put_seconds": published.put_seconds,
        }

    async def receive_weights(
        self, global_steps: int | None = None
    ) -> AsyncIterator[tuple[str, torch.Tensor]]:
        """The tensors of the version that is being sent, once it is there, whole and verified.

        Raises:
            UnavailableError: it did not come in time.
            SparsediffError: as `Follower.poll` does.
        """
        path = await asyncio.to_thread(self._arrived)
        with safe_open(path / WEIGHTS, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - it is no dictionary
                yield name, file.get_tensor(name).to(self._device)

    def _cast(
        self, weights: Iterable[tuple[str, torch.Tensor]]
    ) -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in weights:
            floating = self._dtype is not None and tensor.is_floating_point()
            yield name, tensor.detach().to(self._dtype) if floating else tensor.detach()

    def _open(self, signer: signing.Signer | None = None) -> Store:
        return open_store(self._store, create=True, trust=self._trust, signer=signer)

    def _latest(self) -> Version | None:
        found = read_catalog(self._open())
        return None if found is None else found[0].latest

    def _arrived(self) -> Path:
        """Directory of the version after the one that was the latest."""
        end = time.monotonic() + self._timeout
        while True:
            latest = self._latest()
            if latest is not None and latest.version > self._before[0]:
                break
            if time.monotonic() >= end:
                raise UnavailableError(
                    f"no new version within {self._timeout:g} s",
                    file=self._store,
                    expected=f"one after version {self._before[0]}",
                )
            time.sleep(_EVERY)
        if self._follower is None:
            self._follower = Follower(self._open(), self._directory)
        arrival = self._follower.poll(latest.name)
        if arrival is not None:
            self._path = arrival.path
        assert self._path is not None
        return self._path
