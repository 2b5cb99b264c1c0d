"""What payloads unfold to is held by all threads together, however many there are."""

from __future__ import annotations

import hashlib
import os
import threading
from contextlib import nullcontext
from pathlib import Path

import pytest

from sparsediff import make_patch, open_patch
from sparsediff.apply import rebuild
from sparsediff.apply.base import BaseFiles
from sparsediff.parallel import Budget, ordered_map
from tests.hostile.write import anchor, frame, xxh3, zeros
from tests.patch.rewriting import Parts, container, dumped
from tests.support.costs import cost
from tests.support.pairs import write_safetensors

N = 6  # buckets, which took 470 to 800 MiB if each thread held what it wants


def test_no_more_is_held_than_there_is_and_what_is_larger_is_held_alone() -> None:
    budget, lock, held, most = Budget(10), threading.Lock(), [], []

    def call(n: int) -> None:
        with budget.hold(n):
            with lock:
                held.append(n)
                most.append((sum(held), len(held)))
            threading.Event().wait(0.002)
            with lock:
                held.remove(n)

    for _ in ordered_map(call, [3, 30, 4, 4, 10, 0, 7, 11] * 5, 8):
        pass
    assert all(total <= 10 or (n == 1 or total in (11, 30)) for total, n in most)
    assert max(n for _, n in most) > 1


def test_what_is_held_is_free_after_an_error() -> None:
    budget = Budget(10)

    def call(_: int) -> None:
        with budget.hold(10):
            raise ValueError("first")

    with pytest.raises(ValueError, match="first"):
        list(ordered_map(call, range(9), 3))
    with budget.hold(10):
        pass


def test_what_a_bucket_held_is_free_when_its_words_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "base").mkdir()
    write_safetensors(tmp_path / "target" / "x.safetensors", {"w": ("U8", (9999,), bytes(9999))})
    make_patch(tmp_path / "base", tmp_path / "target", tmp_path / "p.sdiff")
    taken: list[int] = []

    def write(fd: int, offset: int, data: object) -> None:
        taken.append(rebuild._unfolded._total - rebuild._unfolded._free)
        raise OSError("no room")

    monkeypatch.setattr(rebuild, "write_all", write)
    with open_patch(tmp_path / "p.sdiff") as opened:
        files = BaseFiles(tmp_path / "base", opened.manifest)
        for task in rebuild.tasks([opened]):
            with pytest.raises(OSError, match="no room") as kept:
                rebuild.run([opened], files, task, lambda _: nullcontext(1))
            assert rebuild._unfolded._free == rebuild._unfolded._total
            assert kept.tb is not None  # what is on the stack of an error that is kept lives on
    assert max(taken) > 0


def dense(n: int) -> bytes:
    """A patch from nothing to n buckets of zeros, each as large as a bucket may be."""
    size = 1 << 26
    payload, manifest = zeros(size), anchor(n=size)
    manifest["target"] |= {"size": [n * size], "tensors": [n]}
    manifest["tensors"] |= {"dtype": ["F32"], "shape": [[size // 4]], "new": [size // 4]}
    manifest["buckets"] |= {"words": [size // 4], "sha256": [hashlib.sha256(payload).hexdigest()]}
    for table in ("tensors", "buckets"):
        manifest[table] = {name: column * n for name, column in manifest[table].items()}
    manifest["tensors"]["name"] = [str(i) for i in range(n)]
    manifest["buckets"]["tensors"] = [[i, 1] for i in range(n)]
    buckets = {f"bucket.{i}": payload for i in range(n)}
    return container({"manifest": frame(dumped(manifest)), "skeleton.0": frame()} | buckets)


def header(n: int) -> bytes:
    """That of a safetensors file of so many tensors of `dense`."""
    size = 1 << 26
    entries = {
        str(i): {"dtype": "F32", "shape": [size // 4], "data_offsets": [i * size, (i + 1) * size]}
        for i in range(n)
    }
    text = dumped(entries)
    return len(text).to_bytes(8, "little") + text


def over(n: int, old: int, new: int) -> bytes:
    """A patch of n such buckets, of each of which one byte is ``old`` in the base and then ``new``.

    All others are zeros; and so is the base for an ``old`` of 0.
    """
    size = 1 << 26
    payload = b"\3" + frame(bytes([old ^ new]), (b"\0", size - 1))
    manifest = Parts.of(dense(n)).manifest
    before, after = (xxh3(bytes([first]) + bytes(size - 1)) for first in (old, new))
    head = header(n)
    file = {"name": ["w.safetensors"], "size": [len(head) + n * size], "skeleton": [xxh3(head)]}
    manifest["base"] |= file | {"layout": [[len(head), n * size]]}
    manifest["target"] |= file | {"dictionary": [0], "sha256": [None]}
    manifest["tensors"] |= {"base": [0] * n, "new": [0] * n, "changed": [1] * n}
    manifest["tensors"] |= dict.fromkeys(("skip", "base_skip"), [len(head)] + [0] * (n - 1))
    manifest["buckets"] |= {
        "base": [xxh3(bytes.fromhex(before))] * n,
        "locators": [before[:2]] * n,
        "target": [xxh3(bytes.fromhex(after))] * n,
        "sha256": [hashlib.sha256(payload).hexdigest()] * n,
    }
    buckets = {f"bucket.{i}": payload for i in range(n)}
    return container({"manifest": frame(dumped(manifest))} | buckets)


def based(root: Path, n: int, changes: int = 1) -> list[Path]:
    """A directory with the base of `over`, and then so many patches in a row."""
    (root / "base").mkdir()
    (root / "base" / "w.safetensors").write_bytes(header(n))
    os.truncate(root / "base" / "w.safetensors", len(header(n)) + (n << 26))
    for i in range(changes):
        (root / f"p{i}").write_bytes(over(n, i, i + 1))
    return [root / "base", *(root / f"p{i}" for i in range(changes))]


def test_many_jobs_take_no_more_memory_for_a_chain(tmp_path: Path) -> None:
    base, *chain = based(tmp_path, N, 2)
    found = cost("apply", "--in-place", base, *chain, "--jobs", 16)
    assert found.code == 0, found.err
    assert found.peak_bytes < 300 << 20
    with open(base / "w.safetensors", "rb") as file:
        file.seek(len(header(N)))
        assert file.read(2) == b"\2\0"


def test_many_jobs_take_no_more_memory_to_squash(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "p").write_bytes(dense(N))
    found = cost("squash", tmp_path / "empty", tmp_path / "p", "-o", tmp_path / "s", "--jobs", 16)
    assert found.code == 0, found.err
    assert found.peak_bytes < 300 << 20


def test_many_jobs_take_no_more_memory(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "p").write_bytes(dense(N))
    assert (tmp_path / "p").stat().st_size < 25_000
    found = cost("verify", tmp_path / "p", "--base", tmp_path / "empty", "--jobs", 16)
    assert found.code == 0, found.err
    assert found.peak_bytes < 300 << 20
