"""Canonical JSON in columns, read a column at a time, as there may be very many rows.

Enters: the text of a document whose columns are known. Leaves: how many rows it has and what
they would take, before any is unfolded; then the values of one column after the other, of which
the text is given up. And whether all values of a column are right, at a few calls per column.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

from sparsediff import kernels
from sparsediff.errors import CorruptError

MAX_SIZE = 1 << 53  # bytes; integers above are not safe in JSON
_INT = 32  # bytes of memory
_POINTERS = 20  # one in a list, which has room for more, and one in the tuple made of it

_SUSPECT = (" ", "\t", "\n", "\r", "\\", "\x7f", "-0")
"""What JSON of strings and integers has in it, or in its strings, if it is not canonical."""
_SURROGATE = re.compile("[\ud800-\udfff]").search

Check = Callable[[Sequence[Any]], bool]
"""Whether all values of a column are right."""


def integers(low: int, high: int = MAX_SIZE) -> Check:
    """All are integers from ``low`` to ``high``."""
    return lambda c: {*map(type, c)} <= {int} and (not c or (low <= min(c) and max(c) <= high))


def hexes(digits: int | None = None) -> Check:
    """All are lower-case hex of so many digits, or of any number."""
    match = re.compile("[0-9a-f]*" if digits is None else f"[0-9a-f]{{{digits}}}").fullmatch
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


def unicode(c: Sequence[Any]) -> bool:
    """All are strings that UTF-8 can store."""
    return texts(c) and (all(map(str.isascii, c)) or not any(map(_SURROGATE, c)))


class Columns:
    """The columns of a document ``{"section":{"column":[…],…},…}``, all keys in order.

    In canonical JSON a key with what stands around it is nowhere else: inside a string its quotes
    would be escaped, and where a string begins or ends no colon follows. So it is found without
    unfolding anything, and if what lies between the keys is canonical, all of it is.
    """

    def __init__(self, raw: bytes, sections: Mapping[str, Sequence[str]]) -> None:
        """Find the columns.

        Args:
            raw: the text.
            sections: names of the columns by section.

        Raises:
            CorruptError: it is not made of these.
        """
        self._texts: dict[tuple[str, str], bytes] = {}
        found, start, before = ("", ""), 0, "{"
        for section in sorted(sections):
            before += f'"{section}":{{'
            for column in sorted(sections[section]):
                key = f'{before}"{column}":'.encode()
                at = raw.find(key, start)
                if at < 0 or (start == 0 and at > 0):
                    raise CorruptError(
                        f"malformed manifest (no column {column} of {section} in its place)"
                    )
                self._texts[found] = raw[start:at]
                found, start, before = (section, column), at + len(key), ","
            before = "},"
        if not raw.endswith(b"}}"):
            raise CorruptError("malformed manifest (no end)")
        self._texts[found] = raw[start:-2]

    def n_rows(self, section: str, column: str) -> int:
        """How many values a column has.

        Raises:
            CorruptError: its values are no plain ones, nor lists of plain ones. (In `name` some
                may still be, but there is a string for each.)
        """
        text = self._texts[section, column]
        if column == "name":  # strings of any kind: the quotes that are not in them are counted
            if b"\\" in text:
                text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
            return text.count(b'"') // 2
        n_lists = text.count(b"[") - 1
        nested = text.startswith(b"[[")
        if n_lists < 0 or (n_lists and not nested) or b"{" in text:
            raise CorruptError(f"malformed manifest ({column} of {section} is no column)")
        return n_lists if nested else text.count(b",") + (text != b"[]")

    def n_bytes(self, section: str, column: str) -> int:
        """Memory that strings or numbers of a column take at most beside its rows."""
        text = self._texts[section, column]
        if text.startswith(b'["'):
            return len(text)
        n_digits = len(text) - (n := text.count(b",")) - len(b"null") * text.count(b"null")
        found = _INT * min(n + 1, n_digits // 3)  # Python has those of two digits already
        return found + _POINTERS * (n - text.count(b"],[")) if text.startswith(b"[[") else found

    def take(self, section: str, column: str) -> Any:
        """The values of a column, once.

        Raises:
            CorruptError: they are not canonical JSON.
            ValueError: they are no JSON.
        """
        text = self._texts.pop((section, column)).decode("ascii")
        values = json.loads(text)
        suspect = any(what in text for what in _SUSPECT)  # writing all of it anew takes longer
        if suspect and json.dumps(values, separators=(",", ":")) != text:
            raise CorruptError("manifest is not canonical JSON")
        return values

    def integers(self, section: str, column: str, low: int = 0, high: int = MAX_SIZE) -> array[int]:
        """The values of a column of integers from ``low``, 0 or less, to ``high``, once.

        Raises:
            CorruptError, ValueError: they are none, as `checked` says.
        """
        values, ends = self._numbers(section, column, low, high, integers(low, high))
        if ends:
            raise ValueError(f"{column} must not be lists")
        return array("Q" if high >> 63 else "q", values)

    def lists(self, section: str, column: str) -> tuple[array[int], array[int]]:
        """The same of lists of them, from 0: all values, and for each list where its own end."""
        check = lists_of(integers(0))
        values, ends = self._numbers(section, column, 0, MAX_SIZE, check)
        if values and not ends:
            raise ValueError(f"{column} must be lists")
        return array("q", values), array("q", ends)

    def _numbers(
        self, section: str, column: str, low: int, high: int, check: Check
    ) -> tuple[bytes, bytes]:
        found = kernels.read_integers(self._texts[section, column], low, high)
        if found is None:
            self.checked(section, column, check)  # which says what is wrong
            raise ValueError(f"bad {column}")
        del self._texts[section, column]
        return found

    def checked(self, section: str, column: str, check: Check) -> list[Any]:
        """The same of a column that must be a list, of values that are all right.

        Raises:
            CorruptError: as `take`.
            ValueError: it is not, or they are not.
        """
        values = self.take(section, column)
        if not isinstance(values, list):
            raise ValueError(f"{column} must be a list")
        if not check(values):
            bad = next(value for value in values if not check([value]))
            raise ValueError(f"bad {column} {bad!r}")
        return values
