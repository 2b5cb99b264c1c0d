"""zip archives: which entries lie where. Nothing is ever decompressed.

Enters: a file, and where an archive in it ends. Leaves: its entries, in file
order, each shown to lie inside the archive, behind a local header of the same
name, apart from all others. What zip allows and no writer of tensors does
(several disks, entries that share bytes) is malformed here.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from sparsediff.checkpoint.formats.span import MalformedError
from sparsediff.disk.inputs import Input, OpenFiles

LOCAL = b"PK\x03\x04"
_END = struct.Struct("<4sHHHHIIH")
_END64 = struct.Struct("<4sQHHIIQQQQ")
_LOCATOR = struct.Struct("<4sIQI")
# Flags, method, two sizes, three lengths, disk, place
_CENTRAL = struct.Struct("<4s4xHH8xIIHHHH6xI")
_HEADER = struct.Struct("<4s2xHH8xIIHH")  # flags, method, two sizes, two lengths
_MAX_COMMENT = 0xFFFF
_MAX_DIRECTORY = 1 << 26  # bytes held at a time
_ZIP64_FIELD = 1
_ENCRYPTED, _SIZES_FOLLOW, _UTF8 = 1, 1 << 3, 1 << 11


@dataclass(frozen=True, slots=True)
class Archive:
    """Where an archive and its directory lie.

    Attributes:
        offset: its first byte in the file.
        directory: first byte of the directory in the file.
        directory_bytes: length of the directory.
        n_entries: how many entries that holds.
    """

    offset: int
    directory: int
    directory_bytes: int
    n_entries: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of an archive.

    Attributes:
        name: as stored; what is no valid Unicode is escaped.
        offset: first byte of its data in the file.
        nbytes: bytes it takes there.
        is_stored: whether they are its content, neither compressed nor encrypted.
    """

    name: str
    offset: int
    nbytes: int
    is_stored: bool


def first_name(file: Input) -> str | None:
    """Name of the entry that the file opens with; None if it opens with none."""
    with OpenFiles() as files:
        try:
            head = _read(files, file, 0, _HEADER.size)
            if head[:4] != LOCAL:
                return None
            return _read(files, file, _HEADER.size, _HEADER.unpack(head)[5]).decode("latin-1")
        except MalformedError:  # not even that long
            return None


def find_archive(file: Input, end: int) -> Archive:
    """The archive that ends at byte ``end`` of ``file``.

    Raises:
        MalformedError: there is none, or its end contradicts itself.
    """
    with OpenFiles() as files:
        at, record = _end_record(files, file, end)
        _, disk, first_disk, here, n_entries, size, start, _ = _END.unpack(record)
        directory_end, place = at, None
        sizes = [n_entries, size, start]
        if at >= _LOCATOR.size + _END64.size:
            tail = _read(files, file, at - _LOCATOR.size - _END64.size, _END64.size + _LOCATOR.size)
            if tail[_END64.size :].startswith(b"PK\x06\x07"):
                directory_end = at - len(tail)
                place = _LOCATOR.unpack_from(tail, _END64.size)[2]
                signature, length, *_, here64, n64, size64, start64 = _END64.unpack_from(tail)
                if signature != b"PK\x06\x06" or length != _END64.size - 12:
                    raise _malformed(file, "no zip64 end record", directory_end)
                wide = [n64, size64, start64]
                limits = (0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF)
                for short, long, limit in zip(sizes, wide, limits, strict=True):
                    if short not in (long, limit):
                        raise _malformed(file, "zip64 and plain end record disagree", at)
                here, sizes = here64 if here == 0xFFFF else here, wide
        n_entries, size, start = sizes
        if disk not in (0, 0xFFFF) or first_disk not in (0, 0xFFFF) or here != n_entries:
            raise _malformed(file, "zip directory of several disks", at)
        if start + size > directory_end or n_entries * _CENTRAL.size > size:
            raise _malformed(file, "zip directory exceeds the file", at)
        directory = directory_end - size
        if place not in (None, start + size):
            raise _malformed(file, "zip64 end record is not where the file says", at)
        return Archive(directory - start, directory, size, n_entries)


def _end_record(files: OpenFiles, file: Input, end: int) -> tuple[int, bytes]:
    """Where the end record is, and the record: last, but for a comment."""
    if end >= _END.size:
        record = _read(files, file, end - _END.size, _END.size)
        if record.startswith(b"PK\x05\x06") and record.endswith(b"\0\0"):
            return end - _END.size, record
        start = max(0, end - _END.size - _MAX_COMMENT)
        tail = _read(files, file, start, end - start)
        at = len(tail) - _END.size + 1
        while (at := tail.rfind(b"PK\x05\x06", 0, at + 3)) >= 0:  # a comment may hold another
            if _END.unpack_from(tail, at)[7] == len(tail) - at - _END.size:
                return start + at, tail[at : at + _END.size]
    raise _malformed(file, "no zip directory at the end (cut off?)", end)


def read_entries(file: Input, archive: Archive) -> list[Entry]:
    """Entries of ``archive``, by offset.

    Raises:
        MalformedError: a name occurs twice, or entries overlap or lie
            elsewhere than the directory says.
    """
    if archive.directory_bytes > _MAX_DIRECTORY:
        raise _malformed(file, "zip directory is too large", archive.directory)
    entries: list[tuple[int, Entry]] = []  # with the offset of the local header
    names = set()
    with OpenFiles() as files:
        raw = _read(files, file, archive.directory, archive.directory_bytes)
        at = 0
        for _ in range(archive.n_entries):
            where = archive.directory + at
            if at + _CENTRAL.size > len(raw) or raw[at : at + 4] != b"PK\x01\x02":
                raise _malformed(file, "bad entry in zip directory", where)
            _, flags, method, packed, size, n_name, n_extra, n_comment, disk, local = (
                _CENTRAL.unpack_from(raw, at)
            )
            at += _CENTRAL.size
            name, extra = raw[at : at + n_name], raw[at + n_name : at + n_name + n_extra]
            at += n_name + n_extra + n_comment
            if at > len(raw):
                raise _malformed(file, "zip directory ends inside an entry", where)
            size, packed, local = _wide(file, where, extra, size, packed, local)
            local += archive.offset
            if local + _HEADER.size + n_name > archive.directory:
                raise _malformed(file, "zip entry lies outside the archive", where, name)
            head = _read(files, file, local, _HEADER.size + n_name)
            if not head.startswith(LOCAL) or head[_HEADER.size :] != name:
                raise _malformed(file, "zip entry is not where the directory says", local, name)
            _, local_flags, local_method, *local_sizes, n_local_name, n_local_extra = (
                _HEADER.unpack_from(head)
            )
            start = local + _HEADER.size + n_name + n_local_extra
            if disk not in (0, 0xFFFF):
                raise _malformed(file, "zip entry on another disk", where, name)
            if n_local_name != n_name:
                raise _malformed(file, "zip entry has two names", local, name)
            if local_method != method:
                raise _malformed(file, "zip entry has two methods", local, name)
            for here, there in zip(local_sizes, (packed, size), strict=True):
                if here not in (there, 0xFFFFFFFF) and not local_flags & _SIZES_FOLLOW:
                    raise _malformed(file, "zip entry has two sizes", local, name)
            is_stored = method == 0 and not flags & _ENCRYPTED
            if is_stored and packed != size:
                raise _malformed(file, "stored zip entry has two sizes", where, name)
            if start + packed > archive.directory:
                raise _malformed(file, "zip entry exceeds the archive", where, name)
            text = name.decode("utf-8" if flags & _UTF8 else "cp437", "backslashreplace")
            known = text.partition("\0")[0]  # to readers written in C, and to Python's
            if known in names:
                raise _malformed(file, "two zip entries have the same name", where, name)
            names.add(known)
            entries.append((local, Entry(text, start, packed, is_stored)))
    if at != len(raw):
        raise _malformed(file, "zip directory holds more than its entries", archive.directory + at)
    entries.sort(key=lambda e: e[0])
    end = archive.offset
    for local, entry in entries:
        if local < end:
            raise _malformed(file, "zip entries overlap", local, entry.name.encode())
        end = entry.offset + entry.nbytes
    return [entry for _, entry in entries]


def _wide(file: Input, where: int, extra: bytes, *values: int) -> list[int]:
    """``values`` with those that are all ones taken from the zip64 field of ``extra``."""
    result = list(values)
    wanted = [i for i, v in enumerate(values) if v == 0xFFFFFFFF]
    at = 0
    while wanted and at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        at += 4
        if kind == _ZIP64_FIELD and at + length <= len(extra) and length >= 8 * len(wanted):
            for k, i in enumerate(wanted):
                (result[i],) = struct.unpack_from("<Q", extra, at + 8 * k)
            return result
        at += length
    if wanted:
        raise _malformed(file, "zip entry without its zip64 sizes", where)
    return result


def _read(files: OpenFiles, file: Input, offset: int, size: int) -> bytes:
    if not 0 <= offset <= offset + size <= file.size:
        raise _malformed(file, "zip record exceeds the file", offset)
    buffer = bytearray(size)
    files.read(file, offset, buffer)
    return bytes(buffer)


def _malformed(file: Input, what: str, offset: int, name: bytes | None = None) -> MalformedError:
    found = None if name is None else repr(name.decode("utf-8", "backslashreplace"))
    return MalformedError(
        f"malformed zip archive: {what}", file=file.path, offset=offset, found=found
    )
