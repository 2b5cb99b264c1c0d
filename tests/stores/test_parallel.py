"""Several calls at once: what happens to the others when one fails."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from sparsediff import UnavailableError
from sparsediff.parallel import ordered_map, per_thread
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


@pytest.mark.parametrize("jobs", [1, 3])
def test_each_thread_has_one_that_ends_when_none_works_with_it(jobs: int) -> None:
    made: list[str] = []
    working: list[int] = []

    @contextmanager
    def make() -> Iterator[str]:
        made.append(name := threading.current_thread().name)
        yield name
        made.remove(name)
        assert not working

    def call(i: int) -> None:
        working.append(i)
        assert tool() == threading.current_thread().name
        assert len(made) == len({*made}) <= jobs
        time.sleep(0.01)
        working.remove(i)

    with per_thread(make) as tool, closing(ordered_map(call, range(40), jobs)) as found:
        for _ in range(9):  # and then nobody waits for the others
            next(found)
        assert made
    assert not made


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
