"""Several calls at once: what happens to the others when one fails."""

from __future__ import annotations

import time

import pytest

from sparsediff import UnavailableError
from sparsediff.parallel import ordered_map
from sparsediff.stores import Throttle
from sparsediff.stores.retry import retried


def test_calls_that_nobody_waits_for_end() -> None:
    throttle = Throttle(1000.0)
    ended = []

    def call(i: int) -> None:
        if i == 0:
            time.sleep(0.2)
            raise ValueError("first")
        try:
            throttle.take(100_000)  # a minute
        finally:
            ended.append(i)

    started = time.monotonic()
    with pytest.raises(ValueError, match="first"):
        list(ordered_map(call, range(9), 3))
    assert time.monotonic() - started < 5
    assert {1, 2} <= set(ended) <= {1, 2, 3}


def test_retries_that_nobody_waits_for_end() -> None:
    calls = []

    def fail() -> None:
        calls.append(time.monotonic())
        raise UnavailableError("down")

    def call(i: int) -> None:
        if i == 0:
            raise ValueError("first")
        retried(fail, 20)

    with pytest.raises(ValueError, match="first"):
        list(ordered_map(call, range(2), 2))
    assert len(calls) <= 2


def test_the_next_map_is_none_of_its_business() -> None:
    throttle = Throttle()
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            list(ordered_map(lambda i: 1 // i, range(4), 2))
        assert list(ordered_map(throttle.take, range(4), 2)) == [None] * 4
    throttle.take(1)
