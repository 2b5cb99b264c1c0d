"""Archives of torch, byte by byte: as older versions wrote them, and as none ever would."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

MAX32 = 0xFFFFFFFF


@dataclass(frozen=True)
class Item:
    """One entry; what is not None is written instead of the truth."""

    name: str
    data: bytes
    method: int = 0
    hole: int = 0  # zero bytes after ``data`` that are only skipped over
    pad: int = 0  # bytes of extra field before the data
    local_name: str | None = None
    packed: int | None = None
    size: int | None = None
    offset: int | None = None


def write_archive(
    path: Path,
    items: Sequence[Item],
    *,
    zip64: bool = False,
    n_entries: int | None = None,
    directory: int | None = None,
    directory_bytes: int | None = None,
    comment: bytes = b"",
    append: bool = False,
) -> Path:
    """Write a zip archive as torch does: stored entries, sizes in data descriptors."""
    with open(path, "ab" if append else "wb") as out:
        start = out.tell()
        central = b""
        for item in items:
            at = out.tell() - start
            local = (item.name if item.local_name is None else item.local_name).encode()
            extra = struct.pack("<2sH", b"FB", item.pad) + b"Z" * item.pad if item.pad else b""
            out.write(struct.pack("<4sHHHHHIIIHH", b"PK\3\4", 0, 0x808, item.method, 0, 0, 0, 0, 0,
                                  len(local), len(extra)))  # fmt: skip
            out.write(local + extra + item.data)
            if item.hole:
                out.truncate(out.tell() + item.hole)
                out.seek(0, 2)
            n = len(item.data) + item.hole
            out.write(struct.pack("<4sIQQ", b"PK\7\x08", 0, n, n))
            wide = [
                n if item.size is None else item.size,
                n if item.packed is None else item.packed,
                at if item.offset is None else item.offset,
            ]
            short = [min(v, MAX32) for v in wide]
            more = b"".join(struct.pack("<Q", v) for v in wide if v >= MAX32)
            more = struct.pack("<HH", 1, len(more)) + more if more else b""
            name = item.name.encode()
            central += struct.pack("<4sHHHHHHIIIHHHHHII", b"PK\1\2", 0, 0, 0x808, item.method, 0, 0,
                                   0, short[1], short[0], len(name), len(more), 0, 0, 0, 0,
                                   short[2])  # fmt: skip
            central += name + more
        at = out.tell() - start if directory is None else directory
        size = len(central) if directory_bytes is None else directory_bytes
        n = len(items) if n_entries is None else n_entries
        out.write(central)
        if zip64:
            end64 = out.tell() - start
            out.write(struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 0, 0, 0, 0, n, n, size, at))
            out.write(struct.pack("<4sIQI", b"PK\6\7", 0, end64, 1))
        out.write(struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, min(n, 0xFFFF), min(n, 0xFFFF),
                              min(size, MAX32), min(at, MAX32), len(comment)))  # fmt: skip
        out.write(comment)
    return path


def _text(text: str) -> bytes:
    raw = text.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(raw)) + raw


def _ints(numbers: Sequence[int]) -> bytes:
    return b"(" + b"".join(b"\x8a\x08" + struct.pack("<q", n) for n in numbers) + b"t"


def old_pickle(tensors: Mapping[str, tuple[str, tuple[int, ...], str, int]]) -> bytes:
    """Pickle of a state dict: storage kind (``Float``), shape, storage key and length by name."""
    code = b"\x80\x02}("
    for name, (kind, shape, key, n) in tensors.items():
        strides = [prod(shape[i + 1 :]) for i in range(len(shape))]
        storage = _text("storage") + f"ctorch\n{kind}Storage\n".encode() + _text(key)
        storage = b"(" + storage + _text("cpu") + _ints([n])[1:-1] + b"tQ"
        tensor = storage + _ints([0])[1:-1] + _ints(shape) + _ints(strides) + b"\x89}"
        code += _text(name) + b"ctorch._utils\n_rebuild_tensor_v2\n(" + tensor + b"tR"
    return code + b"u."


def old_archive(
    tensors: Mapping[str, tuple[str, tuple[int, ...], bytes]], root: str = "archive"
) -> list[Item]:
    """Entries as torch 1.6 to 2.0 wrote them: no byte order, no alignment, no id.

    ``tensors`` gives storage kind, shape and data by name.
    """
    widths = {"Float": 4, "Half": 2, "BFloat16": 2, "Long": 8, "Byte": 1}
    keys = {name: str(94340341200128 + i) for i, name in enumerate(tensors)}
    stored = {
        name: (kind, shape, keys[name], len(data) // widths[kind])
        for name, (kind, shape, data) in tensors.items()
    }
    return [
        Item(f"{root}/data.pkl", old_pickle(stored)),
        *(Item(f"{root}/data/{keys[name]}", data) for name, (_, _, data) in tensors.items()),
        Item(f"{root}/version", b"3\n"),
    ]


def change(items: Sequence[Item], index: int, **lies: Any) -> list[Item]:
    """``items`` with one of them changed."""
    result = list(items)
    result[index] = replace(result[index], **lies)
    return result
