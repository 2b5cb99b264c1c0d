"""JSON that somebody else may have written: every field has the type and range it must have.

Enters: what `json` made of bytes. Leaves: numbers, texts and collections of them, or a
`FieldError` that says which field is wrong and how. Never looks at anything but the value.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import islice
from typing import TypeVar

from sparsediff.disk.names import check_relative_name
from sparsediff.errors import CorruptError, printable
from sparsediff.unfolding import uncollected

R = TypeVar("R")
K = TypeVar("K")

# Arrays and objects that a document may have: so many, and one more for each few bytes. A version
# has more than sixty bytes for each of its own.
_MANY, _BYTES_EACH = 1 << 16, 16
# Where one begins; or a string, in which brackets are none, also one that never ends.
_TOKEN = re.compile(rb'[\[{]|"[^"\\]*+(?:\\.[^"\\]*+)*+\\?(?:"|\Z)', re.DOTALL)

Reader = Callable[[object], R]
"""Returns the value it is given, or raises FieldError."""


class FieldError(ValueError):
    """A value is not what it must be.

    Args:
        expected: what should have been there.
        found: what was there instead.

    Attributes:
        expected: as given.
        found: short text of what was there.
        path: where in the document, such as ``versions[3].name``; empty for the document itself.
    """

    def __init__(self, expected: str, found: object) -> None:
        super().__init__(expected)
        self.expected, self.path = expected, ""
        self.found = "nothing" if found is None else printable(repr(found)[:60])

    def inside(self, place: str) -> FieldError:
        """The same error, seen from the collection that holds the value at ``place``."""
        joint = "." if self.path and not self.path.startswith("[") else ""
        self.path = f"{place}{joint}{self.path}"
        return self

    @property
    def text(self) -> str:
        """What should have been there, and where."""
        return f"{self.path} to be {self.expected}" if self.path else self.expected


class Row:
    """The fields of one JSON object; those nobody asks for are ignored."""

    def __init__(self, value: object) -> None:
        if not isinstance(value, dict):
            raise FieldError("an object", value)
        self._fields = value

    def get(self, name: str, reader: Reader[R]) -> R:
        """The field ``name``, which must be there."""
        if name not in self._fields:
            raise FieldError("there", None).inside(name)
        try:
            return reader(self._fields[name])
        except FieldError as e:
            raise e.inside(name) from None

    def find(self, name: str, reader: Reader[R]) -> R | None:
        """The field ``name``; None if it is not there, or null."""
        return self.get(name, optional(reader)) if name in self._fields else None


def _opens_more_than(most: int, data: bytes) -> bool:
    """Whether more arrays and objects than ``most`` begin in JSON."""
    if data.count(b"{") + data.count(b"[") <= most:
        return False
    outside = (token for token in _TOKEN.finditer(data) if token[0][0] != ord('"'))
    return next(islice(outside, most, None), None) is not None


@uncollected()
def parsed(data: bytes) -> object:
    """The JSON value in ``data``, whatever it is.

    Raises:
        FieldError: this is no JSON, or it is nested too deeply, or would unfold to too much.
    """
    if _opens_more_than(_MANY + len(data) // _BYTES_EACH, data):
        raise FieldError(f"at most one array or object in {_BYTES_EACH} bytes", data[:60])
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise FieldError("JSON", data[:60]) from None


def optional(reader: Reader[R]) -> Reader[R | None]:
    """What ``reader`` takes, or null."""
    return lambda value: None if value is None else reader(value)


def listed(reader: Reader[R]) -> Reader[list[R]]:
    """An array of what ``reader`` takes."""

    def read(value: object) -> list[R]:
        if not isinstance(value, list):
            raise FieldError("an array", value)
        items = []
        for i, item in enumerate(value):
            try:
                items.append(reader(item))
            except FieldError as e:
                raise e.inside(f"[{i}]") from None
        return items

    return read


def pair(reader: Reader[R]) -> Reader[tuple[R, R]]:
    """An array of two that ``reader`` takes."""

    def read(value: object) -> tuple[R, R]:
        items = listed(reader)(value)
        if len(items) != 2:
            raise FieldError("an array of two", value)
        return items[0], items[1]

    return read


def table(key: Reader[K], reader: Reader[R]) -> Reader[dict[K, R]]:
    """An object whose names ``key`` takes, and whose values ``reader`` takes."""

    def read(value: object) -> dict[K, R]:
        if not isinstance(value, dict):
            raise FieldError("an object", value)
        rows = {}
        for name, item in value.items():
            try:
                rows[key(name)] = reader(item)
            except FieldError as e:
                raise e.inside(f"[{printable(repr(name)[:40])}]") from None
        return rows

    return read


def whole_number(least: int) -> Reader[int]:
    """An integer from ``least`` to 2^63 - 1."""

    def read(value: object) -> int:
        if type(value) is not int or not least <= value < 1 << 63:
            raise FieldError(f"a whole number from {least} to 2^63 - 1", value)
        return value

    return read


def seconds(value: object) -> float:
    """Seconds since the epoch."""
    if type(value) not in (int, float) or not 0 <= float(str(value)) < 1e11:
        raise FieldError("seconds since the epoch", value)
    return float(str(value))


def matching(pattern: str, what: str) -> Reader[str]:
    """Text, all of which matches ``pattern``; ``what`` says to people what that is."""
    compiled = re.compile(pattern, re.DOTALL)

    def read(value: object) -> str:
        if not isinstance(value, str) or not compiled.fullmatch(value):
            raise FieldError(what, value)
        return value

    return read


def relative_name(value: object) -> str:
    """A path that leads out of no directory it is joined to."""
    try:
        return check_relative_name(any_text(value))
    except CorruptError:
        raise FieldError("a safe relative name", value) from None


def file_name(value: object) -> str:
    """`relative_name` of a single file or directory."""
    name = relative_name(value)
    if "/" in name:
        raise FieldError("a plain file name", value)
    return name


def numeral(value: object) -> int:
    """A `version` as the name of a field."""
    return version(int(numeral_text(value)))


any_text = matching(".*", "text")
numeral_text = matching("[1-9][0-9]{0,18}", "a number in digits")
sha256 = matching("[0-9a-f]{64}", "64 hex digits")
history = matching("[0-9a-f]{32}", "32 hex digits")
count = whole_number(0)
version = whole_number(1)
