"""Curves of `scale`: tensors, files, bytes and patches in a row, by the commands themselves.

Enters: an empty directory. Leaves: rows of figures. Every cost is that of a whole process, its
start and its imports included.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sparsediff.make import make_patch
from tests.bench.process import Usage
from tests.support.pairs import tree

Row = dict[str, str | int | float]
Words = npt.NDArray[np.uint16]

_MIB = 1 << 20
_REPEATS = 3  # of which the least counts
_ENOUGH = 8.0  # seconds after which a command is not run again


def tensors(work: Path, quick: bool) -> Iterator[Row]:
    """See `scale.CURVES`."""
    for n in (100,) if quick else (1000, 10_000, 50_000, 200_000):
        yield {"tensors": n} | _point(work, n, 64, 8, stats=True)


def files(work: Path, quick: bool) -> Iterator[Row]:
    """See `scale.CURVES`."""
    for n in (10,) if quick else (1, 10, 100, 1000):
        yield {"files": n} | _point(work, 1000, 64 if quick else 16_384, n)


def threads(work: Path, quick: bool) -> Iterator[Row]:
    """See `scale.CURVES`."""
    n, n_files = (100, 10) if quick else (10_000, 100)
    base, target = _pair(work, n, 64, n_files)
    make = ["make", str(base), str(target), "-o", str(work / "patch.sdiff"), "--force", "-j"]
    runs: dict[int, list[Usage]] = {1: [], 2: []}
    for _ in range(1 if quick else 10):
        for jobs, used in runs.items():
            used.append(_run([*make, str(jobs)]))
    for jobs, used in runs.items():
        yield {
            "threads": jobs,
            "make s": min(r.wall for r in used),
            "make CPU s": min(r.cpu for r in used),
        }


def n_bytes(work: Path, quick: bool) -> Iterator[Row]:
    """See `scale.CURVES`."""
    for n in (1,) if quick else (64, 256, 1024, 2048):
        yield {"MiB": n} | _point(work, n, _MIB // 2, 1)


def chain(work: Path, quick: bool) -> Iterator[Row]:
    """See `scale.CURVES`."""
    sizes = (3,) if quick else (1, 10, 100, 500)
    block, rng = _block(), np.random.default_rng(2)
    current, patches = work / "0", []
    _write(current, block, 100, 1000, 1)
    base = current
    for i in range(1, sizes[-1] + 1):
        _change(block, rng)
        saved, patch = work / str(i), work / f"{i}.sdiff"
        _write(saved, block, 100, 1000, 1)
        make_patch(current, saved, patch, jobs=1)
        if current != base:
            shutil.rmtree(current)
        current = saved
        patches.append(str(patch))
        if i not in sizes:
            continue
        out, here = work / "out", work / "here"
        row: Row = {"patches": i}

        def copied(here: Path = here) -> None:
            shutil.rmtree(here, ignore_errors=True)
            shutil.copytree(base, here)

        row |= _cost("apply", ["apply", str(base), *patches, "-o", str(out), "--force"])
        row |= _cost("in place", ["apply", "--in-place", str(here), *patches], copied)
        assert tree(out) == tree(here) == tree(saved), "apply did not rebuild the last checkpoint"
        yield row


def _point(work: Path, n: int, words_each: int, n_files: int, stats: bool = False) -> Row:
    base, target = _pair(work, n, words_each, n_files)
    patch, out = work / "patch.sdiff", work / "out"
    row = _cost("make", ["make", str(base), str(target), "-o", str(patch), "--force"])
    row |= _cost("apply", ["apply", str(base), str(patch), "-o", str(out), "--force"])
    if stats:
        row |= _cost("stats", ["stats", str(patch)])
    row["patch MB"] = patch.stat().st_size / 1e6
    for path in (base, target, out):
        shutil.rmtree(path)
    patch.unlink()
    return row


def _pair(work: Path, n: int, words_each: int, n_files: int) -> tuple[Path, Path]:
    """Base and target."""
    base, target, block = work / "base", work / "target", _block()
    _write(base, block, n, words_each, n_files)
    _change(block, np.random.default_rng(1))
    _write(target, block, n, words_each, n_files)
    return base, target


def _run(command: list[str]) -> Usage:
    """What a command of ours costs."""
    argv = [sys.executable, "-m", "tests.bench.process", sys.executable, "-m", "sparsediff"]
    done = subprocess.run([*argv, *command], check=True, stdout=subprocess.PIPE)
    return Usage(**json.loads(done.stdout))


def _cost(name: str, command: list[str], before: Callable[[], None] = lambda: None) -> Row:
    """User and system seconds, and peak memory, of a command: the least of a few runs."""
    runs: list[Usage] = []
    while len(runs) < _REPEATS and sum(r.wall for r in runs) < _ENOUGH:
        before()
        runs.append(_run(command))
    peak = min(r.peak for r in runs) // _MIB
    return {f"{name} CPU s": min(r.cpu for r in runs), f"{name} MiB": peak}


def _block() -> Words:
    words = np.random.default_rng(0).standard_normal(2 * _MIB, np.float32).view(np.uint32) >> 16
    return words.astype(np.uint16)


def _change(block: Words, rng: np.random.Generator) -> None:
    """Move one word of a hundred by one step."""
    block[rng.integers(0, block.size, block.size // 100)] += 1


def _write(place: Path, block: Words, n: int, words_each: int, n_files: int) -> None:
    """A checkpoint of ``n`` equal tensors of bf16; the words of a file are the block, repeated."""
    place.mkdir()
    for file in range(n_files):
        mine = range(n * file // n_files, n * (file + 1) // n_files)
        header = {
            f"model.layers.{i // 12}.block.{i % 12}.weight": {
                "dtype": "BF16",
                "shape": [words_each],
                "data_offsets": [2 * words_each * at, 2 * words_each * (at + 1)],
            }
            for at, i in enumerate(mine)
        }
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        left = words_each * len(mine)
        with open(place / f"model-{file:05}.safetensors", "wb") as f:
            f.write(len(text).to_bytes(8, "little") + text)
            while left:
                piece = block[:left]
                f.write(piece.data)
                left -= len(piece)
