"""Readers of patches, of what is in them, and of parts of patches."""

from __future__ import annotations

import io
import json
import shutil
from functools import cache
from typing import Any

import numpy as np

from sparsediff import kernels, verify_patch
from sparsediff.checksum import Verified
from sparsediff.codec import bucket
from sparsediff.codec.zstd import compress, decompress, stated_size
from sparsediff.dtypes import DTYPES, DType
from sparsediff.errors import CorruptError, SparsediffError, UnsupportedError, UsageError
from sparsediff.kernels import steps
from sparsediff.make.part import Part
from sparsediff.patch import manifest_json
from sparsediff.patch.entries import compose_header
from sparsediff.version import __version__
from tests import oracle
from tests.fuzz.target import GOLDEN, Target, agree, on_disk, room
from tests.fuzz.watch import FindingError, unwatched
from tests.hostile import write as hostile
from tests.patch.mutants import mutants
from tests.patch.rewriting import EXIT_CODES, Parts
from tests.support.kernel_paths import paths, using
from tests.support.pairs import RNG, tree

_WORDS = 300  # of a bucket, at most; the independent reader takes 10 µs for each


@cache
def _golden() -> list[tuple[dict[str, bytes], bytes]]:
    """Base files and patch of each golden patch that is small."""
    found = []
    for path in sorted((GOLDEN / "v1").iterdir()):
        base, patch = path / "base", path / "patch.sdiff"
        if patch.exists() and patch.stat().st_size < 1 << 15:
            found.append((tree(base) if base.exists() else {}, patch.read_bytes()))
    return found


def _patches() -> list[bytes]:
    """Without those that unfold to 32 MiB, which leave no time for others."""
    files = [p for p in sorted(hostile.FILES.glob("*.sdiff")) if "-manifest-" not in p.name]
    return [patch for _, patch in _golden()] + [p.read_bytes() for p in files]


def _patch(data: bytes) -> None:
    verify_patch(io.BytesIO(data), jobs=1)


def _manifest(text: bytes) -> None:
    """The text of a manifest; what is taken, the independent reader takes as well."""
    manifest_json.parse(text, len(text))
    try:
        manifest = oracle.parse_manifest(text)
        oracle.place_buckets(manifest["buckets"], oracle.place_tensors(manifest))
    except oracle.Refused as e:
        raise FindingError(f"manifest is taken, and the other reader: {e}") from e


def _manifests() -> list[bytes]:
    texts = [manifest_json.dump(_parsed(patch)) for _, patch in _golden()]
    return [t for t in texts if len(t) < 1 << 14]


def _parsed(patch: bytes) -> Any:
    from sparsediff.patch.container import open_patch

    with open_patch(io.BytesIO(patch)) as opened:
        return opened.manifest


def _mutant_of_patch(data: bytes, seed: int) -> bytes:
    """A mutant with its checksums right, as far as that can be."""
    base = next((b for b, patch in _golden() if b and _same_base(patch, data)), {})
    try:
        return [m for _, m in mutants(base, data, 9, seed)][seed % 9]
    except Exception:  # it takes patches apart that are none any more
        return data[: seed % (len(data) + 1)]


def _same_base(patch: bytes, data: bytes) -> bool:
    try:
        return bool(Parts.of(patch).manifest["base"] == Parts.of(data).manifest["base"])
    except Exception:
        return False


def _apply(data: bytes) -> None:
    """A whole patch on its base, decoded as `verify` does; and what the independent reader says."""
    base = next((b for b, patch in _golden() if b and _same_base(patch, data)), {})
    with unwatched():
        root = room() / "base"
        if root.is_dir():
            shutil.rmtree(root)
        root.unlink(missing_ok=True)
        if base.keys() == {""}:
            root.write_bytes(base[""])
        else:
            for name, content in base.items():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_bytes(content)
            root.mkdir(exist_ok=True)
    try:
        oracle.apply(base, data)
        theirs: str | None = None
    except oracle.Refused as e:
        theirs = str(e)
    try:
        verify_patch(io.BytesIO(data), base=root, jobs=1)
        ours: str | None = None
    except SparsediffError as e:
        if e.exit_code not in EXIT_CODES:
            raise
        ours = str(e)
    if (ours is None) != (theirs is None):
        agree("patch", ours, theirs)
    if ours is not None:
        raise CorruptError(ours)


def _words(dtype: DType, n: int) -> Any:
    """Base words: the same for the same type and number."""
    rng = RNG(n)
    if dtype.kind == "float" and dtype.word_bits in (16, 32, 64):
        values = rng.standard_normal(n)
        as_float = values.astype(f"<f{max(dtype.word_bits // 8, 4)}").view(np.uint8)
        width = as_float.size // max(n, 1)
        raw = as_float.reshape(n, width)[:, width - dtype.word_bits // 8 :].tobytes()
        return np.frombuffer(raw, dtype.numpy).copy()
    return np.frombuffer(rng.bytes(n * dtype.word_bits // 8), dtype.numpy).copy()


def _bucket(data: bytes) -> None:
    """Type, number of words, whether there is a base, and a payload; decoded by all kernels."""
    if len(data) < 3:
        raise CorruptError("not an input")
    dtype = list(DTYPES.values())[data[0] % len(DTYPES)]
    n = 1 + (data[1] | (data[2] & 1) << 8) % _WORDS
    base = None if data[2] & 2 else _words(dtype, n)
    payload, found = data[3:], []
    for path in paths():
        with using(path):
            out = np.empty(n, dtype.numpy) if base is None else base.copy()
            try:
                decoder = bucket.Decoder(Verified(payload), n, dtype, has_base=base is not None)
                half = n // 2
                decoder.feed(out[:half])
                decoder.feed(out[half:])
                decoder.finish()
                found.append(out.tobytes())
            except CorruptError:
                found.append(b"")
    before = None if base is None else base.tobytes()
    try:
        found.append(oracle.decode_bucket(payload, before, out.nbytes, dtype.name))
    except oracle.Refused:
        found.append(b"")
    for other in found[1:]:
        agree("words", found[0], other)
    if not found[0]:
        raise CorruptError("refused by all")


def _buckets() -> list[bytes]:
    found = []
    for i, dtype in enumerate(DTYPES.values()):
        for n, density in ((1, 1.0), (40, 0.2), (300, 0.03), (299, 0.6)):
            if dtype.bits % 8 and n % 4:
                continue
            base, rng = _words(dtype, n), RNG(i)
            target = base.copy()
            at = np.flatnonzero(rng.random(n) < density)
            target[at] += rng.integers(1, 3, at.size).astype(dtype.numpy)
            if (target == base).all():
                continue
            head = bytes([i, (n - 1) & 255, (n - 1) >> 8])
            survey = steps.survey(base, target, dtype)
            differ = kernels.Differ(dtype, *bucket.choose(survey, n).tiers)
            differ.feed(base, target, np.zeros(256, np.int64))
            found.append(head + kernels.payload_of(differ))
            found.append(head + bucket.encode(base, target, dtype, survey))
            found.append(head[:2] + bytes([head[2] | 2]) + bucket.encode(None, target, dtype, None))
    return found


def _frame(data: bytes) -> None:
    size = stated_size(data)
    if size > 1 << 20:
        raise CorruptError("larger than a bucket of this test may be")
    out = decompress(data, size)
    try:
        agree("frame", oracle.frame(data, size, size), out)
    except oracle.Refused as e:
        raise FindingError(f"frame is taken, and the other reader: {e}") from e


def _frames() -> list[bytes]:
    return [compress(b, level=3) for b in (b"", b"abc" * 9, RNG(0).bytes(99), bytes(9999))]


def part_with(text: bytes, plan: bytes = b"") -> bytes:
    """A part of a patch with these results, this plan or none, and the right checksums."""
    frames = compress(plan, level=3), compress(text, level=3)
    metadata = {
        "format": "sparsediff-part",
        "plan_xxh3": hostile.xxh3(plan),
        "results_xxh3": hostile.xxh3(text),
        "version": __version__,
    }
    sizes = {"plan": len(frames[0]), "results": len(frames[1]), "bucket.0": 4}
    return compose_header(metadata, sizes) + b"".join(frames) + b"abcd"


def results() -> list[bytes]:
    row: dict[str, object] = {
        "part": [1, 2],
        "read": {"base/a": 5, "target/a": 7},
        "target": ["0" * 32],
        "sha256": ["0" * 64],
        "base": ["0" * 32],
        "locators": ["00"],
        "largest": [[3]],
        "steps": [[[0, 1, 2]]],
    }
    return [json.dumps(row, separators=(",", ":")).encode()]


PATCHES = {
    "patch": Target(_patch, _patches, (CorruptError, UnsupportedError, UsageError)),
    "manifest": Target(_manifest, _manifests),
    "apply": Target(_apply, lambda: [p for _, p in _golden()], mutate=_mutant_of_patch),
    "part": Target(lambda d: on_disk(Part, "a.part", part_with(d)), results),
}

DECODER = {
    "bucket": Target(_bucket, _buckets),
    "frame": Target(_frame, _frames),
}
