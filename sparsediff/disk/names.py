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
_TEMP = re.compile(rf"(\..*)?{re.escape(TEMP_SUFFIX)}(\.[0-9]+)?", re.DOTALL)


def check_relative_name(name: str, *, file: object = None) -> str:
    """Return ``name`` if it is a safe relative path with ``/`` separators.

    Raises:
        CorruptError: it is absolute, climbs, is too long or too deep, or is
            the name of a temporary file.
    """
    parts = name.split("/")
    bad = (
        not name
        or "\0" in name
        or len(name.encode("utf-8", "surrogatepass")) > 4095
        or "\\" in name
        or any(p in ("", ".", "..") for p in parts)
        or len(parts) > 100
        or any(p[1:2] == ":" or is_temp(p) for p in parts)
        or any(len(p.encode("utf-8", "surrogatepass")) > 255 for p in parts)
        or any("\ud800" <= c <= "\udfff" for c in name)
    )
    if bad:
        raise CorruptError("unsafe file name", file=file, found=repr(name))
    return name


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
