"""Pickles as inert data: what they would build, without building it.

Enters: the bytes of a pickle. Leaves: its root, made of scalars, tuples, lists
and the classes below, and where it ends. Nothing is imported and nothing is
called: a global is its name, a call is the pair of what would be called and
with what. Work and memory are bounded by `MAX_BYTES` and `MAX_OPCODES`; what
is left may be as deep or as cyclic as its author liked, so whoever walks it
must not recurse, compare or print.
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

MAX_BYTES = 1 << 26
MAX_OPCODES = 1 << 22  # some 90 000 tensors
_MAX_INDEX = 1 << 32  # numbers from 2^61 - 1 on may be chosen to have one hash

# In these, `pickletools` takes a backslash that begins nothing with a warning, or with an error
# where warnings are errors: what is read must not depend on that.
_ESCAPED = frozenset(("GLOBAL", "INST", "PERSID", "STRING"))
_NO_ESCAPE = re.compile(rb"\\(?:[^\n'\"abfnrtvx0-7]|[4-7][0-7][0-7])")


class PickleError(Exception):
    """Not a pickle, or too large to be looked at."""


class TooLargeError(PickleError):
    """Too large to be looked at; nothing is known of it."""


class _EscapeError(ValueError):
    """A backslash begins nothing."""


@dataclass(frozen=True, slots=True)
class Global:
    """A function or class, by its dotted name."""

    name: str


@dataclass(frozen=True, slots=True, eq=False)
class Persistent:
    """What stands outside the pickle, by the key it is stored under."""

    key: Any


@dataclass(slots=True, eq=False)
class Dict:
    """A dictionary: its pairs, in the order they were put in."""

    pairs: list[tuple[Any, Any]] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Call:
    """An object: what would make it from what, then its state, its items and its pairs.

    Attributes:
        function: what would be called, usually a `Global`.
        arguments: with what, usually a tuple.
        state: given to it afterwards, one after the other.
        items: appended to it.
        pairs: set in it.
    """

    function: Any
    arguments: Any
    state: list[Any] = field(default_factory=list)
    items: list[Any] = field(default_factory=list)
    pairs: list[tuple[Any, Any]] = field(default_factory=list)


def load(data: bytes) -> tuple[Any, int]:
    """What the pickle at the start of ``data`` describes, and its length in bytes.

    Raises:
        PickleError: there is none.
        TooLargeError: it is too large.
    """
    is_all = len(data) < MAX_BYTES
    data = data[:MAX_BYTES]
    machine = _Machine()
    stream = BytesIO(data)
    has_escapes = b"\\" in data
    try:
        for n, (opcode, argument, at) in enumerate(pickletools.genops(stream)):
            if n == MAX_OPCODES:
                raise TooLargeError("pickle of too many opcodes")
            if opcode.name == "STOP":
                return machine.stack[-1], stream.tell()
            if has_escapes and opcode.name in _ESCAPED:
                _check_escapes(data[at : stream.tell()])
            _OPCODES[opcode.name](machine, argument)
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, DeprecationWarning) as e:
        is_escape = isinstance(e, (_EscapeError, DeprecationWarning))  # ours, or of `pickletools`
        reason = f"not a pickle ({'bad escape' if is_escape else type(e).__name__})"
        raise (PickleError if is_all else TooLargeError)(reason) from None
    raise PickleError("pickle without an end")


def _check_escapes(line: bytes) -> None:
    if _NO_ESCAPE.search(line.replace(rb"\\", b"__")):
        raise _EscapeError


class _Machine:
    """The stack, the stacks set aside by marks, and the memo."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []
        self.memo: dict[int, Any] = {}  # a table, so that a huge index costs nothing

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self, n: int) -> list[Any]:
        if len(self.stack) < n:
            raise PickleError("stack underflow")
        items = self.stack[-n:]
        del self.stack[-n:]
        return items

    def mark(self) -> None:
        self.outer.append(self.stack)
        self.stack = []

    def pop_mark(self) -> list[Any]:
        items = self.stack
        self.stack = self.outer.pop()
        return items

    def drop(self, items: list[Any]) -> None:
        del items

    def discard(self) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.pop_mark()

    def put(self, index: int) -> None:
        if not 0 <= index < _MAX_INDEX:
            raise PickleError("memo of an index that nobody can use")
        self.memo[index] = self.stack[-1]

    def extend(self, items: list[Any]) -> None:
        top = self.stack[-1]
        if isinstance(top, (list, Call)):
            (top.items if isinstance(top, Call) else top).extend(items)

    def set_items(self, flat: list[Any]) -> None:
        top = self.stack[-1]
        if isinstance(top, (Dict, Call)):
            top.pairs.extend(_pairs(flat))

    def call(self, function: Any, *arguments: Any) -> None:
        self.push(Call(function, arguments))

    def call_with_keywords(self, function: Any, arguments: Any, keywords: Any) -> None:
        self.push(Call(function, arguments, [keywords]))

    def build(self, state: Any) -> None:
        top = self.stack[-1]
        if isinstance(top, Call):
            top.state.append(state)


def _pairs(flat: list[Any]) -> list[tuple[Any, Any]]:
    return list(zip(flat[::2], flat[1::2], strict=True))


def _global(*names: Any) -> Global:
    """From module and name, or from both with a space between, as GLOBAL and INST have them."""
    if not all(isinstance(name, str) for name in names):
        raise PickleError("global without a name")
    return Global(".".join(names).replace(" ", ".", 1))


_VALUES = """INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING
SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8 UNICODE BINUNICODE SHORT_BINUNICODE
BINUNICODE8"""

_OPCODES: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(_VALUES.split(), _Machine.push),
    **dict.fromkeys(("PROTO", "FRAME", "READONLY_BUFFER"), lambda m, _: None),
    "NONE": lambda m, _: m.push(None),
    "NEWTRUE": lambda m, _: m.push(True),
    "NEWFALSE": lambda m, _: m.push(False),
    "NEXT_BUFFER": lambda m, _: m.push(None),
    "EMPTY_LIST": lambda m, _: m.push([]),
    "EMPTY_SET": lambda m, _: m.push([]),
    "EMPTY_TUPLE": lambda m, _: m.push(()),
    "EMPTY_DICT": lambda m, _: m.push(Dict()),
    "MARK": lambda m, _: m.mark(),
    "POP": lambda m, _: m.discard(),
    "POP_MARK": lambda m, _: m.drop(m.pop_mark()),
    "DUP": lambda m, _: m.push(m.stack[-1]),
    "LIST": lambda m, _: m.push(m.pop_mark()),
    "FROZENSET": lambda m, _: m.push(m.pop_mark()),
    "DICT": lambda m, _: m.push(Dict(_pairs(m.pop_mark()))),
    "TUPLE": lambda m, _: m.push(tuple(m.pop_mark())),
    "TUPLE1": lambda m, _: m.push(tuple(m.pop(1))),
    "TUPLE2": lambda m, _: m.push(tuple(m.pop(2))),
    "TUPLE3": lambda m, _: m.push(tuple(m.pop(3))),
    "APPEND": lambda m, _: m.extend(m.pop(1)),
    "APPENDS": lambda m, _: m.extend(m.pop_mark()),
    "ADDITEMS": lambda m, _: m.extend(m.pop_mark()),
    "SETITEM": lambda m, _: m.set_items(m.pop(2)),
    "SETITEMS": lambda m, _: m.set_items(m.pop_mark()),
    "GET": lambda m, index: m.push(m.memo[index]),
    "BINGET": lambda m, index: m.push(m.memo[index]),
    "LONG_BINGET": lambda m, index: m.push(m.memo[index]),
    "PUT": lambda m, index: m.put(index),
    "BINPUT": lambda m, index: m.put(index),
    "LONG_BINPUT": lambda m, index: m.put(index),
    "MEMOIZE": lambda m, _: m.put(len(m.memo)),
    "GLOBAL": lambda m, name: m.push(_global(name)),
    "STACK_GLOBAL": lambda m, _: m.push(_global(*m.pop(2))),
    "EXT1": lambda m, code: m.push(Global(f"copyreg.{code}")),
    "EXT2": lambda m, code: m.push(Global(f"copyreg.{code}")),
    "EXT4": lambda m, code: m.push(Global(f"copyreg.{code}")),
    "PERSID": lambda m, key: m.push(Persistent(key)),
    "BINPERSID": lambda m, _: m.push(Persistent(*m.pop(1))),
    "REDUCE": lambda m, _: m.push(Call(*m.pop(2))),
    "NEWOBJ": lambda m, _: m.push(Call(*m.pop(2))),
    "NEWOBJ_EX": lambda m, _: m.call_with_keywords(*m.pop(3)),
    "BUILD": lambda m, _: m.build(*m.pop(1)),
    "INST": lambda m, name: m.push(Call(_global(name), tuple(m.pop_mark()))),
    "OBJ": lambda m, _: m.call(*m.pop_mark()),
}
