"""Memory is bounded: by buckets and jobs, not by checkpoints or by what is in them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from sparsediff.patch.words import SAMPLE_BYTES, SAMPLE_STRIDE
from tests.support.costs import cost
from tests.support.pairs import RNG, bf16, step_of_training

LIMIT = 600 << 20  # bytes, with two jobs
PIECE = 64 << 20  # bytes written at a time
GIB = 1 << 30


def write(path: Path, dtype: str, word_bytes: int, piece: bytes, n_bytes: int) -> None:
    """A file of one tensor per piece, all alike."""
    entries = ",".join(
        f'"layers.{i}.w":{{"dtype":"{dtype}","shape":[{PIECE // word_bytes}],'
        f'"data_offsets":[{i * PIECE},{(i + 1) * PIECE}]}}'
        for i in range(n_bytes // PIECE)
    )
    header = f"{{{entries}}}".encode()
    with open(path, "wb") as f:
        f.write(len(header).to_bytes(8, "little") + header)
        for _ in range(n_bytes // PIECE):
            f.write(piece)


def peak(*args: object) -> int:
    """Peak resident memory of a command, in bytes."""
    found = cost(*args, "-q", "-j", 2)
    assert (found.code, found.err) == (0, "")
    return found.peak_bytes


def peaks(room: Path) -> tuple[int, int]:
    """Peaks of make and apply on the pair in ``room``, whose result is compared."""
    made = peak("make", room / "a", room / "b", "-o", room / "p")
    applied = peak("apply", room / "a", room / "p", "-o", room / "out")
    subprocess.run(["cmp", room / "out", room / "b"], check=True)
    for name in ("p", "out"):
        (room / name).unlink()
    return made, applied


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "kind"),
    [
        ("BF16", "dense"),
        ("I8", "dense"),
        ("BF16", "random"),
        ("F32", "dense"),
        ("F64", "random"),
        ("F8_E4M3", "random"),
        ("F8_E4M3", "missed"),
        ("BF16", "missed"),
    ],
)
def test_memory_whatever_the_words(dtype: str, kind: str, room: Path) -> None:
    word_bytes = {"BF16": 2, "I8": 1, "F32": 4, "F64": 8, "F8_E4M3": 1}[dtype]
    if kind == "random":
        pieces = [RNG(i).bytes(PIECE) for i in range(2)]
    elif kind == "missed":  # what the encoder samples is as before, all else is not
        before = RNG(0).integers(0, 256, PIECE, np.uint8)
        after = before + RNG(1).integers(1, 4, PIECE, np.uint8)
        for i in range(0, PIECE, SAMPLE_STRIDE):
            after[i : i + SAMPLE_BYTES] = before[i : i + SAMPLE_BYTES]
        pieces = [before.tobytes(), after.tobytes()]
    elif dtype == "I8":  # quantised weights, most of which moved a little
        rng = RNG(0)
        before = rng.integers(-100, 100, PIECE).astype(np.int8)
        steps = rng.choice([-1, 0, 1, 2], PIECE, p=[0.3, 0.35, 0.3, 0.05])
        pieces = [before.tobytes(), (before + steps).astype(np.int8).tobytes()]
    else:
        masters = step_of_training(PIECE // word_bytes, 1e-4)
        pieces = [(bf16(m) if dtype == "BF16" else m).tobytes() for m in masters]
    for name, piece in zip("ab", pieces, strict=True):
        write(room / name, dtype, word_bytes, piece, 4 * PIECE)
    assert max(peaks(room)) < LIMIT


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["BF16", "F32"])
def test_memory_of_an_anchor(dtype: str, room: Path) -> None:
    word_bytes = {"BF16": 2, "F32": 4}[dtype]
    _, after = step_of_training(PIECE // word_bytes, 1e-4)
    (room / "a").mkdir()
    write(
        room / "b",
        dtype,
        word_bytes,
        (bf16(after) if dtype == "BF16" else after).tobytes(),
        4 * PIECE,
    )
    assert max(peaks(room)) < LIMIT


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dense", "sparse", "regular", "new"])
def test_memory_of_a_chain(kind: str, room: Path) -> None:
    """Patches of megabytes, of kilobytes, of bytes that unfold to megabytes, and from nothing."""
    rng = RNG(0)
    words = bf16(rng.standard_normal(PIECE // 2).astype(np.float32))
    patches = []
    if kind == "new":
        (room / "s0").mkdir()
    else:
        write(room / "s0", "BF16", 2, words.tobytes(), 4 * PIECE)
    for i in range(8):
        if kind == "regular":
            words ^= 1
        else:
            share = 0.4 if kind == "dense" else 0.01
            words[rng.random(words.size) < share] += 1
        write(room / f"s{i + 1}", "BF16", 2, words.tobytes(), 4 * PIECE)
        patches.append(room / f"{i}.sdiff")
        peak("make", room / f"s{i}", room / f"s{i + 1}", "-o", patches[-1])
        if i:
            (room / f"s{i}").unlink()
    found = peak("apply", room / "s0", *patches, "-o", room / "out")
    subprocess.run(["cmp", room / "out", room / "s8"], check=True)
    assert found < LIMIT


@pytest.mark.slow
def test_memory_does_not_grow_with_the_checkpoint(room: Path) -> None:
    pieces = [bf16(m).tobytes() for m in step_of_training(PIECE // 2, 3e-7)]
    found = []
    for n_bytes in (GIB, 4 * GIB):
        for name, piece in zip("ab", pieces, strict=True):
            write(room / name, "BF16", 2, piece, n_bytes)
        found.append(peaks(room))
    assert np.max(found) < LIMIT
    assert np.all(np.array(found[1]) < 1.1 * np.array(found[0]))
