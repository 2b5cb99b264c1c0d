"""A short run of every target, the same each time; `python -m tests.fuzz` runs longer."""

from __future__ import annotations

import random

import pytest

from tests.fuzz.targets import TARGETS, mutants_of, seeds
from tests.fuzz.watch import FindingError, accepts


@pytest.mark.parametrize("name", TARGETS)
def test_short_run(name: str) -> None:
    target, make = TARGETS[name], mutants_of(name, random.Random(1))
    taken = sum([accepts(target.read, data, target.refusals) for data in seeds(name)[:50]])
    assert taken, "no seed is taken"
    for _ in range(20 if name == "apply" else 100):
        accepts(target.read, make(), target.refusals)


def test_the_watch_sees_what_it_is_there_for(tmp_path: object) -> None:
    def write(_: bytes) -> None:
        open(f"{tmp_path}/x", "wb").close()

    def fail(_: bytes) -> None:
        raise KeyError("x")

    for read, why in ((write, "to write"), (fail, "KeyError")):
        with pytest.raises(FindingError, match=why):
            accepts(read, b"")
