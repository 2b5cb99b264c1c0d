"""Patches to test with: made and applied again, or stored again with other content."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from sparsediff import apply_patch, make_patch, open_patch, verify_patch
from sparsediff.checksum import digest
from sparsediff.dtypes import DTYPES
from sparsediff.patch.container import pack
from sparsediff.patch.manifest import Manifest
from tests import oracle
from tests.support.pairs import RNG, Stored, tree


def round_trip(base: Path, target: Path, work: Path, *, bucket_words: int = 1 << 24) -> int:
    """Make, verify, apply, compare, compare with the oracle; returns the patch's size."""
    patch, out = work / "p.sdiff", work / "out"
    result = make_patch(base, target, patch, force=True, bucket_words=bucket_words)
    assert patch.stat().st_size == result.patch_bytes
    verify_patch(patch, base=base, target=target)
    apply_patch(base, patch, out, force=True)
    assert tree(out) == tree(target)
    assert out.is_dir() == target.is_dir()
    assert oracle.apply(tree(base), patch.read_bytes()) == tree(target)
    assert {p.name for p in work.iterdir() if p.name.startswith(".")} == set()
    return result.patch_bytes


names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8).filter(
    lambda n: n != "__metadata__"
)


@st.composite
def tensor(draw: st.DrawFn) -> Stored:
    dtype = draw(st.sampled_from(sorted(DTYPES)))
    shape = draw(
        st.just(())
        | st.tuples(st.integers(0, 40))
        | st.tuples(st.integers(0, 9), st.integers(0, 30))
    )
    size = DTYPES[dtype].n_bytes(shape)
    if size is None:
        shape = (*shape, 8)
        size = DTYPES[dtype].n_bytes(shape)
    assert size is not None
    kind = draw(st.sampled_from(["random", "zeros", "ones", "float"]))
    rng = RNG(draw(st.integers(0, 3)))
    data = {
        "random": rng.bytes(size),
        "zeros": bytes(size),
        "ones": b"\xff" * size,
        "float": rng.standard_normal(size).astype(np.float16).tobytes()[:size],
    }[kind]
    return dtype, shape, data


tensors = st.dictionaries(names, tensor(), max_size=6)


def rewrite(patch: Path, edit: Callable[[Manifest, dict[str, bytes]], None]) -> None:
    """Store ``patch`` again with an edited manifest and payloads, all digests made right."""
    with open_patch(patch) as opened:
        manifest = opened.manifest
        payloads: dict[str, bytes] = dict(opened.payloads())
    edit(manifest, payloads)
    for name, payload in payloads.items():
        kind, index = name.split(".")
        if kind == "bucket":
            manifest.buckets[int(index)].digest = digest(payload)
        else:
            manifest.target_files[int(index)].skeleton_digest = digest(payload)
    names = manifest.payload_names()
    head = pack(manifest, {n: len(payloads[n]) for n in names})
    patch.write_bytes(head + b"".join(payloads[n] for n in names))
