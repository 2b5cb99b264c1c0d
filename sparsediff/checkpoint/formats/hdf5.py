"""HDF5: groups of groups of datasets, each with a header that says where its data lies.

Enters: a file (``.h5`` of Keras and others). Leaves: a span for each dataset that is
stored contiguously, named by its path, ``layers/dense/vars/0``. Chunked and compressed
datasets are not located, nor what stands in groups with an index of their own kind
(above 8 members in files of ``libver="latest"``): they stay skeleton or bytes. Every
address is looked at once, and all that is read adds up to a few times the file at most, so
cycles end; the format's own library follows some of them forever.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from sparsediff.checkpoint.formats.span import MalformedError, Span
from sparsediff.checkpoint.formats.torch_tensors import Names
from sparsediff.disk.inputs import Input, OpenFiles
from sparsediff.dtypes import DTYPES, DType

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_MAX_READ = 1 << 26  # bytes; of a small file, four times its own
_READ_COST = 128  # bytes that a read counts for beyond its own
_MAX_OBJECTS = 1 << 16
_MAX_NAME = 1000
_MAX_SIDE = 1 << 53
_NOWHERE = (1 << 64) - 1

_SPACE, _TYPE, _LINK, _LAYOUT, _CONTINUED, _TABLE = 0x01, 0x03, 0x06, 0x08, 0x10, 0x11
_IS_ELSEWHERE = 2  # flag of a message that only says where it really is
_CONTIGUOUS = 1
_INTEGER, _FLOAT, _OPAQUE = 0, 1, 5
_SYMBOL_BYTES = 40
_NODE_HEAD = 24  # bytes

_FLOATS = {(2, 10): "F16", (2, 7): "BF16", (4, 23): "F32", (8, 52): "F64"}
"""By bytes and bits of mantissa, as IEEE has them."""
_INTEGERS = {1: ("U8", "I8"), 2: ("U16", "I16"), 4: ("U32", "I32"), 8: ("U64", "I64")}


class _Message(NamedTuple):
    kind: int
    flags: int
    data: bytes


class _Reader:
    """Reads the parts of a file, each of which lies in it, and not too much of them together."""

    def __init__(self, file: Input, files: OpenFiles) -> None:
        self.size = file.size
        self._file, self._files = file, files
        self._left = min(_MAX_READ, 4 * file.size + 4096)

    def bad(self, what: str, offset: int) -> MalformedError:
        return MalformedError(f"malformed HDF5: {what}", file=self._file.path, offset=offset)

    def read(self, offset: int, size: int, opens_with: bytes = b"") -> bytes:
        if size > self.size - offset:
            raise self.bad("header exceeds the file", offset)
        self._left -= size + _READ_COST
        if self._left < 0:
            raise self.bad("headers are too large", offset)
        buffer = bytearray(size)
        self._files.read(self._file, offset, buffer)
        if not buffer.startswith(opens_with):
            raise self.bad(f"no {opens_with.decode('latin-1')!r}", offset)
        return bytes(buffer)


def looks_like(file: Input) -> bool:
    """Whether the first bytes are those of the format."""
    return file.size >= 96 and file.read(0, 8) == _SIGNATURE


def find_spans(file: Input) -> list[Span] | None:
    """Spans of ``file``, ordered by offset; None if it is of a kind not understood.

    Raises:
        MalformedError: addresses lie beyond the file, or datasets overlap.
    """
    if not looks_like(file):
        return None
    with OpenFiles() as files:
        reader = _Reader(file, files)
        root = _root(reader)
        if root is None:
            return None
        names = Names()
        found: list[Span] = []
        seen = {root}
        stack = [("", root)]
        while stack:
            path, address = stack.pop()
            messages = list(_messages(reader, address))
            span = _dataset(reader, path, messages)
            if span is not None:
                found.append(span._replace(name=names.unique(path)))
            links = [*_linked(messages), *_listed(reader, messages)]
            for name, child in reversed(links):  # so that the first is looked at next
                if child not in seen and len(seen) < _MAX_OBJECTS:
                    seen.add(child)
                    stack.append((f"{path}/{name}"[-_MAX_NAME:] if path else name, child))
    found.sort(key=lambda span: span.offset)
    end = 0
    for span in found:
        if span.offset < end:
            raise reader.bad(f"dataset {span.name} overlaps another", span.offset)
        end = span.offset + span.nbytes
    return found


def _root(reader: _Reader) -> int | None:
    """Where the root group's header is; None if addresses are not plain places in this file."""
    start = reader.read(0, 96)
    version = start[8]
    if version in (0, 1):
        widths, at = start[13:15], 24 if version == 0 else 28
        base, _, end, _, _, root = struct.unpack_from("<6Q", start, at)
    elif version in (2, 3):
        widths = start[9:11]
        base, _, end, root = struct.unpack_from("<4Q", start, 12)
    else:
        return None
    if widths != b"\x08\x08" or base != 0:
        return None
    if end > reader.size:
        raise reader.bad(f"{end} bytes are promised (cut off?)", reader.size)
    return int(root)


def _messages(reader: _Reader, address: int) -> Iterator[_Message]:
    """What the header of an object says, wherever it continues."""
    start = reader.read(address, 16)
    if start.startswith(b"OHDR"):
        flags = start[5]
        at = 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
        width = 1 << (flags & 3)
        size = int.from_bytes(reader.read(address + at, width), "little")
        head = struct.Struct("<BHBxx" if flags & 4 else "<BHB")
        blocks, opening, closing = [(address + at + width, size)], b"OCHK", 4
    elif start[0] == 1:
        head = struct.Struct("<HHB3x")
        blocks, opening, closing = [(address + 16, int.from_bytes(start[8:12], "little"))], b"", 0
    else:
        raise reader.bad("no header of an object", address)
    seen = set()
    for place, size in blocks:  # which grow while it goes
        if place in seen:
            continue
        seen.add(place)
        block = reader.read(place, size)
        at = 0
        while at + head.size <= len(block):
            kind, length, flags = head.unpack_from(block, at)
            at += head.size + length
            if at > len(block):
                break  # the gap at the end of a block
            data = block[at - length : at]
            if kind == _CONTINUED and length >= 16:
                place, size = struct.unpack_from("<2Q", data)
                if size < len(opening) + closing:
                    raise reader.bad("continuation of nothing", place)
                reader.read(place, len(opening), opening)
                blocks.append((place + len(opening), size - len(opening) - closing))
            else:
                yield _Message(kind, flags, data)


def _linked(messages: list[_Message]) -> Iterator[tuple[str, int]]:
    """Names and addresses of what a group of the newer kind holds in its header."""
    for kind, _, data in messages:
        if kind != _LINK or len(data) < 2:
            continue
        flags, at = data[1], 2
        is_hard = True
        if flags & 8:
            is_hard, at = data[at : at + 1] == b"\0", at + 1
        at += (8 if flags & 4 else 0) + (1 if flags & 16 else 0)
        width = 1 << (flags & 3)
        end = at + width + int.from_bytes(data[at : at + width], "little")
        if is_hard and end + 8 <= len(data):
            yield _text(data[at + width : end]), int.from_bytes(data[end : end + 8], "little")


def _listed(reader: _Reader, messages: list[_Message]) -> Iterator[tuple[str, int]]:
    """Names and addresses of what a group of the older kind holds: a tree, and names in a heap."""
    for kind, _, data in messages:
        if kind != _TABLE or len(data) < 16:
            continue
        tree, heap = struct.unpack_from("<2Q", data)
        size, _, place = struct.unpack_from("<3Q", reader.read(heap, 32, b"HEAP"), 8)
        names = reader.read(place, size)
        nodes, seen = [tree], {tree}
        while nodes:
            node = nodes.pop()
            if reader.read(node, 4) == b"SNOD":
                n = int.from_bytes(reader.read(node + 6, 2), "little")
                for symbol in struct.iter_unpack(
                    "<QQI20x", reader.read(node + 8, n * _SYMBOL_BYTES)
                ):
                    name, address, cached = symbol
                    if cached != 2 and address != _NOWHERE:  # 2: a symbolic link
                        yield _text(names[name:].partition(b"\0")[0]), address
                continue
            n = int.from_bytes(reader.read(node, 8, b"TREE")[6:8], "little")
            keys = reader.read(node + _NODE_HEAD, 16 * n)
            for (child,) in reversed(list(struct.iter_unpack("<8xQ", keys))):
                if child not in seen:
                    seen.add(child)
                    nodes.append(child)


def _text(raw: bytes) -> str:
    return raw[:_MAX_NAME].decode("utf-8", "backslashreplace")


def _dataset(reader: _Reader, name: str, messages: list[_Message]) -> Span | None:
    """Its span; None if it is no dataset, or none whose data is in one place."""
    said = {m.kind: m for m in reversed(messages)}
    if not {_SPACE, _TYPE, _LAYOUT} <= said.keys():
        return None
    layout = said[_LAYOUT].data
    if len(layout) < 18 or layout[0] not in (3, 4) or layout[1] != _CONTIGUOUS:
        return None
    offset, n_bytes = struct.unpack_from("<2Q", layout, 2)
    if offset == _NOWHERE or n_bytes == 0:
        return None
    if n_bytes > reader.size - offset:
        raise reader.bad(f"dataset {name} exceeds the file", offset)
    shape = None if said[_SPACE].flags & _IS_ELSEWHERE else _sides(said[_SPACE].data)
    element = None if said[_TYPE].flags & _IS_ELSEWHERE else _element(said[_TYPE].data)
    if shape is not None and element is not None:
        dtype, more = element
        if dtype.n_bytes(shape + more) == n_bytes:
            return Span(name, dtype, shape + more, offset, n_bytes)
    return Span(name, DTYPES["U8"], (n_bytes,), offset, n_bytes)


def _sides(space: bytes) -> tuple[int, ...] | None:
    """The shape that a dataspace has; None if it has none that is understood."""
    if len(space) < 4 or space[0] not in (1, 2):
        return None
    start, n = (8, space[1]) if space[0] == 1 else (4, space[1])
    if len(space) < start + 8 * n:
        return None
    sides = struct.unpack_from(f"<{n}Q", space, start)
    return sides if all(side <= _MAX_SIDE for side in sides) else None


def _element(datatype: bytes) -> tuple[DType, tuple[int, ...]] | None:
    """Element type, and what it adds to the shape: the bytes of all that is no plain number."""
    if len(datatype) < 8:
        return None
    kind, bits = datatype[0] & 15, datatype[1]
    size = int.from_bytes(datatype[4:8], "little")
    is_little = not bits & 1 or size == 1
    if kind == _OPAQUE and size == 2:
        return DTYPES["BF16"], ()  # how h5py stores the bfloat16 of ml_dtypes
    if kind == _INTEGER and is_little and size in _INTEGERS:
        return DTYPES[_INTEGERS[size][bits >> 3 & 1]], ()
    if kind == _FLOAT and is_little and not bits & 0x40 and len(datatype) >= 20:
        mantissa = datatype[15]
        if (size, mantissa) in _FLOATS:
            return DTYPES[_FLOATS[size, mantissa]], ()
    return DTYPES["U8"], (size,)
