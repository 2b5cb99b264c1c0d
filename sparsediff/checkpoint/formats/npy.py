"""npy: magic, version, the length of a header that is a Python literal, one array.

Enters: a file, or the part of one that holds such an array. Leaves: its span.
The header is matched, never evaluated; what numpy itself would not write in one
(arrays of records or objects among it) is not understood and stays bytes. Words
are in file order, so an array in Fortran order has its shape reversed.
"""

from __future__ import annotations

import re

from sparsediff.checkpoint.formats.span import MalformedError, Reference, Span
from sparsediff.disk.inputs import Input
from sparsediff.dtypes import DTYPES, DType

_MAGIC = b"\x93NUMPY"
_MAX_HEADER = 1 << 16  # bytes; numpy itself reads 10,000
_MAX_SIDE = 1 << 53
_ITEM = re.compile(
    r"\s*(['\"])(?P<key>\w+)\1\s*:\s*"
    r"((['\"])(?P<descr>[^'\"]*)\4|(?P<flag>True|False)|\((?P<shape>[0-9L,\s]*)\))\s*(,|$)"
)
_DESCR = re.compile(r"([<>|=])([a-zA-Z])([0-9]{1,6})(\[.{1,20}\])?")
# '<V2' is how the bfloat16 of ml_dtypes is stored, '<f1' its float8 with 5 bits of exponent.
_DTYPES = {
    "b1": "BOOL", "i1": "I8", "i2": "I16", "i4": "I32", "i8": "I64", "u1": "U8", "u2": "U16",
    "u4": "U32", "u8": "U64", "f1": "F8_E5M2", "f2": "F16", "V2": "BF16", "f4": "F32",
    "f8": "F64", "c8": "C64", "m8": "I64", "M8": "I64",
}  # fmt: skip


def looks_like(file: Input) -> bool:
    """Whether the first bytes are those of the format."""
    return file.size >= 10 and file.read(0, 6) == _MAGIC


def references(file: Input) -> list[Reference]:
    """None: such a file stands for itself.

    Raises:
        MalformedError: it does not begin as such a file does.
    """
    if not looks_like(file):
        raise MalformedError("malformed npy: no header", file=file.path, offset=0)
    return []


def find_spans(file: Input) -> list[Span] | None:
    """The span of the array, named like the file without its suffix; None if not understood.

    Raises:
        MalformedError: the array does not fit into the file.
    """
    span = find_array(file, file.path.stem, 0, file.size)
    return None if span is None else [span]


def find_array(file: Input, name: str, start: int, end: int) -> Span | None:
    """Span of the array whose npy bytes are those of ``file`` from ``start`` to ``end``.

    Returns:
        The span, named ``name``; None if the bytes are not understood.

    Raises:
        MalformedError: the array does not fit between ``start`` and ``end``.
    """
    head = file.read(start, min(12, end - start))
    if len(head) < 10 or head[:6] != _MAGIC or head[6] not in (1, 2, 3):
        return None
    n_length = 2 if head[6] == 1 else 4
    data = start + 8 + n_length
    length = int.from_bytes(head[8 : 8 + n_length], "little")
    if data + length > end:
        raise MalformedError(
            "malformed npy: header exceeds the file",
            file=file.path,
            tensor=name,
            offset=start + 8,
            expected=f"at most {max(0, end - data)} bytes",
            found=f"{length} bytes",
        )
    if length > _MAX_HEADER:
        return None
    # Versions 1 and 2 are Latin-1, 3 is UTF-8; all that is understood is ASCII.
    layout = _parse(file.read(data, length).decode("latin-1"))
    if layout is None:
        return None
    dtype, shape = layout
    n_bytes = dtype.n_bytes(shape)
    data += length
    if n_bytes is None or n_bytes > end - data:
        raise MalformedError(
            "malformed npy: array exceeds the file",
            file=file.path,
            tensor=name,
            offset=data,
            expected=f"at most {end - data} bytes",
            found=f"{dtype.name}{list(shape)}",
        )
    return Span(name, dtype, shape, data, n_bytes)


def _parse(header: str) -> tuple[DType, tuple[int, ...]] | None:
    """Element type and shape in file order; None if the header is not understood."""
    text = header.strip()
    if not (text.startswith("{") and text.endswith("}")):
        return None
    text, at = text[1:-1].rstrip(), 0
    found: dict[str, str] = {}
    while at < len(text):
        item = _ITEM.match(text, at)
        if item is None or item["key"] in found:
            return None
        kind = {"descr": "descr", "fortran_order": "flag", "shape": "shape"}.get(item["key"])
        if kind is None or item[kind] is None:
            return None
        found[item["key"]] = item[kind]
        at = item.end()
    if len(found) != 3:
        return None
    sides = [s.strip().rstrip("L") for s in found["shape"].split(",")]
    if sides[-1] == "":
        sides.pop()
    if len(sides) > 64 or any(not s.isdigit() or len(s) > 18 for s in sides):
        return None
    shape = tuple(map(int, sides))
    if any(side > _MAX_SIDE for side in shape):
        return None
    element = _element(found["descr"])
    if element is None:
        return None
    dtype, inner = element
    return dtype, (shape[::-1] if found["fortran_order"] == "True" else shape) + inner


def _element(descr: str) -> tuple[DType, tuple[int, ...]] | None:
    """Element type of a NumPy type string, and the shape of one NumPy element in it."""
    match = _DESCR.fullmatch(descr)
    if match is None or (match[4] is not None and match[2] not in "mM"):
        return None
    order, kind, size = match[1], match[2], int(match[3])
    if kind == "O" or size == 0:
        return None
    if kind == "U":
        size *= 4
    if order == "<" and (kind, size) == ("c", 16):
        return DTYPES["F64"], (2,)
    name = _DTYPES.get(f"{kind}{size}")
    if name is not None and (order == "<" or size == 1):
        return DTYPES[name], ()
    return DTYPES["U8"], (size,)  # big-endian, text, or what numpy gains later
