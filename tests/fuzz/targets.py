"""What hostile bytes are given to: one row for each reader.

A target makes a whole input of the bytes first, checksums included, so that these are no wall
between a mutant and the parser behind. Where an independent reader is at hand, both must agree.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from tests.fuzz import corpora, of_checkpoints, of_patches, of_stores
from tests.fuzz.target import Target

GROUPS: dict[str, dict[str, Target]] = {
    "patches": of_patches.PATCHES,
    "decoder": of_patches.DECODER,
    "stores": of_stores.TARGETS,
    "checkpoints": of_checkpoints.TARGETS,
}
GROUP_OF = {name: group for group, targets in GROUPS.items() for name in targets}
TARGETS = {name: target for group in GROUPS.values() for name, target in group.items()}


def seeds(name: str) -> list[bytes]:
    """Inputs to begin with, the shortest first."""
    found = sorted(set(TARGETS[name].seeds()), key=lambda data: (len(data), data))
    assert found, name
    return found


def mutants_of(name: str, rng: random.Random) -> Callable[[], bytes]:
    """Makes mutants of a target's seeds and corpus, the same for the same random numbers."""
    from tests.fuzz.mutate import mutant

    known, change = [*seeds(name), *corpora.read(name).values()], TARGETS[name].mutate
    if change is None:
        return lambda: mutant(known, rng)
    return lambda: change(rng.choice(known), rng.randrange(1 << 30))
