"""What a pickle of torch says about the storages next to it: names, dtypes, shapes.

Enters: the root of a pickle, as inert data. Leaves: for each storage key what
to call it and how to read it, from the first tensor met on it in the order of
the pickle. All of it is hearsay: a name or a shape may be wrong, so a shape
counts only where it fits the bytes that are really there. Never imports torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

from sparsediff.checkpoint.formats.pickles import MAX_OPCODES, Call, Dict, Global, Persistent
from sparsediff.checkpoint.formats.span import Span
from sparsediff.dtypes import DTYPES, DType

_MAX_NAME = 500  # characters; proper paths are far shorter
_MAX_DEPTH = 1000
# Each opcode puts a value in at most one place; whoever holds more shares them to blow up.
_MAX_VISITS = 2 * MAX_OPCODES

# Names of storage classes and of dtypes, by dtype of ours.
_PLAIN = {
    "F64": "Double float64 double",
    "F32": "Float float32 float",
    "F16": "Half float16 half",
    "BF16": "BFloat16 bfloat16",
    "I64": "Long int64 long",
    "I32": "Int int32 int QInt32 qint32",
    "I16": "Short int16 short",
    "I8": "Char int8 QInt8 qint8",
    "BOOL": "Bool bool",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16 bits16",
    "U8": "Byte uint8 QUInt8 quint8 QUInt4x2 quint4x2 QUInt2x4 quint2x4 Untyped "
    "float4_e2m1fn_x2 bits8 bits1x8 bits2x4 bits4x2",
    "C64": "ComplexFloat complex64 cfloat",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2": "float8_e5m2",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E8M0": "float8_e8m0fnu",
}
_PAIRS = {"F64": "ComplexDouble complex128 cdouble", "F16": "ComplexHalf complex32 chalf"}
_DTYPES: dict[str, tuple[DType, tuple[int, ...]]] = {
    name: (DTYPES[ours], more)
    for table, more in ((_PLAIN, ()), (_PAIRS, (2,)))
    for ours, names in table.items()
    for name in names.split()
}
"""Dtype of ours, and what it adds to the shape, by name in torch."""

_TENSORS = ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3", "_rebuild_qtensor")
# Attributes of modules and of tensor subclasses that are no part of a state-dict name.
_SILENT = ("_parameters", "_buffers", "_modules", "_local_tensor")


@dataclass(frozen=True, slots=True)
class Stored:
    """What is said about a storage.

    Attributes:
        name: of the first tensor met on it; empty if that is the root itself.
        unit: bytes of what the storage counts; None if they are unknown.
        dtype: of its elements, as torch calls it or its storage class.
        n_elements: how many it has.
        shape: of the tensor, if it takes up the whole storage in C order.
    """

    name: str
    unit: int | None
    dtype: str
    n_elements: int
    shape: tuple[int, ...] | None

    def span(self, name: str, offset: int, nbytes: int) -> Span:
        """The span of its bytes; ``nbytes`` is what is really there."""
        if self.dtype in _DTYPES:
            dtype, more = _DTYPES[self.dtype]
            for shape in (self.shape, (self.n_elements,)):
                if shape is not None and dtype.n_bytes((*shape, *more)) == nbytes:
                    return Span(name, dtype, (*shape, *more), offset, nbytes)
        return plain_span(name, offset, nbytes)


def plain_span(name: str, offset: int, nbytes: int) -> Span:
    """A span of bytes of which nothing is known."""
    return Span(name, DTYPES["U8"], (nbytes,), offset, nbytes)


def _element_bytes(dtype: str) -> int | None:
    """Bytes of one element; None if the dtype is unknown."""
    if dtype not in _DTYPES:
        return None
    ours, more = _DTYPES[dtype]
    return ours.bits // 8 * prod(more)


def find_storages(root: Any) -> dict[str, Stored]:
    """What ``root`` says about each storage, by key, in the order they are met."""
    found: dict[str, Stored] = {}
    seen: set[int] = set()
    visits = 0
    # Depth first, but without recursion: the pickle is as deep as its author liked.
    stack: list[Iterator[tuple[str, Any]]] = [iter([("", root)])]
    while stack:
        for path, node in stack[-1]:
            visits += 1
            if isinstance(node, Persistent):
                _add(found, path, node, ())
            elif isinstance(node, (tuple, list, Dict, Call)) and id(node) not in seen:
                seen.add(id(node))
                if isinstance(node, Call):
                    node = _unwrapped(node)
                    storage = node.arguments[0] if _is_tensor(node) else None
                    if isinstance(storage, Persistent):
                        _add(found, path, storage, node.arguments[1:])
                if _holds_any(node) and len(stack) < _MAX_DEPTH:
                    stack.append(_children(path, node, seen))
                    break
        else:
            stack.pop()
        if visits > _MAX_VISITS:
            break
    return found


def _is_tensor(call: Call) -> bool:
    """Whether ``call`` is to a function that makes a tensor on a storage."""
    arguments = call.arguments
    return _function(call) in _TENSORS and isinstance(arguments, tuple) and 3 < len(arguments) < 16


def _unwrapped(call: Call) -> Call:
    """The call inside ``_rebuild_from_type_v2(function, type, arguments, state)``."""
    arguments = call.arguments
    is_wrapped = _function(call) in ("_rebuild_from_type", "_rebuild_from_type_v2")
    if is_wrapped and isinstance(arguments, tuple) and 3 <= len(arguments) <= 4:
        return Call(arguments[0], arguments[2], [*arguments[3:], *call.state])
    return call


def _function(call: Call) -> str:
    """Name of the function of torch that ``call`` is to, without its module."""
    name = call.function.name if isinstance(call.function, Global) else ""
    return name.rpartition(".")[2] if name.startswith("torch.") else ""


def _holds_any(node: Any) -> bool:
    """Whether ``node`` holds anything."""
    return isinstance(node, Call) or bool(node.pairs if isinstance(node, Dict) else node)


def _children(path: str, node: Any, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """What ``node`` holds, with its paths."""
    if isinstance(node, Call):
        # Arguments and state belong to the object itself and add nothing to its path. Where
        # many calls share them, what is in them was met with the first.
        for part in (node.arguments, *node.state):
            if not isinstance(part, tuple):
                yield path, part
            elif id(part) not in seen:
                seen.add(id(part))
                for child in part:
                    yield path, child
        yield from _indexed(path, node.items)
        yield from _members(path, node.pairs)
    elif isinstance(node, Dict):
        yield from _members(path, node.pairs)
    else:
        yield from _indexed(path, node)


def _indexed(path: str, items: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    for i, item in enumerate(items):
        yield _join(path, str(i)), item


def _members(path: str, pairs: list[tuple[Any, Any]]) -> Iterator[tuple[str, Any]]:
    places = {key: i for i, (key, _) in enumerate(pairs) if _is_key(key)}
    for i, (key, value) in enumerate(pairs):
        if not _is_key(key) or places[key] != i:  # else a later pair takes its place
            yield _join(path, f"<{i}>"), value
        else:
            yield (path if key in _SILENT else _join(path, str(key))), value


def _is_key(key: Any) -> bool:
    """Whether it gives a name. Numbers from 2^61 - 1 on may be chosen to have one hash."""
    return isinstance(key, str) or (isinstance(key, int) and abs(key) < 1 << 60)


def _join(path: str, key: str) -> str:
    key = key[:_MAX_NAME]
    return f"{path}.{key}"[:_MAX_NAME] if path else key


def _add(found: dict[str, Stored], path: str, storage: Persistent, tensor: tuple[Any, ...]) -> None:
    """Enter a storage, and the ``tensor`` on it, unless one was met before."""
    key = storage.key
    if not isinstance(key, tuple) or len(key) < 5:
        return
    _, kind, name, _, n_elements, *_ = key
    if not isinstance(name, str) or name in found or not _is_size(n_elements):
        return
    dtype = _last_name(kind).removesuffix("Storage").lstrip("_")
    unit = _element_bytes(dtype)
    if dtype == "Untyped" and len(tensor) > 5 and isinstance(tensor[5], Global):
        dtype = _last_name(tensor[5])  # _rebuild_tensor_v3 says it here; the storage counts bytes
        n_elements //= _element_bytes(dtype) or 1
    found[name] = Stored(path, unit, dtype, n_elements, _whole(tensor, n_elements))


def _last_name(node: Any) -> str:
    return node.name.rpartition(".")[2] if isinstance(node, Global) else ""


def _whole(tensor: tuple[Any, ...], n_elements: int) -> tuple[int, ...] | None:
    """Shape of a tensor if it takes up all elements of its storage in C order."""
    if len(tensor) < 3 or tensor[0] != 0:
        return None
    shape, strides = _sizes(tensor[1]), _sizes(tensor[2])
    if shape is None or strides is None or len(shape) != len(strides):
        return None
    step = 1
    for size, stride in zip(shape[::-1], strides[::-1], strict=True):
        if size != 1 and stride != step and 0 not in shape:
            return None
        step *= size
    return shape if step == n_elements else None


def _sizes(node: Any) -> tuple[int, ...] | None:
    """The sizes that a tuple, a list or a ``torch.Size`` holds, None if it holds other things."""
    if isinstance(node, Call) and isinstance(node.arguments, tuple) and len(node.arguments) == 1:
        node = node.arguments[0]
    if isinstance(node, (tuple, list)) and len(node) <= 64 and all(map(_is_size, node)):
        return tuple(node)
    return None


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 60


class Names:
    """Hands out names that are valid Unicode and different: a, b, a becomes a, b, a#2."""

    def __init__(self) -> None:
        self._taken: dict[str, int] = {}

    def unique(self, name: str) -> str:
        """``name``, with a number if it was handed out before."""
        plain = name = name.encode("utf-8", "backslashreplace").decode()
        while name in self._taken:
            self._taken[plain] += 1
            name = f"{plain}#{self._taken[plain]}"
        self._taken[name] = 1
        return name
