"""tar archives: which members lie where. Nothing is ever unpacked.

Enters: a file. Leaves: its plain members, in file order, apart from each other and
inside the file. Understood are ustar, the long names of GNU and the names and sizes of
pax; files with holes taken out are not. A header costs 512 bytes of the file, and what
comes with one is read only up to `_MAX_MORE`, so a file can ask for no more than it pays
for (`tarfile` reads such parts whole, however long, and calls itself for each in a row).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from sparsediff.checkpoint.formats.span import MalformedError
from sparsediff.disk.inputs import Input, OpenFiles

MAX_HEADERS = 100_000
_BLOCK = 512
_MAX_MORE = 1 << 20  # bytes of a long name, or of what pax says of one member
_NAME, _SIZE, _SUM, _PREFIX = slice(0, 100), slice(124, 136), slice(148, 156), slice(345, 500)
_NO_DATA = b"123456"  # links, devices, directories, pipes
_LONG_NAME, _LONG_LINK, _PAX, _PAX_OF_ALL, _WITH_HOLES = b"LKxgS"
_RECORD = re.compile(rb"([1-9][0-9]{0,6}) ([^=]+)=")


@dataclass(frozen=True, slots=True)
class Member:
    """A file in an archive.

    Attributes:
        name: as stored; what is no valid Unicode is escaped.
        offset: first byte of its data in the file.
        nbytes: bytes it takes there.
    """

    name: str
    offset: int
    nbytes: int


def looks_like(file: Input) -> bool:
    """Whether it opens with a header of a member."""
    if file.size < 2 * _BLOCK:
        return False
    header = file.read(0, _BLOCK)
    return any(header) and _has_right_sum(header)


def find_members(file: Input) -> list[Member] | None:
    """Members of ``file`` by offset; None if they are too many, or some of a kind not understood.

    Raises:
        MalformedError: a header is broken, or a member exceeds the file.
    """
    members: list[Member] = []
    at = 0
    told: dict[bytes, bytes] = {}  # by the headers before, of the next member
    with OpenFiles() as files:
        for _ in range(MAX_HEADERS):
            if at == file.size:
                return members
            header = _read(files, file, at, _BLOCK)
            if not any(header):
                return members
            if not _has_right_sum(header):
                raise _malformed(file, "header with a wrong checksum", at)
            kind = header[156]
            size = _number(told.get(b"size", header[_SIZE]))
            if size is None:
                raise _malformed(file, "size of a member is no number", at)
            at += _BLOCK
            size = 0 if kind in _NO_DATA else size
            if size > file.size - at:
                raise _malformed(file, "member exceeds the file (cut off?)", at)
            if kind in (_LONG_NAME, _PAX, _PAX_OF_ALL):
                if size > _MAX_MORE:
                    raise _malformed(file, "header of a member is too long", at)
                more = _read(files, file, at, size)
                said = {b"path": _text(more)} if kind == _LONG_NAME else _records(file, at, more)
                if kind != _PAX_OF_ALL:
                    told |= said
                elif any(key in (b"path", b"size") or _is_sparse(key) for key in said):
                    return None  # no writer says that of all members
            elif kind != _LONG_LINK:
                if kind == _WITH_HOLES or any(map(_is_sparse, told)):
                    return None
                if kind not in _NO_DATA:
                    name = told.get(b"path") or _short_name(header)
                    text = name.decode("utf-8", "backslashreplace").removeprefix("./")
                    members.append(Member(text, at, size))
                told = {}
            at = min(at + -(-size // _BLOCK) * _BLOCK, file.size)
    return None


def _is_sparse(key: bytes) -> bool:
    return key.startswith(b"GNU.sparse")


def _has_right_sum(header: bytes) -> bool:
    """Whether the sum of the bytes is the one stored, which itself counts as spaces."""
    stored = _number(header[_SUM])
    return stored == sum(header) - sum(header[_SUM]) + len(header[_SUM]) * ord(" ")


def _number(field: bytes) -> int | None:
    """Octal digits; or, marked by the first bit, a binary number; or the decimal one of pax."""
    if field[:1] == b"\x80":
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0")
    return int(digits or b"0", 8) if re.fullmatch(rb"[0-7]{0,12}", digits) else None


def _short_name(header: bytes) -> bytes:
    is_posix = header[257:263] == b"ustar\0"
    parts = (_text(header[_PREFIX]) if is_posix else b"", _text(header[_NAME]))
    return b"/".join(filter(None, parts))


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _records(file: Input, start: int, more: bytes) -> dict[bytes, bytes]:
    """What pax says: lines of their own length, a space, a key, an equals sign and a value."""
    found = {}
    at = 0
    while at < len(more) and more[at]:
        record = _RECORD.match(more, at)
        end = at + int(record[1]) if record else at
        if record is None or not record.end() < end <= len(more):
            raise _malformed(file, "pax header with a broken line", start + at)
        found[record[2]] = more[record.end() : end - 1]
        at = end
    if b"size" in found:
        if not re.fullmatch(rb"[0-9]{1,19}", found[b"size"]):
            raise _malformed(file, "size of a member is no number", start)
        found[b"size"] = b"\x80" + int(found[b"size"]).to_bytes(11, "big")
    return found


def _read(files: OpenFiles, file: Input, offset: int, size: int) -> bytes:
    if size > file.size - offset:
        raise _malformed(file, "header exceeds the file (cut off?)", offset)
    buffer = bytearray(size)
    files.read(file, offset, buffer)
    return bytes(buffer)


def _malformed(file: Input, what: str, offset: int) -> MalformedError:
    return MalformedError(f"malformed tar archive: {what}", file=file.path, offset=offset)
