"""vLLM's own verbs for weights: the backend ``sparsediff``, for loops that drive an engine.

Enters: ``init_weight_transfer_engine`` with a store, a directory and the version that the
engine was started from; ``update_weights`` with a version. Leaves: the engine at that
version, on all ranks or on none. Raises what went wrong on the last rank only, after all
have agreed: vLLM reads replies in the order of ranks, and after an error of an earlier
one every later reply would go to the call that follows its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)

from sparsediff.errors import UnavailableError, UnsupportedError, UsageError
from sparsediff.shipping.follow import Arrival, Follower
from sparsediff.signing import trust
from sparsediff.stores import open_store
from sparsediff.torch.side import Reply, Side, replied
from sparsediff.vllm.settings import trusted_keys
from sparsediff.vllm.worker import pack_again, unfit

_NO_WAY = {cls.__name__ for cls in (UnavailableError, UnsupportedError, UsageError)}
"""Why staging may fail where a reload may not."""


@dataclass
class InitInfo(WeightTransferInitInfo):
    """What ``init_weight_transfer_engine`` takes.

    Attributes:
        store: path or URL.
        directory: where versions are pulled to; one for all ranks of a host.
        version: the one in ``directory`` that the engine was started from.
        fallback: ``reload`` a version whole where there is no route, or ``refuse`` it.
        trust: list of keys of which one must have signed the store; None: it need not be signed.
    """

    store: str
    directory: str
    version: str
    fallback: str = "reload"
    trust: list[str] | None = None


@dataclass
class UpdateInfo(WeightTransferUpdateInfo):
    """What ``update_weights`` takes.

    Attributes:
        version: name or number of the version to bring the engine to; None for the newest.
        stage: only make it ready, before generation is paused; the same call without this
            then writes it.
    """

    version: str | None = None
    stage: bool = False


class Backend(WeightTransferEngine[InitInfo, UpdateInfo]):
    """One rank's part of it.

    Attributes:
        failed: whether the last update failed on all ranks though only the last one said so.
    """

    init_info_cls = InitInfo
    update_info_cls = UpdateInfo
    supports_draft_weight_update = False

    def __init__(self, config: Any, vllm_config: Any, device: Any, model: Any) -> None:
        super().__init__(config, vllm_config, device, model)
        self._side = Side(lambda: self.model, self._reload, unfit)
        self._follower: Follower | None = None
        self._at: Path | None = None
        self._arrival: Arrival | None = None
        self._routed = self._can_reload = False
        self.failed = False

    def init_transfer_engine(self, init_info: InitInfo) -> None:
        """Record routes and prove them."""

        def learn() -> Reply:
            self._at = Path(init_info.directory, "versions", init_info.version).absolute()
            self._can_reload = init_info.fallback == "reload"
            store = open_store(init_info.store, trust=trust(trusted_keys(init_info.trust)))
            self._follower = Follower(store, init_info.directory, holding=init_info.version)
            return self._side.record(str(self._at))

        replies = self._together(learn)
        self._routed = all(r["ok"] for r in replies)
        if not self._routed and not (self._can_reload and self._follower):
            self._fail("init_weight_transfer_engine", replies)

    def start_weight_update(self) -> None:
        """Nothing is to be prepared."""

    def finish_weight_update(self) -> None:
        """Nothing is left to be done."""

    def shutdown(self) -> None:
        """Let go of what was staged."""
        self._side.release()

    def receive_weights(self, update_info: UpdateInfo) -> None:
        """Stage, write, or both."""
        replies = self._together(lambda: self._prepare(update_info.version))
        if not all(r["ok"] for r in replies):
            kinds = {r["kind"] for r in replies if not r["ok"]}
            if self._arrival is None or not self._can_reload or not kinds <= _NO_WAY:
                self._arrival = None
                self._fail("stage", replies)
                return
            self._side.release()
        if update_info.stage or self._arrival is None:
            return
        arrival, self._arrival = self._arrival, None
        staged = all(r.get("staged") for r in replies)
        self._write(arrival) if staged else self._load(arrival)

    def _prepare(self, version: str | None) -> Reply:
        """Pull a version, and stage it if there is a way; what is staged already stays."""
        if self._follower is None:
            raise UsageError("init_weight_transfer_engine was not called")
        if self._arrival is not None and version in (None, self._arrival.version.name):
            return {"staged": self._side.ready}
        self._side.release()
        self._arrival = self._follower.poll(version)
        if self._arrival is None:
            return {"staged": True}
        if not self._routed or not self._arrival.patches:
            raise UnsupportedError("there is no way from the version that is served")
        self._side.stage_now([str(p) for p in self._arrival.patches], str(self._arrival.base))
        return {"staged": True}

    def _write(self, arrival: Arrival) -> None:
        replies = self._together(self._side.commit)
        if all(r["ok"] for r in replies):
            self._at = arrival.path
            self._side.release()
            return
        undone = self._together(self._side.undo)
        self._back()
        if not all(r["ok"] for r in undone):
            self._together(lambda: self._side.reload(str(self._at)))
        self._fail("commit, taken back on all ranks", replies)

    def _load(self, arrival: Arrival) -> None:
        replies = self._together(lambda: self._side.reload(str(arrival.path)))
        if not all(r["ok"] for r in replies):
            self._together(lambda: self._side.reload(str(self._at)))
            self._back()
            self._fail("reload", replies)
            return
        self._at = arrival.path
        recorded = self._together(lambda: self._side.record(str(self._at)))
        self._routed = all(r["ok"] for r in recorded)

    def _back(self) -> None:
        """Follow from what is served."""
        assert self._follower is not None
        assert self._at is not None
        self._follower.holding(self._at.name)

    def _together(self, work: Callable[[], Reply]) -> list[Reply]:
        """What each rank says, the same on all ranks."""
        own = replied(work)
        from vllm.distributed.parallel_state import get_world_group

        group = get_world_group()
        if group.world_size == 1:
            return [own]
        replies: list[Reply] = [{} for _ in range(group.world_size)]
        torch.distributed.all_gather_object(replies, own, group=group.cpu_group)
        return replies

    def _fail(self, what: str, replies: list[Reply]) -> None:
        from vllm.distributed.parallel_state import get_world_group

        rank, error = next((i, r["error"]) for i, r in enumerate(replies) if not r["ok"])
        group = get_world_group()
        self.failed = True
        if group.rank_in_group == group.world_size - 1:
            raise RuntimeError(f"sparsediff: {what}, rank {rank}: {error}")

    def _reload(self, checkpoint: str) -> None:
        from vllm.model_executor.model_loader.reload import inplace

        inplace.reload_weights(self.vllm_config, self.model, None, checkpoint, True)
        pack_again(self.model)
