"""Names of files: those that stay inside their directory, those of what is not finished.

Enters: names. Leaves: the same names, or an error; where an output is built before it
appears. Never touches the disk.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from pathlib import Path

from sparsediff.checksum import checksum
from sparsediff.errors import CorruptError

TEMP_SUFFIX = ".sparsediff-tmp"
CANNOT_BE_CARRIED = "file name cannot be carried to another machine"
_TEMP = re.compile(rf"(\..*)?{re.escape(TEMP_SUFFIX)}(\.[0-9]+)?", re.DOTALL)
# A patch may have millions of parts of names: each is gone through in C. Between slashes.
_UNSAFE = re.compile("[\0\\\\\ud800-\udfff]").search
_UNSAFE_PART = re.compile(
    rf"/(?:/|\.\.?/|[^/]:|\.(?:[^/]*\.)?{TEMP_SUFFIX[1:]}(?:\.[0-9]+)?/)"
).search


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
    if found := _UNSAFE(name):
        kinds = {"\0": "a zero byte", "\\": "a backslash, which separates directories elsewhere"}
        return f"character {found.start() + 1} is {kinds.get(found[0], 'no UTF-8')}"
    raw = name.encode()
    if len(raw) > 4095:
        return "it is longer than 4095 bytes"
    if name.count("/") >= 100:
        return "it is more than 100 directories deep"
    if found := _UNSAFE_PART(f"/{name}/"):
        part = name[found.start() :].partition("/")[0]
        if part in ("", ".", ".."):
            return f"{part!r} in it is no name of a file"
        if part[1:2] == ":":
            return f"{part[:2]!r} at the beginning of a name is a drive elsewhere"
        return f"{part!r} is what killed runs leave behind"
    if len(raw) > 255 and len(longest := max(raw.split(b"/"), key=len)) > 255:
        begins = longest.decode()[:20]
        return f"the part of it that begins with {begins!r} is longer than 255 bytes"
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


def n_entries(names: Collection[str]) -> int:
    """Files of these relative names, and the directories that they lie in, below the first one."""
    if not any("/" in name for name in names):
        return len(names)
    found, before = 0, [""]
    for name in sorted(name.replace("/", "\0") for name in names):  # a directory's stay together
        *parts, _ = name.split("\0")
        pairs = enumerate(zip(parts, before, strict=False))
        shared = next((i for i, (a, b) in pairs if a != b), min(len(parts), len(before)))
        found += 1 + len(parts) - shared
        before = parts
    return found
