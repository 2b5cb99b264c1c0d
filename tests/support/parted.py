"""Versions whose patches lie in parts, as several machines put them."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

from sparsediff.make import make_patch
from sparsediff.shipping.catalog import Catalog, Version
from sparsediff.shipping.catalog_json import read_catalog
from sparsediff.shipping.entries import number_in
from sparsediff.shipping.parts import join_parts, put_part
from sparsediff.shipping.pointer import publish_version
from sparsediff.stats import stats_of_result
from sparsediff.stores import Store


def cut(file: Path, n: int, scratch: Path, seed: int = 0) -> list[Path]:
    """A file in ``n`` pieces, cut anywhere; some may be empty."""
    data, rng = file.read_bytes(), random.Random(seed)
    ends = [0, *sorted(rng.randint(0, len(data)) for _ in range(n - 1)), len(data)]
    pieces = []
    for i, (start, end) in enumerate(pairwise(ends)):
        pieces.append(scratch / f"{file.name}.{i}")
        pieces[-1].write_bytes(data[start:end])
    return pieces


def publish_in_parts(
    store: Store, bases: Sequence[Path | None], target: Path, scratch: Path, n_parts: int = 4
) -> Catalog | None:
    """Publish a checkpoint as the next version, each of its patches in parts.

    Args:
        store: where to.
        bases: what patches are made from: the checkpoint of the version before; None for nothing.
        target: the checkpoint.
        scratch: an empty directory for patches.
        n_parts: of each patch.
    """
    found = read_catalog(store)
    before = None if found is None else found[0]
    number = 1 if before is None else before.latest.version + 1
    nothing = scratch / "nothing"
    nothing.mkdir()
    patches = []
    for base in bases:
        file = scratch / f"{number}-{base is None}.sdiff"
        result = make_patch(base or nothing, target, file, jobs=1)
        with ThreadPoolExecutor(n_parts) as ranks:
            pieces = cut(file, n_parts, scratch, number)
            parts = list(ranks.map(lambda piece: put_part(store, number, piece), pieces))
        start = None if base is None else number - 1
        patches.append(join_parts(store, number, target.name, start, parts))
    stats = stats_of_result(result)
    record = Version(
        number, target.name, number_in(target.name), f"{number}", float(int(time.time())),
        stats.target_bytes, stats.total.n_elements, stats.total.n_changed, tuple(patches),
    )  # fmt: skip
    return publish_version(store, before, record)
