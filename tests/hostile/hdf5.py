"""Writes the hostile files of HDF5, byte by byte; `write.py` writes them with all the others."""

from __future__ import annotations

import struct

_NOWHERE = (1 << 64) - 1
_START = 96  # bytes, of the superblock; there is the header of the root
_ROOM = 1024  # bytes, for that header; then comes what it names
_SPACE, _LINKS, _TYPE, _LINK, _FILES, _LAYOUT, _FILTERS, _CONTINUED = 1, 2, 3, 6, 7, 8, 11, 16
_HARD, _SOFT, _EXTERNAL = 0, 1, 64
_F64 = b"\x11\x20\x3f\0" + struct.pack("<IHHBBBBI", 8, 0, 64, 52, 11, 0, 52, 1023)
_DATA = struct.pack("<4d", 1, 2, 3, 4)


def files() -> dict[str, bytes]:
    """Groups and datasets that lead somewhere else."""
    dataset, data = _START + _ROOM, _START + 2 * _ROOM
    there = _link(b"a", _HARD, struct.pack("<Q", dataset))
    right = _layout(data, 32)
    heap = b"HEAP" + struct.pack("<I3Q", 0, 24, 1, data + 32) + b"/etc/passwd"
    return {
        "outside.h5": _file([there], [_layout(data, 1 << 40)]),
        "overflow.h5": _file([there], [_layout(_NOWHERE - 15, 32)]),
        "itself.h5": _file([_link(b"g", _HARD, struct.pack("<Q", _START)), there], [right]),
        "soft-loop.h5": _file([_link(b"b", _SOFT, b"\2\0/b"), there], [right]),
        "external-link.h5": _file(
            [_link(b"b", _EXTERNAL, b"\x0e\0\0/etc/passwd\0/\0"), there], [right]
        ),
        "external-data.h5": _file(
            [there],
            [
                _message(_FILES, struct.pack("<B3xHHQ3Q", 1, 1, 1, data, 0, 0, 32)),
                _layout(_NOWHERE, 32),
            ],
            heap,
        ),
        "virtual.h5": _file([there], [_message(_LAYOUT, struct.pack("<BBQI", 4, 3, data, 0))]),
        "chunks.h5": _file(
            [there],
            [
                _message(_LAYOUT, struct.pack("<BBBQII", 3, 2, 2, _START, 1 << 31, 8)),
                _message(_FILTERS, struct.pack("<BB6xHHHH", 1, 1, 1, 0, 1, 0)),
            ],
        ),
        "continued.h5": _file(
            [_message(_CONTINUED, struct.pack("<2Q", _START + 16, _ROOM - 16)), there], [right]
        ),
        "shape.h5": _file([there], [right], space=struct.pack("<BBB5x2Q", 1, 2, 0, 1 << 62, 8)),
        "up.h5": _file([_link(b"../../a", _HARD, struct.pack("<Q", dataset))], [right]),
    }


def _message(kind: int, data: bytes) -> bytes:
    data += bytes(-len(data) % 8)
    return struct.pack("<HHB3x", kind, len(data), 0) + data


def _link(name: bytes, kind: int, place: bytes) -> bytes:
    return _message(_LINK, struct.pack("<BBBB", 1, 8, kind, len(name)) + name + place)


def _layout(offset: int, n_bytes: int) -> bytes:
    """Of data in one place."""
    return _message(_LAYOUT, struct.pack("<BBQQ", 3, 1, offset, n_bytes))


def _header(messages: list[bytes]) -> bytes:
    """Of an object; there is room for more."""
    size = sum(map(len, messages))
    head = struct.pack("<BBHII4x", 1, 0, len(messages), 1, size)
    return (head + b"".join(messages)).ljust(_ROOM, b"\0")


def _file(
    links: list[bytes], messages: list[bytes], data: bytes = _DATA, space: bytes = b""
) -> bytes:
    """A group with these links, and after it a dataset with these messages, of four numbers."""
    root = _header([_message(_LINKS, struct.pack("<BBQQ", 0, 0, _NOWHERE, _NOWHERE)), *links])
    shape = _message(_SPACE, space or struct.pack("<BBB5xQ", 1, 1, 0, 4))
    dataset = _header([shape, _message(_TYPE, _F64), *messages])
    data = data.ljust(64, b"\0")
    start = b"\x89HDF\r\n\x1a\n" + bytes([0, 0, 0, 0, 0, 8, 8, 0]) + struct.pack("<HHI", 4, 16, 0)
    end = _START + len(root) + len(dataset) + len(data)
    start += struct.pack("<4Q", 0, _NOWHERE, end, _NOWHERE)
    start += struct.pack("<QQII16x", 0, _START, 0, 0)
    return start + root + dataset + data
