"""A thousand trips; `python -m tests.soak` takes more."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.soak.__main__ import take
from tests.soak.trips import TRIPS


def test_a_thousand_trips(tmp_path: Path) -> None:
    for number in range(1000):
        take(1, number, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", TRIPS)
def test_some_of_each_kind(kind: str, tmp_path: Path) -> None:
    for number in range(5):
        room = tmp_path / str(number)
        room.mkdir()
        TRIPS[kind][1](np.random.default_rng([2, number]), room)
