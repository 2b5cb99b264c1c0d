"""Integers written as JSON, of which a manifest may have very many.

Enters: the text of a column. Leaves: its numbers in memory, 8 bytes each.
"""

from __future__ import annotations

import json
from array import array
from itertools import accumulate, chain


def read_integers(text: bytes, low: int, high: int) -> tuple[bytes, bytes] | None:
    """Read canonical JSON of integers, ``[1,-2]``, or of lists of them, ``[[1],[],[2,3]]``.

    Args:
        text: that JSON, or anything else.
        low: the least of them, 0 or less, at least -2^63.
        high: the greatest, below 2^64.

    Returns:
        The values, modulo 2^64; and for each list, if there are lists, how many values there
        are up to its end; both as 64-bit words. None if the text is anything else.
    """
    try:
        read = json.loads(text.decode("ascii"))
    except (ValueError, RecursionError):
        return None
    if type(read) is not list or json.dumps(read, separators=(",", ":")).encode() != text:
        return None
    lists = read if text[1:2] == b"[" else []
    if not {*map(type, lists)} <= {list}:
        return None
    values = [*chain.from_iterable(lists)] if lists else read
    if not {*map(type, values)} <= {int} or not all(low <= v <= high for v in values):
        return None
    ends = array("Q", accumulate(map(len, lists)))
    return array("Q", [v % (1 << 64) for v in values]).tobytes(), ends.tobytes()
