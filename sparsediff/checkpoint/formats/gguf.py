"""GGUF: a header of metadata and tensor descriptions, then aligned tensor data.

Enters: a file. Leaves: its spans; versions 2 and 3, little-endian, are
understood, others are not. Sizes in the file run from the innermost dimension,
so shapes are reversed. Blocks of quantised numbers are read as bytes, a row of
blocks as the innermost dimension; a type that is not in the table, as bytes up to the next
tensor. Metadata is skipped over, but for the alignment and the number of files; every
count, length and offset is checked before it is used.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from sparsediff.checkpoint.formats.span import MalformedError, Reference, Span
from sparsediff.disk.inputs import Input
from sparsediff.dtypes import DTYPES, DType

_VERSIONS = (2, 3)
_MAX_HEADER = 1 << 26  # bytes; vocabularies make some of a dozen megabytes
_MAX_DIMENSIONS = 8  # the format's own library stops at 4
_MAX_SIDE = 1 << 53
_MAX_DEPTH = 4  # of arrays of arrays
_MIN_TENSOR, _MIN_VALUE = 24, 13  # bytes, of a description and of a pair of metadata
_WINDOW = 1 << 18  # bytes read at once

_STRING, _ARRAY, _UINT16, _UINT32 = 8, 9, 2, 4
_PART = re.compile(r"(.+)-[0-9]{5}-of-([0-9]{5})\.gguf", re.DOTALL)
_MAX_PARTS = 1000
_VALUE_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_DTYPES = {
    0: "F32", 1: "F16", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 30: "BF16",
}  # fmt: skip
BLOCKS = {
    2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34),  # Q4_0 Q4_1 Q5_0 Q5_1 Q8_0
    10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210),  # Q2_K … Q6_K
    16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50),  # IQ2_XXS IQ2_XS IQ3_XXS IQ1_S
    20: (32, 18), 21: (256, 110), 22: (256, 82), 23: (256, 136),  # IQ4_NL IQ3_S IQ2_S IQ4_XS
    29: (256, 56), 34: (256, 54), 35: (256, 66), 39: (32, 17), 40: (64, 36),  # IQ1_M TQ1_0 TQ2_0
    41: (128, 18),  # MXFP4 and NVFP4 in the row above; Q1_0
}  # fmt: skip
"""Elements and bytes of a block, by type number, of the types that occur in files."""


def looks_like(file: Input) -> bool:
    """Whether the first bytes are those of a version that is understood."""
    if file.size < 24:
        return False
    start = file.read(0, 8)
    return start[:4] == b"GGUF" and int.from_bytes(start[4:], "little") in _VERSIONS


def find_spans(file: Input) -> list[Span] | None:
    """Spans of ``file``, ordered by offset; None if it is not of a version understood.

    Raises:
        MalformedError: naming the tensor and offset of the first violation.
    """
    if not looks_like(file):
        return None
    reader, n_tensors, alignment, _ = _metadata(file)
    tensors: dict[str, _Tensor] = {}
    for _ in range(n_tensors):
        tensor = _describe(reader)
        if tensors.setdefault(tensor.name, tensor) is not tensor:
            raise reader.bad("two tensors of one name", tensor=tensor.name)
    data = -(-reader.at // alignment) * alignment
    return _place(file, list(tensors.values()), data, alignment)


def references(file: Input) -> list[Reference]:
    """All parts of a model that is split into several files, by the number in its metadata.

    Raises:
        MalformedError: it does not begin as such a file does.
    """
    if file.size < 24 or file.read(0, 4) != b"GGUF":
        raise MalformedError(
            "malformed GGUF: no header", file=file.path, found=f"{file.size} bytes"
        )
    name = _PART.fullmatch(file.path.name)
    if name is None or not looks_like(file):
        return []
    *_, n_parts = _metadata(file)
    n_parts = min(max(n_parts, int(name[2])), _MAX_PARTS)
    return [Reference(f"{name[1]}-{i:05}-of-{n_parts:05}.gguf") for i in range(1, n_parts + 1)]


def _metadata(file: Input) -> tuple[_Reader, int, int, int]:
    """A reader behind the metadata; numbers of tensors, of bytes to align to, and of parts."""
    reader = _Reader(file, at=8)
    n_tensors, n_values = reader.integer(8), reader.integer(8)
    reader.check_room(n_tensors * _MIN_TENSOR + n_values * _MIN_VALUE)
    alignment, n_parts = 32, 1
    seen: set[bytes] = set()
    for _ in range(n_values):
        key = reader.string()
        kind = reader.integer(4)
        if key in (b"general.alignment", b"split.count"):
            if key in seen:  # readers differ in which one they take
                raise reader.bad("two values of one name", key.decode())
            seen.add(key)
        if key == b"general.alignment":
            alignment = reader.integer(4) if kind == _UINT32 else 0
            if alignment.bit_count() != 1:
                raise reader.bad("alignment must be a power of two of type UINT32", alignment)
        elif key == b"split.count" and kind == _UINT16:
            n_parts = reader.integer(2)
        else:
            reader.skip_value(kind)
    return reader, n_tensors, alignment, n_parts


@dataclass(frozen=True, slots=True)
class _Tensor:
    """A description of a tensor, ``sides`` from the innermost; ``offset`` within the data."""

    name: str
    sides: tuple[int, ...]
    kind: int
    offset: int


class _Reader:
    """Reads a header from front to back, in windows, up to the longest one allowed."""

    def __init__(self, file: Input, at: int) -> None:
        self.at = at
        self._file = file
        self._end = min(file.size, _MAX_HEADER)
        self._start, self._window = 0, b""

    def bad(self, what: str, found: object = None, tensor: str | None = None) -> MalformedError:
        return MalformedError(
            f"malformed GGUF: {what}",
            file=self._file.path,
            tensor=tensor,
            offset=self.at,
            found=found,
        )

    def check_room(self, n_bytes: int) -> None:
        if n_bytes > self._end - self.at:
            raise self.bad(f"header exceeds {self._end} bytes", f"{n_bytes} bytes more")

    def skip(self, n_bytes: int) -> None:
        self.check_room(n_bytes)
        self.at += n_bytes

    def take(self, n_bytes: int) -> bytes:
        first = self.at
        self.skip(n_bytes)
        if self.at > self._start + len(self._window) or first < self._start:
            size = min(max(_WINDOW, n_bytes), self._end - first)
            self._start, self._window = first, self._file.read(first, size)
        return self._window[first - self._start : self.at - self._start]

    def integer(self, n_bytes: int) -> int:
        return int.from_bytes(self.take(n_bytes), "little")

    def string(self) -> bytes:
        return self.take(self.integer(8))

    def skip_value(self, kind: int, depth: int = 0) -> None:
        if kind == _STRING:
            self.skip(self.integer(8))
        elif kind == _ARRAY and depth < _MAX_DEPTH:
            item, n_items = self.integer(4), self.integer(8)
            if item in _VALUE_BYTES:
                self.skip(n_items * _VALUE_BYTES[item])
            else:
                self.check_room(n_items * 8)
                for _ in range(n_items):
                    self.skip_value(item, depth + 1)
        elif kind in _VALUE_BYTES:
            self.skip(_VALUE_BYTES[kind])
        else:
            raise self.bad("unknown type of value, or arrays too deep", kind)


def _describe(reader: _Reader) -> _Tensor:
    name = reader.string().decode("utf-8", "backslashreplace")
    n_sides = reader.integer(4)
    if n_sides > _MAX_DIMENSIONS:
        raise reader.bad("too many dimensions", n_sides, name)
    sides = tuple(reader.integer(8) for _ in range(n_sides))
    if any(side > _MAX_SIDE for side in sides):
        raise reader.bad("size of a dimension is too large", list(sides), name)
    return _Tensor(name, sides, reader.integer(4), reader.integer(8))


def _place(file: Input, tensors: list[_Tensor], data: int, alignment: int) -> list[Span]:
    """Spans of the tensors described, whose offsets count from ``data``."""
    # Empty tensors share their offset with a neighbour: order them first.
    tensors = sorted(tensors, key=lambda t: (t.offset, 0 not in t.sides))
    ends = [min(data + t.offset, file.size) for t in tensors[1:]] + [file.size]
    spans = []
    for tensor, end in zip(tensors, ends, strict=False):
        start = data + tensor.offset

        def bad(what: str, expected: str, t: _Tensor = tensor, at: int = start) -> MalformedError:
            return MalformedError(
                f"malformed GGUF: {what}",
                file=file.path,
                tensor=t.name,
                offset=at,
                expected=expected,
                found=f"offset {t.offset} in the data, type {t.kind}, sizes {list(t.sides)}",
            )

        if tensor.offset % alignment:
            raise bad("tensor is not aligned", f"a multiple of {alignment}")
        if start > end:
            raise bad("tensor lies beyond the file", f"at most {file.size}")
        layout = _layout(tensor, end - start)
        if layout is None:
            raise bad("rows are not whole blocks", f"multiples of {BLOCKS[tensor.kind][0]}")
        dtype, shape = layout
        n_bytes = dtype.n_bytes(shape)
        if n_bytes is None or n_bytes > end - start:
            raise bad("tensor exceeds the file or overlaps the next", f"{end - start} bytes")
        spans.append(Span(tensor.name, dtype, shape, start, n_bytes))
    return spans


def _layout(tensor: _Tensor, room: int) -> tuple[DType, tuple[int, ...]] | None:
    """Element type and shape, in ``room`` bytes if unknown; None if a row ends inside a block."""
    if tensor.kind in _DTYPES:
        return DTYPES[_DTYPES[tensor.kind]], tensor.sides[::-1]
    if tensor.kind not in BLOCKS:
        return DTYPES["U8"], (room,)
    n_elements, n_bytes = BLOCKS[tensor.kind]
    row, *outer = tensor.sides or (1,)
    if row % n_elements:
        return None
    return DTYPES["U8"], (*outer[::-1], row // n_elements * n_bytes)
