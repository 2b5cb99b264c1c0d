"""Patches below 1 MB of which nothing is wrong but what they cost, each with its base.

Their manifests take as much memory as a patch this small may. Whatever a verb makes of so many
tensors, buckets, files or sizes comes on top.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

from sparsediff.codec.zstd import compress
from tests.hostile import costly, write
from tests.patch.rewriting import container, dumped

Manifest = dict[str, Any]
_N = 1  # words of each tensor and bucket here
_ONE = bytes.fromhex(write.xxh3(bytes(_N)))  # checksum of them, which are zero


def patches() -> dict[str, Callable[[], Manifest]]:
    """Manifests, by idea."""
    return {
        "new": lambda: new(395_000),
        "same": lambda: same(500_000),
        "buckets": lambda: same(1, 380_000),
        "files": lambda: files(500_000),
        "directories": lambda: files(400_000, "/a"),
        "bases": lambda: bases(520_000),
        "long names": lambda: bases(8_000, ("/" + "a" * 250) * 15),
        "deep names": lambda: bases(110_000, "/a" * 99),
        "long shape": lambda: costly.shaped(1, 4_700_000),
        "shapes": lambda: costly.shaped(62_000, 64),
        "digits": lambda: costly.shaped(1, 8_500_000, side=7),
    }


def new(n: int) -> Manifest:
    """From nothing to so many tensors of a byte."""
    manifest = costly.manifest_of_tensors(n)
    manifest["buckets"]["target"] = [write.xxh3(_ONE * n)]
    return manifest


def same(n_tensors: int, n_buckets: int = 1) -> Manifest:
    """Tensors of a byte that did not change, in one bucket, or one tensor in many buckets."""
    manifest = costly.alike(n_tensors, n_buckets)
    n = len(manifest["buckets"]["base"])
    manifest["buckets"]["base"] = [write.xxh3(_ONE * (n_tensors // n or 1))] * n
    manifest["target"]["sha256"], manifest["target"]["dictionary"] = [None], [0]
    manifest["target"]["name"] = ["a"]
    return manifest


def files(n: int, after: str = "") -> Manifest:
    """From nothing to so many empty files."""
    manifest = write.anchor()
    for section in ("tensors", "buckets"):
        manifest[section] = {key: [] for key in manifest[section]}
    empty = {k: [v] for k, v in {"size": 0, "layout": [0], "skeleton": write.xxh3(b"")}.items()}
    manifest["base"] = {"directory": True, "name": ["a"], **empty}
    row = {"size": 0, "skeleton": write.xxh3(b""), "tensors": 0, "dictionary": 0, "sha256": None}
    manifest["target"] |= {k: [v] * n for k, v in row.items()}
    manifest["target"]["name"] = [name + after for name in islice(costly.names(), n)]
    return manifest


def bases(n: int, after: str = "") -> Manifest:
    """From so many empty files to one."""
    manifest = write.anchor()
    row = {"size": 0, "layout": [0], "skeleton": write.xxh3(b"")}
    names = [name + after for name in islice(costly.names(), n)]
    manifest["base"] = {"directory": True, "name": names} | {k: [v] * n for k, v in row.items()}
    return manifest


def write_pair(idea: str, directory: Path) -> tuple[Path, Path]:
    """Write a patch and its base, as far as it has any words; returns their paths."""
    manifest = patches()[idea]()
    text = dumped(manifest)
    assert len(text) <= 1 << 25, idea
    frame = compress(text, level=3)
    frame = write.padded(frame, (costly.MAX_BYTES - 20_000 - len(frame)) // 4)  # pays for nothing
    entries = {"manifest": frame}
    if manifest["target"]["sha256"] and manifest["target"]["sha256"][0]:
        entries["skeleton.0"] = write.frame()
    if manifest["buckets"]["sha256"] and manifest["buckets"]["sha256"][0]:
        entries["bucket.0"] = write.zeros(manifest["buckets"]["words"][0])
    patch, base = directory / "p.sdiff", directory / "base"
    patch.write_bytes(container(entries))
    assert patch.stat().st_size <= costly.MAX_BYTES, idea
    base.mkdir()
    if manifest["base"]["name"]:
        path = base / manifest["base"]["name"][0]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(manifest["base"]["size"][0]))
    return patch, base
