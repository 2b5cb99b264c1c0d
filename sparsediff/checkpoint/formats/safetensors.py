"""safetensors: 8 bytes of header length, a JSON header, tensor data without holes.

Enters: a file; or what is to be in one. Leaves: its spans; or its header, the very
bytes that the format's own library writes. Checks what the format's own library checks
(header length, JSON object, metadata of texts, shapes against offsets, no hole, no overlap,
no byte left over) before any offset is used. A dtype the format gains later is
read as bytes, so that such a file still travels.
"""

from __future__ import annotations

import json
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from operator import itemgetter, sub
from typing import Any

from sparsediff.checkpoint.formats.span import MalformedError, Span
from sparsediff.disk.inputs import Input
from sparsediff.dtypes import DTYPES, DType
from sparsediff.errors import UnsupportedError

MAX_HEADER = 100_000_000  # bytes, the limit of the format's own library
_NAMED = re.compile(rb'"[ \t\r\n]*:')
_SURROGATE = re.compile("[\ud800-\udfff]").search
_MAX_SIDE = 1 << 53
_FIELDS = itemgetter("dtype", "shape", "data_offsets")
_compact = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode
_METADATA = "__metadata__"  # the entry of the header that is no tensor

# The format's library stores the most aligned first, then by name.
# fmt: off
_ORDER = (
    "U64", "I64", "F64", "C64", "F32", "U32", "I32", "BF16", "F16", "U16", "I16",
    "F8_E5M2FNUZ", "F8_E4M3FNUZ", "F8_E8M0", "F8_E4M3", "F8_E5M2", "I8", "U8", "F6_E3M2",
    "F6_E2M3", "F4", "BOOL",
)
# fmt: on
_RANK = {name: i for i, name in enumerate(_ORDER)}

Described = tuple[str, DType, tuple[int, ...]]
"""Name, element type and shape of a tensor."""


def compose(
    tensors: Iterable[Described], metadata: Mapping[str, str] | None = None
) -> tuple[bytes, list[Span]]:
    """What a file of these tensors starts with, and where they lie in it, by offset.

    The bytes are those of the format's own library, save that it writes more than one
    entry of ``metadata`` in an order of chance; here they are sorted.

    Raises:
        UnsupportedError: nobody could read such a file: a name is no valid text, reserved or
            given twice, the metadata is no text, or the header is too long.
    """
    names, dtypes, shapes = map(list, [*zip(*tensors, strict=True)] or ([], [], []))
    head, order, begins = compose_columns(names, dtypes, shapes, metadata)
    return bytes(head), [
        Span(names[i], dtypes[i], shapes[i], begins[i], dtypes[i].n_bytes(shapes[i]) or 0)
        for i in order
    ]


def compose_columns(
    names: Sequence[str],
    dtypes: Sequence[DType],
    shapes: Sequence[tuple[int, ...]],
    metadata: Mapping[str, str] | None = None,
) -> tuple[bytearray, list[int], Sequence[int]]:
    """`compose` for very many tensors, given and returned as columns.

    Returns:
        What the file starts with; the tensors' indices in the order in which they lie in it; and
        of each, as given, the offset of its first byte.

    Raises:
        UnsupportedError: as `compose` does.
    """
    names = check_names(names)
    for entry in (metadata or {}).items():
        if not all(map(_is_text, entry)):
            raise UnsupportedError("metadata of safetensors must be text", found=repr(entry))
    if len(set(names)) < len(names):
        twice = next(name for name, n in Counter(names).items() if n > 1)
        raise UnsupportedError("two tensors of this name in one file", tensor=twice)
    order = sorted(range(len(names)), key=names.__getitem__)
    order.sort(key=lambda i: _RANK[dtypes[i].name])
    head = bytearray(8) + b"{"
    if metadata is not None:
        head += f'"{_METADATA}":{_compact(dict(sorted(metadata.items())))},'.encode()
    begins, end = array("q", bytes(8 * len(names))), 0
    for i in order:
        begins[i], shape = end, shapes[i]
        end += dtypes[i].n_bytes(shape) or 0
        head += (
            f'{_compact(names[i])}:{{"dtype":"{dtypes[i].name}","shape":{_compact(shape)},'
            f'"data_offsets":[{begins[i]},{end}]}},'
        ).encode()
    if head.endswith(b","):
        del head[-1:]
    head += b"}"
    head += b" " * (-len(head) % 8)
    length = len(head) - 8
    if length > MAX_HEADER:
        raise UnsupportedError(
            "header exceeds what safetensors allows",
            expected=f"at most {MAX_HEADER} bytes",
            found=f"{length} bytes",
        )
    head[:8] = length.to_bytes(8, "little")
    for i in order:
        begins[i] += len(head)
    return head, order, begins


def check_names(names: Iterable[object]) -> list[str]:
    """Return ``names`` if tensors may be called so.

    Raises:
        UnsupportedError: one is no text, no valid Unicode, or reserved by the format.
    """
    found = []
    for name in names:
        if not isinstance(name, str):
            raise UnsupportedError("name of a tensor must be text", found=repr(name))
        if not _is_text(name):
            raise UnsupportedError("name of a tensor is not valid Unicode", tensor=name)
        if name == _METADATA:
            raise UnsupportedError("name is reserved in safetensors for metadata", tensor=name)
        found.append(name)
    return found


def looks_like(file: Input) -> bool:
    """Whether the first bytes could open a safetensors file."""
    if file.size < 10:
        return False
    start = file.read(0, 9)
    return start[8:] == b"{" and int.from_bytes(start[:8], "little") <= file.size - 8


def have_same_spans(file: Input, other: Input) -> bool:
    """Whether two files of this format have the same header and size, from which spans follow."""
    if file.size != other.size or file.size < 8:
        return False
    end = 8 + int.from_bytes(file.read(0, 8), "little")
    return end <= min(8 + MAX_HEADER, file.size) and file.read(0, end) == other.read(0, end)


def find_spans(file: Input) -> list[Span]:
    """Spans of ``file``, ordered by offset.

    Raises:
        MalformedError: naming the tensor and offset of the first violation.
    """
    if file.size < 8:
        raise MalformedError(
            "malformed safetensors: no header",
            file=file.path,
            expected="8 bytes",
            found=f"{file.size} bytes",
        )
    length = int.from_bytes(file.read(0, 8), "little")
    if length > min(MAX_HEADER, file.size - 8):
        raise MalformedError(
            "malformed safetensors: header exceeds the file",
            file=file.path,
            offset=0,
            expected=f"at most {min(MAX_HEADER, file.size - 8)} bytes",
            found=f"{length} bytes",
        )
    header = _parse(file, file.read(8, length))
    data = 8 + length
    metadata = header.pop(_METADATA, None)
    if metadata is not None and not _are_texts(metadata):
        raise MalformedError(
            "malformed safetensors: metadata must be names and texts", file=file.path, offset=8
        )
    spans = _plain_spans(header, data, file.size)
    if spans is None:
        spans = [_span(file, name, entry, data) for name, entry in header.items()]
    # Empty tensors share their offset with a neighbour: order them first.
    spans.sort(key=itemgetter(3, 4))  # offset, nbytes
    end = data
    for span in spans:
        if span.offset != end:
            raise MalformedError(
                "malformed safetensors: hole or overlap between tensors",
                file=file.path,
                tensor=span.name,
                offset=span.offset,
                expected=f"offset {end}",
            )
        end += span.nbytes
    if end != file.size:
        raise MalformedError(
            "malformed safetensors: data does not end where the file ends",
            file=file.path,
            expected=f"{end} bytes",
            found=f"{file.size} bytes",
        )
    return spans


def _parse(file: Input, raw: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(pairs)
        if len(table) != len(pairs):
            raise ValueError("duplicate name")
        return table

    try:
        text = raw.decode("utf-8")
        header = json.loads(text, parse_constant=_refuse)
        if not _holds_all(header, raw):
            header = json.loads(text, object_pairs_hook=unique, parse_constant=_refuse)
        if not raw.startswith(b"{"):
            raise ValueError("does not start with '{'")
    except (ValueError, RecursionError) as e:
        reason = str(e).split("\n")[0]
        raise MalformedError(
            f"malformed safetensors: header is not a JSON object ({reason})",
            file=file.path,
            offset=8,
        ) from None
    assert isinstance(header, dict)  # starts with '{' and parsed
    return header


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _holds_all(header: Any, raw: bytes) -> bool:
    """Whether it is certain that no name was given twice, of which a table holds one only.

    Each name is followed by a colon, and other text can only add to their number.
    """
    if not isinstance(header, dict):
        return True
    n_names = len(header) + sum(len(v) for v in header.values() if isinstance(v, dict))
    return raw.count(b":") == n_names or len(_NAMED.findall(raw)) == n_names


def _plain_spans(header: dict[str, Any], data: int, size: int) -> list[Span] | None:
    """Spans of entries that are all right, at a few calls per column; None if one is not.

    There may be very many. What is wrong with one, or merely unusual, is for `_span` to say.
    """
    if not header:
        return []
    try:
        dtypes, shapes, offsets = zip(*map(_FIELDS, header.values()), strict=True)
        begins, ends = zip(*offsets, strict=True)
        if {*map(type, shapes), *map(type, offsets)} - {list}:
            return None
        if {*map(type, chain(begins, ends, chain.from_iterable(shapes)))} - {int}:
            return None
        # By text, whose hash nobody can choose; that of numbers may be the same for all shapes.
        kinds = [*zip(dtypes, map(str, shapes), strict=True)]
        known = {
            kind: (DTYPES[kind[0]], tuple(shape), DTYPES[kind[0]].n_bytes(tuple(shape)))
            for kind, shape in dict(zip(kinds, shapes, strict=True)).items()
        }
    except (KeyError, TypeError, ValueError):
        return None
    if not all(0 <= side <= _MAX_SIDE for _, shape, _ in known.values() for side in shape):
        return None
    found, shapes, sizes = zip(*map(known.__getitem__, kinds), strict=True)
    if sizes != tuple(map(sub, ends, begins)) or min(begins) < 0 or max(ends) > size - data:
        return None
    spans = [*map(Span, header, found, shapes, map(data.__add__, begins), sizes)]
    return spans if _is_text("".join(header)) else None


def _span(file: Input, name: str, entry: Any, data: int) -> Span:
    def bad(what: str, found: object) -> MalformedError:
        return MalformedError(
            f"malformed safetensors: {what}", file=file.path, tensor=name, found=found
        )

    if not _is_text(name):
        raise bad("name is not valid Unicode", repr(name))
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= set(entry):
        raise bad("entry must have dtype, shape and data_offsets", entry)
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not isinstance(entry["dtype"], str):
        raise bad("dtype must be a string", entry["dtype"])
    if not isinstance(shape, list) or not _are_sizes(shape):
        raise bad("shape must be a list of sizes", shape)
    if not isinstance(offsets, list) or len(offsets) != 2 or not _are_sizes(offsets):
        raise bad("data_offsets must be two offsets", offsets)
    begin, end = offsets
    if not begin <= end <= file.size - data:
        raise bad(f"data_offsets outside the {file.size - data} bytes of data", offsets)
    dtype = DTYPES.get(entry["dtype"])
    if dtype is None:
        return Span(name, DTYPES["U8"], (end - begin,), data + begin, end - begin)
    if dtype.n_bytes(tuple(shape)) != end - begin:
        raise bad(f"data_offsets do not fit {dtype.name}{shape}", offsets)
    if max(shape, default=0) > _MAX_SIDE:  # of an empty tensor; no manifest holds such a number
        shape = [0]
    return Span(name, dtype, tuple(shape), data + begin, end - begin)


def _are_texts(metadata: Any) -> bool:
    return isinstance(metadata, dict) and all(map(_is_text, chain(*metadata.items())))


def _is_text(value: object) -> bool:
    """Whether it is a string that UTF-8 can encode: one without lone surrogates."""
    return isinstance(value, str) and (value.isascii() or _SURROGATE(value) is None)


def _are_sizes(values: list[Any]) -> bool:
    return all(type(value) is int and 0 <= value < 1 << 62 for value in values)
