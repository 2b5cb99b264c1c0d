"""The directory of a zip archive: where the bytes of its entries lie.

Enters: a file. Leaves: its entries, in file order, without overlap, inside the
file. Every offset, length and count is checked against the file and against the
local headers before it is used; an archive that contradicts itself is an error,
never a guess. Decompresses nothing.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from sparsediff.files import InputFile, OpenFiles
from sparsediff.formats.span import MalformedError

STORED = 0
MAX_ENTRIES = 100_000
_MAX_DIRECTORY = 1 << 25  # bytes
_END = struct.Struct("<4s4H2LH")
_END64_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_ENCRYPTED, _SIZES_FOLLOW, _UTF8 = 1, 8, 1 << 11


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of an archive.

    Attributes:
        name: as the archive spells it.
        is_stored: its bytes are in the file as they are.
        offset: first byte of its data.
        nbytes: length of its data in the file.
    """

    name: str
    is_stored: bool
    offset: int
    nbytes: int


def looks_like(file: InputFile) -> bool:
    """Whether the first bytes are those of an archive with an entry."""
    return file.size > 4 and file.read(0, 4) == b"PK\3\4"


def find_entries(file: InputFile) -> list[Entry] | None:
    """Entries of ``file``, ordered by offset; None if there are too many to look at.

    Raises:
        MalformedError: naming the entry and offset of the first contradiction.
    """
    n_entries, start, size = _find_directory(file)
    if n_entries > MAX_ENTRIES or size > _MAX_DIRECTORY:
        return None
    found = _parse_directory(file, n_entries, start, size)
    if len({e.name for e in found}) < len(found):
        raise _bad(file, "two entries of one name", start)
    entries: list[Entry] = []
    end = 0
    with OpenFiles() as files:
        for listed in sorted(found, key=lambda e: e.offset):
            if listed.offset < end:
                raise _bad(file, "entries overlap", listed.offset, listed.name, f"offset {end}")
            entries.append(_locate(file, files, listed, start))
            end = entries[-1].offset + entries[-1].nbytes
    return entries


def _bad(
    file: InputFile,
    what: str,
    offset: int,
    name: str | None = None,
    expected: object = None,
    found: object = None,
) -> MalformedError:
    return MalformedError(
        f"malformed zip: {what}",
        file=file.path,
        tensor=name,
        offset=offset,
        expected=expected,
        found=found,
    )


def _find_directory(file: InputFile) -> tuple[int, int, int]:
    """Number of entries, offset and length of the directory, which ends where its end says."""
    size = min(file.size, _END.size + 0xFFFF)
    tail = file.read(file.size - size, size)
    at = tail.rfind(b"PK\5\6")
    while at >= 0:  # the end is what is followed by a comment up to the end of the file
        if at + _END.size <= size:
            _, *disks, n_here, n, length, start, comment = _END.unpack_from(tail, at)
            if at + _END.size + comment == size:
                break
        at = tail.rfind(b"PK\5\6", 0, at)
    else:
        raise _bad(file, "no end of the directory", file.size)
    end = file.size - size + at
    before = end - _END64_LOCATOR.size
    if before >= 0:
        signature, disk, end64, _ = _END64_LOCATOR.unpack(file.read(before, _END64_LOCATOR.size))
        if signature == b"PK\6\7":
            if disk or end64 + _END64.size > before:
                raise _bad(file, "ZIP64 end of the directory lies elsewhere", before)
            signature, more, _, _, *disks, n_here, n, length, start = _END64.unpack(
                file.read(end64, _END64.size)
            )
            if signature != b"PK\6\6" or end64 + 12 + more != before:
                raise _bad(file, "no ZIP64 end of the directory", end64)
            end = end64
    if any(disks) or n_here != n:
        raise _bad(file, "archive of several files", end)
    if start + length != end or n * _CENTRAL.size > length:
        raise _bad(
            file, "directory does not fit", end, None, end, f"{n} entries, {start} + {length}"
        )
    return n, start, length


@dataclass(frozen=True, slots=True)
class _Listed:
    """One entry as the directory has it; ``offset`` is that of its local header."""

    name: str
    raw_name: bytes
    flags: int
    method: int
    n_stored: int
    n_bytes: int
    offset: int


def _parse_directory(file: InputFile, n_entries: int, start: int, length: int) -> list[_Listed]:
    raw = file.read(start, length)
    entries, at = [], 0
    for _ in range(n_entries):
        if at + _CENTRAL.size > length:
            raise _bad(file, "directory is cut short", start + at)
        fields = _CENTRAL.unpack_from(raw, at)
        signature, _, _, flags, method, _, _, _, n_stored, n_bytes, *rest = fields
        n_name, n_extra, n_comment, disk, _, _, offset = rest
        end = at + _CENTRAL.size + n_name + n_extra + n_comment
        if signature != b"PK\1\2" or end > length:
            raise _bad(file, "no entry of the directory", start + at)
        raw_name = raw[at + _CENTRAL.size :][:n_name]
        encoding = "utf-8" if flags & _UTF8 else "cp437"
        name = raw_name.decode(encoding, "backslashreplace")
        extra = raw[at + _CENTRAL.size + n_name :][:n_extra]
        wide = iter(_wide_sizes(extra))
        try:
            n_bytes, n_stored, offset = (
                next(wide) if v == 0xFFFFFFFF else v for v in (n_bytes, n_stored, offset)
            )
        except (StopIteration, RuntimeError):
            raise _bad(file, "ZIP64 sizes are missing", start + at, name) from None
        if disk not in (0, 0xFFFF):
            raise _bad(file, "archive of several files", start + at, name)
        entries.append(_Listed(name, raw_name, flags, method, n_stored, n_bytes, offset))
        at = end
    if at != length:
        raise _bad(file, "directory is longer than its entries", start + at)
    return entries


def _wide_sizes(extra: bytes) -> list[int]:
    """The 64-bit numbers of an extra field, those that the entry says are there in this order."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        at += 4
        if kind == 1:
            field = extra[at : at + length]
            return [v for (v,) in struct.iter_unpack("<Q", field[: len(field) // 8 * 8])]
        at += length
    return []


def _locate(file: InputFile, files: OpenFiles, listed: _Listed, limit: int) -> Entry:
    """Where the data of an entry lies, as its local header, which must agree, says."""

    def bad(what: str, expected: object = None, found: object = None) -> MalformedError:
        return _bad(file, what, listed.offset, listed.name, expected, found)

    head = bytearray(_LOCAL.size + len(listed.raw_name))
    if listed.offset + len(head) > limit:
        raise bad("entry lies outside", f"at most {limit}")
    files.read(file, listed.offset, head)
    fields = _LOCAL.unpack_from(head)
    signature, _, flags, method, _, _, _, n_stored, n_bytes, n_name, n_extra = fields
    if signature != b"PK\3\4":
        raise bad("no entry here")
    if n_name != len(listed.raw_name) or head[_LOCAL.size :] != listed.raw_name:
        raise bad("entry has another name in the directory")
    if method != listed.method:
        raise bad("entry has another method in the directory", listed.method, method)
    for here, there in ((n_stored, listed.n_stored), (n_bytes, listed.n_bytes)):
        if not flags & _SIZES_FOLLOW and here not in (there, 0xFFFFFFFF):
            raise bad("entry has another size in the directory", there, here)
    data = listed.offset + len(head) + n_extra
    if data + listed.n_stored > limit:
        raise bad("entry ends outside", f"at most {limit}", data + listed.n_stored)
    is_stored = listed.method == STORED and not listed.flags & _ENCRYPTED
    if is_stored and listed.n_stored != listed.n_bytes:
        raise bad("stored entry has two sizes", listed.n_bytes, listed.n_stored)
    return Entry(listed.name, is_stored, data, listed.n_stored)
