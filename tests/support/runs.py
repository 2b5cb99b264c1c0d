"""A trainer that writes numbered checkpoints, and ways to look at what arrived."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import numpy as np

from sparsediff.shipping.bring import PullResult
from sparsediff.shipping.catalog import Catalog
from sparsediff.shipping.catalog_json import read_catalog
from sparsediff.shipping.check import check
from sparsediff.shipping.pull import pull
from sparsediff.stores import Store
from tests.support.pairs import RNG, Array, Stored, bf16, tree, words, write_safetensors

N_LAYERS = 4


class Trainer:
    """A small model in training: float32 masters take steps, checkpoints hold them as bf16."""

    def __init__(self, run: Path, *, n: int = 6000, lr: float = 1e-6, seed: int = 0) -> None:
        self.run, self._n, self._lr = run, n, lr
        self._rng = RNG(seed)
        self._masters = self._rng.standard_normal((N_LAYERS, n)).astype(np.float32) * 0.02
        run.mkdir(parents=True, exist_ok=True)

    def step(self) -> None:
        """Train once."""
        gradient = self._rng.standard_normal(self._masters.shape)
        self._masters -= (self._lr * np.sign(gradient)).astype(np.float32)

    def save(self, name: str, *, shards: int = 2, age: float = 60.0) -> Path:
        """Write a checkpoint that was last touched ``age`` seconds ago."""
        path = self.run / name
        layers: Array = bf16(self._masters)
        for shard in range(shards):
            tensors: dict[str, Stored] = {
                f"layers.{i}.weight": words("BF16", layers[i])
                for i in range(shard, N_LAYERS, shards)
            }
            file = path / f"model-{shard + 1:05}-of-{shards:05}.safetensors"
            write_safetensors(file, tensors, metadata={"format": "pt"})
        (path / "config.json").write_text(f'{{"name": "{name}"}}\n')
        settle(path, age)
        return path

    def save_steps(self, *numbers: int, shards: int = 2) -> list[Path]:
        """Train and save for each number."""
        paths = []
        for number in numbers:
            self.step()
            paths.append(self.save(f"step_{number:06}", shards=shards))
        return paths


def settle(path: Path, age: float = 60.0) -> None:
    """Make a checkpoint look as if it had been written ``age`` seconds ago."""
    then = time.time() - age
    for file in [path, *path.rglob("*")]:
        os.utime(file, (then, then))


def catalog_of(store: Store) -> Catalog:
    """The catalog of a store that has one."""
    found = read_catalog(store)
    assert found is not None
    return found[0]


def assert_sound(store: Store, originals: dict[str, dict[str, bytes]], scratch: Path) -> None:
    """Every object is whole, and every version comes out as it went in."""
    found = read_catalog(store)
    if found is None:
        return
    assert check(store, now=time.time()).is_sound
    for version in found[0].versions:
        dest = scratch / version.name
        pull(store, dest, version=version.name, jobs=1)
        assert tree(dest / "current") == originals[version.name]


def digest_of(path: Path) -> str:
    """Hash of names and contents of a checkpoint."""
    hasher = hashlib.sha256()
    for name, content in sorted(tree(path).items()):
        hasher.update(f"{name}\0{len(content)}\0".encode() + content)
    return hasher.hexdigest()


def has_arrived(path: Path, digest: str) -> bool:
    """Whether a checkpoint that a pull may be at work on has that digest, in all its files."""
    try:
        return digest_of(path) == digest
    except FileNotFoundError:  # moved aside while it was read
        return False


def shown(result: PullResult) -> str:
    """Name of the version that a pull ended with."""
    assert result.version is not None
    return result.version.name
