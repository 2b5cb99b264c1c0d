"""Versions of a model that many ranks hold together, straight from their memory into a store.

Enters: on every rank, its part of a state dict: whole tensors or shards. Leaves: a version in
the store, a directory with one ``model.safetensors`` of full tensors under their ordinary
names, made from the version before. A patch is cut into buckets as `make` cuts them, and
every rank encodes its share of these; the words of a bucket come together on that rank only,
from whichever ranks hold them, and a copy of its share is what it compares with next time.
What is found out about payloads comes together on the first rank, which publishes when every
rank has put its own. No rank ever has the whole model.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from sparsediff.checkpoint import Checkpoint, CheckpointFile
from sparsediff.checkpoint.memory import bytes_of, memory_checkpoint
from sparsediff.disk.inputs import walk
from sparsediff.disk.temps import scratch_directory
from sparsediff.errors import UnavailableError, UsageError
from sparsediff.parallel import default_jobs
from sparsediff.patch.manifest import Manifest
from sparsediff.shipping import state
from sparsediff.shipping.binding import run_of
from sparsediff.shipping.catalog import Catalog
from sparsediff.shipping.catalog_json import read_catalog
from sparsediff.shipping.kept import check_forward
from sparsediff.shipping.policy import Policy
from sparsediff.shipping.publish import put_version
from sparsediff.shipping.records import Version
from sparsediff.shipping.sealing import check_signer
from sparsediff.stores import Store, open_store
from sparsediff.torch.joint import Joint, make_jointly
from sparsediff.torch.ranks import Ranks
from sparsediff.torch.shards import Held, WholeTensor, assemble, describe
from sparsediff.torch.share import Collect, Copy, from_copy, from_ranks
from sparsediff.torch.tensors import StateDict

WEIGHTS = "model.safetensors"
NOTHING = Checkpoint(Path("<nothing>"), True, [])
Collects = Callable[[Manifest], Collect]


@dataclass(frozen=True, slots=True)
class Published:
    """What `Publisher.publish` did, the same on every rank.

    Attributes:
        version: as the store has it.
        patch_bytes: put into the store.
        make_seconds: to exchange, compare and encode.
        put_seconds: to put and publish.
    """

    version: Version
    patch_bytes: int
    make_seconds: float
    put_seconds: float


class Publisher:
    """Publishes a model that the ranks of a group hold together; one on every rank.

    Memory, per rank and besides the model: a copy of the rank's share of the words, on the
    CPU, and while publishing some 200 MB per job. The copy is lost with the process; the
    version after that is stored whole.

    Args:
        store: directory or URL, as `open_store` takes it, or an open store; the same one for
            every rank, which puts its part of a patch there.
        group: processes that hold the model; None for all, or for this one alone where
            torch.distributed is not in use.
        run: name of the run, which the store is bound to.
        files: directory of what belongs beside the weights, like ``config.json``; read by
            the first rank, for every version.
        metadata: of the safetensors file; default what transformers writes.
        policy: when a version is stored whole.
        jobs: threads of each rank; default all its processors.
        state_directory: where the first rank remembers how far the store was, for the publisher
            after this one: it refuses an older pointer put there meanwhile. Is made if need be.
            Default: that is remembered for as long as this one lives.

    Raises:
        UsageError: there is no such store, or the state directory cannot be one.
        CorruptError: the record in the state directory is damaged.
    """

    def __init__(
        self,
        store: Store | Path | str,
        *,
        group: dist.ProcessGroup | None = None,
        run: str = "model",
        files: Path | str | None = None,
        metadata: Mapping[str, str] | None = None,
        policy: Policy | None = None,
        jobs: int | None = None,
        state_directory: Path | str | None = None,
    ) -> None:
        self._ranks = Ranks(group)
        self._run, self._policy = run_of(Path(run)), policy or Policy()
        self._files = None if files is None else Path(files)
        self._metadata = {"format": "pt"} if metadata is None else metadata
        self._jobs = jobs or default_jobs()
        for turn in (True, False):  # the first rank before the others: it may have to make one
            with self._ranks.together():
                if turn == (self._ranks.rank == 0):
                    if isinstance(store, (Path, str)):
                        store = open_store(str(store), create=turn)
                    self._store = store
        self._home = None if state_directory is None else Path(state_directory)
        self._sent = state.Sent()  # on the first rank
        with self._ranks.together():
            if self._home is not None and self._ranks.rank == 0:
                self._sent = state.load_sent(state.own_directory(self._home))
        self._held: list[Held] | None = None
        self._tensors: dict[str, WholeTensor] = {}
        self._copy = Copy()
        self._base: Checkpoint | None = None  # what the copy is of,
        self._place: tuple[str, int] | None = None  # and where that is: history and version

    def publish(self, state_dict: StateDict, step: int) -> Published:
        """Publish the state of a step; every rank must call this with its part of it.

        The tensors must not change meanwhile. If it fails, no version appears, and the next
        call makes up for it; only if the state directory cannot be written there is one already,
        and the next must be of a later step.

        Args:
            state_dict: tensors by name, on any device: whole ones, on one rank or on
                several, and DTensors.
            step: number of the checkpoint, larger than the last.

        Raises:
            UsageError: ranks disagree about a tensor, or the store holds another run, or
                a later step.
            UnsupportedError: an entry is no tensor with ordinary memory, nor in shards of
                such.
            UnavailableError: the store is out of reach, or empty again, or another writer was
                faster, or a rank is gone.
            UntrustedError: the store has gone back to an older pointer.
            LockedError: another writer held the lock of a store in a directory for half a minute.
            SparsediffError: another rank had one.
        """
        started = time.monotonic()
        held = self._look_at(state_dict)
        target = self._checkpoint()
        catalog, base = self._before(step)
        try:
            with ExitStack() as stack:
                with self._ranks.together():
                    scratch = stack.enter_context(scratch_directory())
                made = self._make(base, target, held, catalog, scratch)
                made_at = time.monotonic()
                version, place = self._put(catalog, made, step)
        except BaseException:
            self._copy.undo()
            raise
        self._copy.accept()
        self._base, self._place = target, place
        return Published(
            version,
            sum(p.n_bytes for p in version.patches),
            made_at - started,
            time.monotonic() - made_at,
        )

    def _look_at(self, state_dict: StateDict) -> dict[str, torch.Tensor]:
        """This rank's words by name; and who holds what, if that is not as it was."""
        with self._ranks.together():
            held, mine = describe(state_dict)
        if not all(self._ranks.gather(held == self._held)):
            by_rank = self._ranks.gather(held)
            self._held, self._base = held, None
            self._copy.forget()
            with self._ranks.together():
                self._tensors = assemble(by_rank)
        return mine

    def _checkpoint(self) -> Checkpoint:
        """The checkpoint to be published, words left out."""
        beside: dict[str, bytes] = {}
        with self._ranks.together():
            if self._ranks.rank == 0 and self._files is not None:
                beside = {n: p.read_bytes() for n, p in walk(self._files) if n != WEIGHTS}
        beside = self._ranks.gather(beside)[0]
        with self._ranks.together():
            weights = memory_checkpoint(
                {name: whole.in_memory() for name, whole in self._tensors.items()},
                self._metadata,
                "<model>",
            ).files[0]
        files = [
            CheckpointFile(name, _Small(Path(name), data), []) for name, data in beside.items()
        ]
        files.append(CheckpointFile(WEIGHTS, weights.source, weights.spans))
        return Checkpoint(Path("<model>"), True, sorted(files, key=lambda f: f.name))

    def _before(self, step: int) -> tuple[Catalog | None, Checkpoint]:
        """The catalog, on the first rank; and what the patch starts from, nothing if it must."""
        catalog: Catalog | None = None
        goes_on = False
        with self._ranks.together():
            if self._ranks.rank == 0:
                found = read_catalog(self._store)
                catalog = None if found is None else found[0]
                check_signer(self._store, catalog)
                self._check_forward(catalog)
                if catalog is not None:
                    self._check(catalog, step)
                    here = catalog.id, catalog.latest.version
                    goes_on = here == self._place and not catalog.is_lost(catalog.latest)
        # A rank that was not told of the last version has the words of one before.
        told = self._ranks.gather((goes_on, self._place))
        goes_on = told[0][0] and all(place == told[0][1] for _, place in told)
        return catalog, self._base if goes_on and self._base is not None else NOTHING

    def _check_forward(self, catalog: Catalog | None) -> None:
        """Raise unless the store is where this left it, or further, or in another history."""
        if self._sent.id is None:
            return
        if catalog is None:
            raise UnavailableError(
                "holds nothing, though versions were published here: is it mounted? To begin anew, "
                "make a new `Publisher`, with another `state_directory` if it has one",
                file=self._store.name,
            )
        check_forward(self._sent, catalog, self._store.name, "put its newest pointer back")

    def _check(self, catalog: Catalog, step: int) -> None:
        if catalog.run is not None and catalog.run.name != self._run.name:
            raise UsageError(
                "holds the checkpoints of another run; give this one a store of its own, or "
                "name it by `run`",
                file=self._store.name,
                expected=self._run.name,
                found=catalog.run.name,
            )
        last = catalog.latest.number
        if last is not None and step <= last:
            raise UsageError(
                "steps must increase", file=self._store.name, expected=f"after {last}", found=step
            )

    def _make(
        self,
        base: Checkpoint,
        target: Checkpoint,
        held: dict[str, torch.Tensor],
        catalog: Catalog | None,
        scratch: Path,
    ) -> list[Joint]:
        """The patches of the version."""

        def joint(start: int | None, base: Checkpoint, collects: Collects, room: Path) -> Joint:
            return make_jointly(
                start, base, target, self._copy, collects, self._ranks, room, self._jobs
            )

        start = None if base is NOTHING or self._place is None else self._place[1]
        from_held = partial(from_ranks, self._tensors, held, self._ranks)
        made = [joint(start, base, from_held, scratch / "step")]
        step = made[0].result  # on the first rank
        wants_anchor = False
        with self._ranks.together():  # older versions may be read for it
            if start is not None and step is not None:
                wants_anchor = self._policy.wants_anchor(catalog, step.patch_bytes)
        if self._ranks.gather(wants_anchor)[0]:
            collect = from_copy(self._copy, self._ranks)
            made.append(joint(None, NOTHING, lambda _: collect, scratch / "anchor"))
        return made

    def _put(
        self, catalog: Catalog | None, made: list[Joint], step: int
    ) -> tuple[Version, tuple[str, int]]:
        """Put patches, and publish from the first rank; every rank is told the version's place."""
        number, takes_parts = self._ranks.gather(
            (1, True) if catalog is None else (catalog.latest.version + 1, catalog.layout > 1)
        )[0]
        put = [j.put(self._ranks, self._store, number, takes_parts=takes_parts) for j in made]
        told: tuple[Version, tuple[str, int]] | None = None
        with self._ranks.together():
            if self._ranks.rank == 0:
                patches = [patch for patch in put if patch is not None]
                name = f"step_{step:06}"
                after = put_version(self._store, catalog, patches, name, step, self._run)
                told = after.latest, (after.id, after.latest.version)
                self._remember(after)
        told = self._ranks.gather(told)[0]
        assert told is not None
        return told

    def _remember(self, catalog: Catalog) -> None:
        """How far the store is now, and in which history."""
        self._sent = replace(
            self._sent,
            store=self._store.name,
            id=catalog.id,
            newest=catalog.latest.version,
            rewind=catalog.rewind,
        )
        if self._home is not None:
            state.save(self._home, self._sent)


_publishers: dict[tuple[Store | str, dist.ProcessGroup | None], Publisher] = {}


def publish(
    state_dict: StateDict,
    store: Store | Path | str,
    group: dist.ProcessGroup | None = None,
    *,
    step: int,
    **options: Any,
) -> Published:
    """`Publisher.publish` of the one publisher that this process has for a store and a group.

    Args:
        state_dict: tensors by name, this rank's part of them.
        store: directory or URL, or an open store.
        group: processes that hold the model.
        step: number of the checkpoint.
        options: of `Publisher`, when the store is published to for the first time.

    Raises:
        SparsediffError: as `Publisher.publish` does.
    """
    key = str(store) if isinstance(store, Path) else store, group
    if key not in _publishers:
        _publishers[key] = Publisher(store, group=group, **options)
    return _publishers[key].publish(state_dict, step)


def ship_stream(
    tensors: Iterable[tuple[str, torch.Tensor]],
    store: Store | Path | str,
    group: dist.ProcessGroup | None = None,
    *,
    step: int,
    **options: Any,
) -> Published:
    """`publish` full tensors that come one by one, the same on every rank.

    So they come from those who gather one tensor after the other. Every rank drains
    ``tensors``, and copies those that fall to it, by size, to its CPU: besides the model
    that is one share of it, until this returns.

    Args:
        tensors: names and full tensors, on every rank in the same order.
        store: directory or URL, or an open store.
        group: processes that hold the model.
        step: number of the checkpoint.
        options: of `Publisher`, when the store is published to for the first time.

    Raises:
        SparsediffError: as `Publisher.publish` does.
    """
    ranks = Ranks(group)
    n_bytes = [0] * ranks.size
    mine = {}
    for name, tensor in tensors:
        owner = n_bytes.index(min(n_bytes))
        n_bytes[owner] += tensor.nbytes
        if owner == ranks.rank:
            mine[name] = tensor.detach().to("cpu", copy=True)
    return publish(mine, store, group, step=step, **options)


@dataclass(frozen=True, slots=True)
class _Small:
    """A file that is small enough to be in memory on every rank."""

    path: Path
    data: bytes

    @property
    def size(self) -> int:
        return len(self.data)

    def read_into(self, offset: int, buffer: Any) -> None:
        out = bytes_of(buffer)
        out[:] = memoryview(self.data)[offset : offset + out.size]

    def read(self, offset: int, size: int) -> bytes:
        return self.data[offset : offset + size]

    def check_unchanged(self) -> None:
        pass
