"""Round trips: whatever goes in comes out, whichever way it goes.

Each trip draws everything from random numbers of its own, so one that fails can be taken again.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from sparsediff import (
    Share,
    SparsediffError,
    UnsupportedError,
    apply_patch,
    iter_updates,
    kernels,
    make_part,
    make_patch,
    merge_parts,
    open_store,
    pull,
    ship,
    squash_patches,
    verify_patch,
)
from sparsediff.checkpoint.memory import MemoryTensor, memory_checkpoint
from sparsediff.checksum import Verified
from sparsediff.codec import bucket
from sparsediff.dtypes import DTYPES
from sparsediff.kernels import steps
from tests import oracle
from tests.soak.content import (
    Files,
    Random,
    after,
    changed,
    files,
    later,
    some_dtype,
    some_words,
    state,
    tensors,
    write,
)
from tests.support.kernel_paths import paths, using
from tests.support.pairs import Stored, tree
from tests.support.runs import settle

Trip = Callable[[Random, Path], None]


def same(found: object, expected: object) -> None:
    """Fail unless what came out is what went in."""
    assert found == expected, "another came out than went in"


def _path(rng: Random) -> str:
    """Kernels; those in NumPy one time in eight, because they take most of the time then."""
    return paths()[-1 if rng.random() < 0.125 else 0]


def _bucket(rng: Random, _: Path) -> None:
    """Words coded with one kernel and decoded with another, in pieces."""
    dtype = some_dtype(rng)
    n = int(rng.integers(1, (10, 100, 300, 1500)[rng.integers(4)]))
    base = some_words(rng, dtype, n)
    target = changed(rng, base)
    if (base == target).all():
        target[rng.integers(n)] ^= 1
    has_base = rng.random() < 0.9
    survey = steps.survey(base, target, dtype) if has_base else None
    with using(_path(rng)):
        if survey is not None and rng.random() < 0.5:
            choice = bucket.choose(survey, n)
            differ, at = kernels.Differ(dtype, *choice.tiers), int(rng.integers(n + 1))
            for piece in (slice(0, at), slice(at, n)):
                differ.feed(base[piece], target[piece], np.zeros(256, np.int64))
            payload = kernels.payload_of(differ)
        else:
            payload = bucket.encode(base if has_base else None, target, dtype, survey)
    with using(_path(rng)):
        out = base.copy() if has_base else np.empty_like(base)
        decoder = bucket.Decoder(Verified(payload), n, dtype, has_base=has_base)
        at = int(rng.integers(n + 1))
        decoder.feed(out[:at])
        decoder.feed(out[at:])
        decoder.finish()
    same(out.tobytes(), target.tobytes())


def _in_memory(stored: dict[str, Stored]) -> dict[str, MemoryTensor]:
    def reader(data: bytes) -> Callable[[int, Any], None]:
        def read(offset: int, buffer: Any) -> None:
            view = memoryview(buffer).cast("B")
            view[:] = data[offset : offset + len(view)]

        return read

    return {n: MemoryTensor(DTYPES[d], s, reader(raw)) for n, (d, s, raw) in stored.items()}


def _memory(rng: Random, room: Path) -> None:
    """A patch or two in a row of tensors in memory, iterated over as updates."""
    states = [tensors(rng)]
    patches = []
    for _ in range(rng.integers(1, 3)):
        states.append(after(rng, states[-1]))
        patch = io.BytesIO()
        base, target = (memory_checkpoint(_in_memory(s)) for s in states[-2:])
        make_patch(base, target, patch, jobs=1, bucket_words=_bucket_words(rng))
        patch.seek(0)
        patches.append(patch)
    held = {
        name: np.frombuffer(data, DTYPES[dtype].numpy).copy()
        for name, (dtype, _, data) in states[0].items()
    }
    base_of: Any = _in_memory(states[0])
    if not all(states[i + 1].keys() <= states[i].keys() for i in range(len(states) - 1)):
        # A tensor may have its base under another name, which only files can tell.
        source = memory_checkpoint(base_of).files[0].source
        base_of = write(room / "a", {"": source.read(0, source.size)})
    for update in iter_updates(patches, base_of, jobs=1):
        words = held.get(update.name, np.empty(0, update.values.dtype))
        if words.size != update.n_words or words.dtype != update.values.dtype:
            words = np.resize(words[: update.n_based].astype(update.values.dtype), update.n_words)
        words[update.indices] = update.values
        held[update.name] = words
    for name, (_, _, data) in states[-1].items():
        same(held[name].tobytes() if data else b"", data)


def _bucket_words(rng: Random) -> int:
    """Cuts: of one word to all in one."""
    return (1 << 24, 1 << 24, 4096, 100, 7)[rng.integers(5)] if rng.random() < 0.9 else 1000


def _pair(rng: Random) -> tuple[Files, Files]:
    first = state(rng)
    second = later(rng, first)
    if rng.random() < 0.05:
        second = state(rng)
    return files(rng, first), files(rng, second)


def _file(rng: Random, room: Path) -> None:
    """Base and patch to the target; sometimes by the independent reader as well."""
    before, now = _pair(rng)
    if rng.random() < 0.1:
        before = {}  # an anchor
        (room / "a").mkdir()
    base, target = write(room / "a", before), write(room / "b", now)
    with using(_path(rng)):
        make_patch(base, target, room / "p", jobs=1, bucket_words=_bucket_words(rng))
    with using(_path(rng)):
        apply_patch(base, room / "p", room / "c", jobs=1)
    same(tree(room / "c"), now)
    if rng.random() < 0.1 and sum(map(len, now.values())) < 20_000:
        same(oracle.apply(before, (room / "p").read_bytes()), now)


def _in_place(rng: Random, room: Path) -> None:
    """A base that becomes the target, or is left as it was where that cannot be."""
    before, now = _pair(rng)
    base, target = write(room / "a", before), write(room / "b", now)
    make_patch(base, target, room / "p", jobs=1, bucket_words=_bucket_words(rng))
    try:
        apply_patch(base, room / "p", in_place=True, jobs=1)
    except UnsupportedError:
        same(tree(base), before)
    else:
        same(tree(base), now)


def _chain(rng: Random, room: Path) -> None:
    """Two to four patches in a row, applied at once; and one that does what they do."""
    held = [state(rng)]
    for _ in range(rng.integers(2, 5)):
        held.append(later(rng, held[-1]))
    saved = [files(rng, h) for h in held]
    where = [write(room / f"s{i}", content) for i, content in enumerate(saved)]
    patches = [room / f"{i}.sdiff" for i in range(len(where) - 1)]
    words = _bucket_words(rng)
    for i, patch in enumerate(patches):
        make_patch(where[i], where[i + 1], patch, jobs=1, bucket_words=words)
    if rng.random() < 0.5:
        apply_patch(where[0], patches, room / "out", jobs=1)
        same(tree(room / "out"), saved[-1])
        return
    squash_patches(where[0], patches, room / "one", jobs=1)
    make_patch(where[0], where[-1], room / "direct", jobs=1)
    same((room / "one").read_bytes(), (room / "direct").read_bytes())


def _parts(rng: Random, room: Path) -> None:
    """One to four parts, merged in any order: the patch of one machine."""
    before, now = _pair(rng)
    base, target = write(room / "a", before), write(room / "b", now)
    count, words = int(rng.integers(1, 5)), _bucket_words(rng)
    made = [room / f"{i}.part" for i in range(count)]
    for i, part in enumerate(made):
        make_part(base, target, Share(i + 1, count), part, jobs=1, bucket_words=words)
    make_patch(base, target, room / "p", jobs=1, bucket_words=words)
    merge_parts([made[i] for i in rng.permutation(count)], room / "merged")
    same((room / "merged").read_bytes(), (room / "p").read_bytes())


def _damage(rng: Random, room: Path) -> None:
    """A patch with one byte other, cut, or with more at its end: refused."""
    before, now = _pair(rng)
    base = write(room / "a", before)
    make_patch(base, write(room / "b", now), room / "p", jobs=1)
    data = bytearray((room / "p").read_bytes())
    kind, at = rng.integers(3), int(rng.integers(len(data)))
    if kind == 0:
        data[at] ^= int(rng.integers(1, 256))
    elif kind == 1:
        del data[at:]
    else:
        data += rng.bytes(1 + at % 9)
    try:
        verify_patch(io.BytesIO(bytes(data)), base=base, jobs=1)
    except SparsediffError:
        return
    raise AssertionError("damage was taken")


def _store(rng: Random, room: Path) -> None:
    """Two or three checkpoints of a run, shipped to a store and pulled from it."""
    held = {f"m{i}.safetensors": tensors(rng) for i in range(rng.integers(1, 3))}
    store = open_store(str(room / "store"), create=True)
    in_place = rng.random() < 0.3
    for step in range(1, int(rng.integers(3, 5))):
        content = files(rng, held)
        settle(write(room / "run" / f"step_{step}", content))
        ship(room / "run", store, jobs=1)
        if step == 1 or rng.random() < 0.7:
            path = pull(store, room / "out", jobs=1, in_place=in_place).path
            assert path is not None
            found = tree(path)
            same({k: v for k, v in found.items() if not k.startswith(".sparsediff/")}, content)
        held = later(rng, held)


TRIPS: dict[str, tuple[float, Trip]] = {
    "bucket": (0.948, _bucket),
    "memory": (0.025, _memory),
    "file": (0.01, _file),
    "in place": (0.005, _in_place),
    "chain": (0.004, _chain),
    "parts": (0.004, _parts),
    "damage": (0.003, _damage),
    "store": (0.001, _store),
}
"""Share of all trips, and the trip."""


def kind_of(rng: Random) -> str:
    """Which trip is taken."""
    at = rng.random() * sum(share for share, _ in TRIPS.values())
    for name, (share, _) in TRIPS.items():
        at -= share
        if at < 0:
            return name
    return "bucket"
