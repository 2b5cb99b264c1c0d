"""Documents as JSON, printed as they are made, as they may have very many rows.

Enters: a document, whose rows may not be made yet. Leaves: what `json.dumps` makes of it with an
indent of 2, in pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import repeat
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from json import JSONEncoder

_NESTED = (dict, list, tuple)
_BLOCK = 1 << 12  # values that are encoded at once: the sizes of a shape may be very many


class Rows(list[Any]):
    """An array of a JSON document, of which each item is made when it is printed."""

    def __init__(self, make: Callable[[], Iterator[Any]]) -> None:
        """Take what begins to make the items."""
        self._make = make

    def __iter__(self) -> Iterator[Any]:
        """Make the items."""
        return self._make()

    def __bool__(self) -> bool:
        """Whether there are any."""
        return any(True for _ in self)


def encoded(value: object, line: str) -> Iterator[str]:
    """What `json.dumps` makes of a value with an indent of 2, in pieces, some times as fast.

    Args:
        value: anything that it takes, with names or integers as keys; or that with `Rows` in it.
        line: the beginning of a line as far in as this value.
    """
    inner = line + "  "
    if not isinstance(value, _NESTED) or not value:
        yield _scalar(value)
        return
    is_table = isinstance(value, dict)
    values = value.values() if isinstance(value, dict) else value
    if not isinstance(value, Rows) and not any(isinstance(v, _NESTED) for v in values):
        encode, before = _flat("," + inner).encode, "{" if is_table else "["
        step = len(value) if isinstance(value, dict) else _BLOCK
        for start in range(0, len(value), step):
            block = value if isinstance(value, dict) else value[start : start + step]
            yield before + inner + encode(block)[1:-1]
            before = ","
        yield line + ("}" if is_table else "]")
        return
    text, before = "", "{" if is_table else "["
    keys = (f"{_scalar(str(k))}: " for k in value) if is_table else repeat("")
    for key, item in zip(keys, values, strict=False):
        text += before + inner + key
        before = ","
        if isinstance(item, _NESTED):
            yield text
            text = ""
            yield from encoded(item, inner)
            continue
        text += _scalar(item)
        if len(text) > _BLOCK:
            yield text
            text = ""
    yield text + line + ("}" if is_table else "]")


def _scalar(value: object) -> str:
    """What `json.dumps` makes of it."""
    if type(value) is int:
        return repr(value)
    from json import dumps

    return dumps(value)


@lru_cache
def _flat(between: str) -> JSONEncoder:
    from json import JSONEncoder

    return JSONEncoder(separators=(between, ": "))
