"""The way of the weights: from the trainer's memory into a store, out of it into live models.

Enters: state dicts, step by step. Leaves: versions of a store, which `sparsediff log`
and `pull` read as well, or, for comparison, whole files of weights. Patches are made of tensors
where they are, and no checkpoint is written for it. A follower keeps the versions on the other
side's disk, verified; what changed is decoded beside the running model, and only writing it is a
pause.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import sparsediff
from sparsediff import CorruptError, Follower, UnavailableError, open_store, versions
from sparsediff.torch import Publisher as SparsePublisher
from sparsediff.torch import iter_updates

State = dict[str, Tensor]
Changes = dict[str, tuple[Tensor | None, Tensor]]
"""By tensor, positions and the words that belong there; no positions: all of it."""


@dataclass(frozen=True)
class Published:
    """What one version took.

    Attributes:
        n_bytes: sent.
        whole_bytes: of the weights as a file.
        density: share of the words that changed; None where it is not known.
        make: seconds to make what is sent.
        publish: seconds to send it.
    """

    n_bytes: int
    whole_bytes: int
    density: float | None
    make: float
    publish: float


class Publisher:
    """Writes versions into a store.

    Args:
        store: its directory or URL.
        scratch: where whole weights lie until they were sent.
        whole: send weights whole, as files, instead of patches.
    """

    def __init__(self, store: str, scratch: Path, whole: bool) -> None:
        self._store = open_store(store, create=True)
        self._scratch, self._whole = scratch, whole
        self._publisher = SparsePublisher(self._store, run="policy", jobs=1)

    def publish(self, state: State, step: int) -> Published:
        """Publish the weights of a step, 0 and up, one after the other."""
        if not self._whole:
            done = self._publisher.publish(state, step)
            return Published(
                done.patch_bytes,
                done.version.n_bytes,
                done.version.density,
                done.make_seconds,
                done.put_seconds,
            )
        started = time.perf_counter()
        path = self._scratch / f"{step:06}"
        save_file(state, path)
        made = time.perf_counter()
        self._store.put(whole_key(step), path)
        n_bytes = path.stat().st_size
        path.unlink()
        return Published(n_bytes, n_bytes, None, made - started, time.perf_counter() - made)


def version_name(step: int) -> str:
    """What the version of a step is called in the store."""
    return f"step_{step:06}"


def whole_key(step: int) -> str:
    """Where the whole weights of a step lie."""
    return f"whole/{step:06}.safetensors"


@dataclass(frozen=True)
class Arrived:
    """A version that has arrived and is ready to be written into a model.

    Attributes:
        step: whose weights it leads to.
        fetch: seconds until it lay here, whole and verified.
        apply: seconds to make ready what the pause writes.
        new: what is to be written.
    """

    step: int
    fetch: float
    apply: float
    new: Changes


def follow(store: str, directory: Path, last: int, whole: bool) -> Iterator[Arrived]:
    """Versions in order as they appear, up to step ``last``; waits for each."""
    opened = open_store(store, create=True)
    follower = Follower(opened, directory, jobs=1)
    for step in range(last + 1):
        while not is_there(opened, step, whole):
            time.sleep(0.01)
        started = time.perf_counter()
        if whole:
            path = directory / f"{step:06}.safetensors"
            path.write_bytes(opened.read(key := whole_key(step), 0, opened.size(key) or 0))
            arrival = None
        else:
            arrival = follower.poll(version_name(step))
            assert arrival is not None
            path = arrival.path / "model.safetensors"
        fetched = time.perf_counter()
        if arrival is None or arrival.base is None:
            new: Changes = {n: (None, words_of(t)) for n, t in load_file(path).items()}
        else:
            updates = iter_updates(arrival.patches, arrival.base, jobs=1)
            new = {u.name: (u.indices, u.words) for u in updates}
        yield Arrived(step, fetched - started, time.perf_counter() - fetched, new)


def is_there(store: sparsediff.Store, step: int, whole: bool) -> bool:
    """Whether a step's weights have been published."""
    if whole:
        return store.size(whole_key(step)) is not None
    try:
        return any(v.name == version_name(step) for v in versions(store))
    except (UnavailableError, CorruptError):  # nothing yet, or objects and no pointer yet
        return False


def swap(model: nn.Module, arrived: Arrived) -> None:
    """Give a live model, which held the version before, the words of this one."""
    state = model.state_dict()
    for name, (at, words) in arrived.new.items():
        held = words_of(state[name])
        if at is None:
            held.copy_(words)
        else:
            held.view(-1).index_copy_(0, at, words)


def words_of(tensor: Tensor) -> Tensor:
    """The words of a bf16 tensor, in the same memory."""
    return tensor.view(torch.int16)


def same_words(model: nn.Module, state: State) -> bool:
    """Whether a model of bf16 weights holds ``state``, bit for bit."""
    held = model.state_dict()
    return held.keys() == state.keys() and all(
        t.dtype == state[n].dtype and torch.equal(words_of(t), words_of(state[n]))
        for n, t in held.items()
    )
