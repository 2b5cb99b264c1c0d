"""Checks of whole columns, at a few calls per column, as there may be very many rows.

Enters: a column of parsed JSON. Leaves: whether all of its values are right.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

MAX_SIZE = 1 << 53  # bytes; integers above are not safe in JSON

Check = Callable[[Sequence[Any]], bool]
"""Whether all values of a column are right."""


def integers(low: int, high: int = MAX_SIZE) -> Check:
    """All are integers from ``low`` to ``high``."""
    return lambda c: {*map(type, c)} <= {int} and (not c or (low <= min(c) and max(c) <= high))


def hexes(digits: int) -> Check:
    """All are lower-case hex of so many digits."""
    match = re.compile(f"[0-9a-f]{{{digits}}}").fullmatch
    return lambda c: {*map(type, c)} <= {str} and all(map(match, c))


def or_none(check: Check) -> Check:
    """All are right or None."""
    return lambda c: check([v for v in c if v is not None])


def lists_of(check: Check) -> Check:
    """All are lists, of values that are all right."""
    return lambda c: {*map(type, c)} <= {list} and check(list(chain.from_iterable(c)))


def texts(c: Sequence[Any]) -> bool:
    """All are strings."""
    return {*map(type, c)} <= {str}
