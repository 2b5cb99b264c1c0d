"""Documents as JSON, printed as they are made, as they may have very many rows.

Enters: a document, whose rows may not be made yet. Leaves: what `json.dumps` makes of it with an
indent of 2, in pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import chain, islice, repeat
from math import isfinite
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from json import JSONEncoder

_NESTED = (dict, list, tuple)
_FEW = 16  # values that may be nested in each of many rows
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
    if isinstance(value, Rows):
        yield from _rows(value, line)
        return
    is_table = isinstance(value, dict)
    values = value.values() if isinstance(value, dict) else value
    if not any(isinstance(v, _NESTED) for v in values):
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


def _rows(rows: Rows, line: str) -> Iterator[str]:
    """What `encoded` makes of rows, of which there are some: many at a time, if they are alike."""
    left, inner, before = iter(rows), line + "  ", "["
    while block := [*islice(left, _BLOCK)]:
        alike = _alike(block, inner)
        if alike is not None:
            yield before + inner + ("," + inner).join(alike)
            before = ","
            continue
        for row in block:
            yield before + inner
            yield from encoded(row, inner)
            before = ","
    yield line + "]"


def _alike(rows: list[Any], line: str) -> Iterator[str] | None:
    """Each of the rows, by one template of their keys; None if they are not so simple."""
    first, inner = rows[0], line + "  "
    if not isinstance(first, _NESTED) or not first or {*map(type, rows)} != {type(first)}:
        return None
    if isinstance(first, dict):
        if {*map(tuple, rows)} != {tuple(first)}:
            return None
        keys = [f"{_scalar(str(k))}: ".replace("%", "%%") for k in first]
        columns = zip(*map(dict.values, rows), strict=True)
        begin, end = "{}"
    else:
        if isinstance(first, Rows) or {*map(len, rows)} != {len(first)} or len(first) > _FEW:
            return None
        keys, columns = [""] * len(first), zip(*rows, strict=True)
        begin, end = "[]"
    texts = [_column(values, inner) for values in columns]
    if None in texts:
        return None
    template = begin + ",".join(f"{inner}{key}%s" for key in keys) + line + end
    return map(template.__mod__, zip(*filter(None, texts), strict=True))


def _column(values: tuple[Any, ...], line: str) -> Iterable[str] | None:
    """Each of the values of one key; None if any is long."""
    kinds = {*map(type, values)}
    if kinds <= {int}:
        return map(repr, values)
    if kinds <= {str}:
        return map(_flat(",").encode, values)
    nested = [v for v in values if isinstance(v, _NESTED)]
    if not nested:
        return map(_scalar, values)
    if any(isinstance(v, Rows) or len(v) > _FEW for v in nested):
        return None
    if kinds == {tuple} and {*map(type, chain.from_iterable(values))} <= {int}:
        texts = {shape: "".join(encoded(shape, line)) for shape in {*values}}
        return map(texts.__getitem__, values)
    return ["".join(encoded(value, line)) for value in values]


def _scalar(value: object) -> str:
    """What `json.dumps` makes of it."""
    if type(value) is int or (type(value) is float and isfinite(value)):
        return repr(value)
    return "null" if value is None else _flat(",").encode(value)


@lru_cache
def _flat(between: str) -> JSONEncoder:
    from json import JSONEncoder

    return JSONEncoder(separators=(between, ": "))
