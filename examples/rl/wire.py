"""The way of the weights: from the trainer's memory into a store, out of it into live models.

Enters: state dicts, step by step. Leaves: versions of a store of layout 1, which `sparsediff log`
and `pull` read as well, or, for comparison, whole files of weights. Patches are made of tensors
where they are and applied to tensors where they are; no checkpoint is written on the way.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

import sparsediff
from sparsediff.shipping.catalog import Catalog, StoredPatch, Version, object_key
from sparsediff.shipping.catalog_json import read_catalog
from sparsediff.shipping.fetch import digest_file, fetch
from sparsediff.shipping.sealing import write_catalog
from sparsediff.stats import stats_of_result
from sparsediff.stores import open_store
from sparsediff.torch import apply_to_module, make_patch, snapshot

State = dict[str, torch.Tensor]


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
        scratch: where a patch lies until it was sent.
        whole: send weights whole, as files, instead of patches.
    """

    def __init__(self, store: str, scratch: Path, whole: bool) -> None:
        self._store = open_store(store, create=True)
        self._scratch, self._whole = scratch, whole
        self._base: State | None = None

    def publish(self, state: State, step: int) -> Published:
        """Publish the weights of a step, 0 and up, one after the other."""
        started = time.perf_counter()
        path = self._scratch / f"{step:06}"
        if self._whole:
            save_file(state, path)
            made = time.perf_counter()
            self._store.put(whole_key(step), path)
            n_bytes = whole_bytes = path.stat().st_size
            density = None
        else:
            stats = stats_of_result(make_patch(self._base, state, path))
            if self._base is None:
                self._base = snapshot(state)
            else:
                self._base.update_(state)  # type: ignore[attr-defined]
            made = time.perf_counter()
            self._list(path, stats.target_bytes, stats.total.n_elements, stats.total.n_changed)
            n_bytes, whole_bytes = path.stat().st_size, stats.target_bytes
            density = stats.total.density if step else None
        path.unlink()
        sent = time.perf_counter() - made
        return Published(n_bytes, whole_bytes, density, made - started, sent)

    def _list(self, path: Path, n_bytes: int, n_elements: int, n_changed: int) -> None:
        """Put the patch, then the pointer that names it."""
        found = read_catalog(self._store)
        catalog, tag = found if found is not None else (None, None)
        number = 1 if catalog is None else catalog.latest.version + 1
        base = None if catalog is None else number - 1
        name, digest = f"step_{number - 1:06}", digest_file(path)
        key = object_key(number, name, base, digest)
        self._store.put(key, path)
        version = Version(
            version=number,
            name=name,
            number=number - 1,
            source=digest[:32],
            shipped=float(int(time.time())),
            n_bytes=n_bytes,
            n_elements=n_elements,
            n_changed=None if base is None else n_changed,
            patches=(StoredPatch(base, key, path.stat().st_size, digest),),
        )
        if catalog is None:
            after = Catalog(uuid.uuid4().hex, (version,))
        else:
            after = catalog.published(version)
        if not write_catalog(self._store, after, tag):
            raise RuntimeError(f"{self._store.name}: somebody else publishes here")


def whole_key(step: int) -> str:
    """Where the whole weights of a step lie."""
    return f"whole/{step:06}.safetensors"


@dataclass(frozen=True)
class Fetched:
    """A version that has arrived.

    Attributes:
        step: whose weights it leads to.
        path: of the patch, or of the weights.
        seconds: to fetch it.
    """

    step: int
    path: Path
    seconds: float


def follow(store: str, directory: Path, last: int, whole: bool) -> Iterator[Fetched]:
    """Versions in order as they appear, up to step ``last``; waits for each."""
    opened = open_store(store, create=True)
    for step in range(last + 1):
        while True:
            n_bytes = opened.size(whole_key(step)) if whole else None
            found = None if whole else read_catalog(opened)
            version = None if found is None else found[0].get(step + 1)
            if n_bytes is not None or version is not None:
                break
            time.sleep(0.01)
        started = time.perf_counter()
        if version is not None:
            (path,), _ = fetch(opened, version.patches, directory, streams=1)
        else:
            assert n_bytes is not None
            path = directory / f"{step:06}.safetensors"
            path.write_bytes(opened.read(whole_key(step), 0, n_bytes))
        yield Fetched(step, path, time.perf_counter() - started)


def swap(model: nn.Module, fetched: Fetched, whole: bool) -> None:
    """Give a live model the weights of a version, in place; it held those of the one before."""
    if whole:
        copy(model, load_file(fetched.path))
    elif fetched.step:
        apply_to_module(fetched.path, model, jobs=1)
    else:  # an anchor leads to a file from nothing
        nothing, first = fetched.path.with_suffix(".nothing"), fetched.path.with_suffix(".first")
        nothing.mkdir()
        sparsediff.apply_patch(nothing, fetched.path, first)
        copy(model, load_file(first))
    fetched.path.unlink()


def copy(model: nn.Module, state: State) -> None:
    """Overwrite all weights of a model."""
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            tensor.copy_(state[name])


def same_words(model: nn.Module, state: State) -> bool:
    """Whether a model of bf16 weights holds ``state``, bit for bit."""
    held = model.state_dict()
    return held.keys() == state.keys() and all(
        t.dtype == state[n].dtype and torch.equal(t.view(torch.int16), state[n].view(torch.int16))
        for n, t in held.items()
    )
