"""Names of files: those that stay inside their directory, those of what is not finished.

Enters: names. Leaves: the same names, or an error; where an output is built before it
appears. Never touches the disk.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from sparsediff.checksum import checksum
from sparsediff.errors import CorruptError

TEMP_SUFFIX = ".sparsediff-tmp"
CANNOT_BE_CARRIED = "file name cannot be carried to another machine"
_TEMP = re.compile(rf"(\..*)?{re.escape(TEMP_SUFFIX)}(\.[0-9]+)?", re.DOTALL)


def check_relative_name(name: str, *, file: object = None) -> str:
    """Return ``name`` if it is a safe relative path with ``/`` separators.

    Raises:
        CorruptError: it is absolute, climbs, is too long or too deep, or is
            the name of a temporary file.
    """
    problem = why_unsafe(name)
    if problem is not None:
        raise CorruptError(f"unsafe file name: {problem}", file=file, found=repr(name))
    return name


def why_unsafe(name: str) -> str | None:
    """What keeps ``name`` from being a relative path on every machine; None if nothing does."""
    if not name:
        return "it is empty"
    for i, c in enumerate(name):
        if c == "\0":
            return f"character {i + 1} is a zero byte"
        if c == "\\":
            return f"character {i + 1} is a backslash, which separates directories elsewhere"
        if "\ud800" <= c <= "\udfff":
            return f"character {i + 1} is no UTF-8"
    if len(name.encode()) > 4095:
        return "it is longer than 4095 bytes"
    parts = name.split("/")
    if len(parts) > 100:
        return "it is more than 100 directories deep"
    for part in parts:
        if part in ("", ".", ".."):
            return f"{part!r} in it is no name of a file"
        if part[1:2] == ":":
            return f"{part[:2]!r} at the beginning of a name is a drive elsewhere"
        if len(part.encode()) > 255:
            return f"the part of it that begins with {part[:20]!r} is longer than 255 bytes"
        if is_temp(part):
            return f"{part!r} is what killed runs leave behind"
    return None


def temp_sibling(path: Path, part: int | None = None) -> Path:
    """Where the output ``path`` is built before it is renamed into place.

    Whoever holds the lock on it also owns the siblings with a ``part``.
    """
    name = path.name
    if len(os.fsencode(name)) > 200:  # a name may have 255 bytes
        name = checksum(os.fsencode(name))
    return path.parent / f".{name}{TEMP_SUFFIX}{'' if part is None else f'.{part}'}"


def is_temp(name: str) -> bool:
    """Whether a file of this name is one that `temp_sibling` named.

    No file of a checkpoint can have such a name (format.md, "Manifest").
    """
    return _TEMP.fullmatch(name) is not None
