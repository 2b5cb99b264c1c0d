"""Histories that were never shipped: catalogs with as many versions as one likes."""

from __future__ import annotations

import random
from collections.abc import Iterator

from sparsediff.checksum import digest
from sparsediff.shipping.catalog import StoredPatch, Version, object_key

ANCHOR_BYTES, STEP_BYTES = 14_000_000_000, 60_000_000


def version(number: int, *, anchor_every: int = 40, first: int = 1) -> Version:
    """A version whose objects are nowhere; each ``anchor_every``-th has an anchor."""
    bases: list[int | None] = [None] if number == first else [number - 1]
    if number % anchor_every == 0:
        bases.append(None)
    name = f"step_{10 * number}"
    patches = []
    for base in dict.fromkeys(bases):
        sha256 = digest(f"{base} {number}".encode())
        key = object_key(number, name, base, sha256)
        n_bytes = ANCHOR_BYTES if base is None else STEP_BYTES + number % 1000
        patches.append(StoredPatch(base, key, n_bytes, sha256))
    source = digest(name.encode())[:32]
    return Version(
        number, name, 10 * number, source, 1.7e9 + number, 15_000_000_000, 7_500_000_000,
        None if number == first else 20_000_000, tuple(patches),
    )  # fmt: skip


def versions(n: int, *, anchor_every: int = 40) -> Iterator[Version]:
    """The first ``n`` of them."""
    return (version(number, anchor_every=anchor_every) for number in range(1, n + 1))


def wild(rng: random.Random, n: int) -> list[Version]:
    """Versions with gaps, names in no order, shortcuts, and patches that lead from nowhere."""
    found: list[Version] = []
    number = rng.randint(1, 5)
    for _ in range(n):
        step = rng.choice([None, rng.randint(0, 200)])
        name = f"{rng.choice(['step_', 'a', 'Z-'])}{rng.randint(0, 300)}-{number:06}"
        bases = {rng.choice([None, *range(max(1, number - 6), number)]) for _ in range(2)}
        if not found:
            bases = {None}
        patches = tuple(
            StoredPatch(b, object_key(number, name, b, digest(f"{b}{number}".encode())),
                        rng.randint(1, 9), digest(f"{b}{number}".encode()))
            for b in sorted(bases, key=lambda b: -(b or 0))
        )  # fmt: skip
        found.append(Version(number, name, step, f"{rng.random()}", 1.7e9, 9, 9, None, patches))
        number += rng.choice([1, 1, 1, 1, 2, 9])
    return found
