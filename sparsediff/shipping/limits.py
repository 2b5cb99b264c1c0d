"""What a way to a version takes, compared with what it may take before any of it is fetched.

Enters: what a catalog says of a version and of the patches that lead there. Leaves: nothing but
a refusal, where that is more than the caller's limit or than the disk has room for.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from sparsediff.disk.outputs import check_room
from sparsediff.errors import TooLargeError, os_errors, printable
from sparsediff.shipping.catalog import Version

_WAY = 2  # patches from nothing weigh less than two anchors, if the trainer left that as it is


def check_declared(store: str, wanted: Version, n_bytes: int, limit: int | None) -> None:
    """Refuse a version that is said to be larger than ``limit``.

    Args:
        store: its name.
        wanted: version.
        n_bytes: of what is brought of it.
        limit: most bytes; None for any.

    Raises:
        TooLargeError: it is.
    """
    if limit is not None and n_bytes > limit:
        raise TooLargeError(
            f"version {printable(wanted.name)} is larger than `max_bytes`",
            file=store,
            expected=f"at most {limit} bytes",
            found=f"{n_bytes} bytes",
        )


def check_way(store: str, wanted: Version, n_bytes: int, limit: int | None) -> None:
    """Refuse patches to a version that are together larger than twice ``limit``.

    Args:
        store: its name.
        wanted: where they lead.
        n_bytes: of them, as far as they are to be fetched.
        limit: most bytes of a version; None for any.

    Raises:
        TooLargeError: they are.
    """
    if limit is not None and n_bytes > _WAY * limit:
        raise TooLargeError(
            f"patches to version {printable(wanted.name)} are larger than twice `max_bytes`",
            file=store,
            expected=f"at most {_WAY * limit} bytes",
            found=f"{n_bytes} bytes",
        )


def check_room_ahead(directory: Path, n_bytes: int, kept: Collection[Path]) -> None:
    """Refuse what a disk has no room for, of a directory that need not be there yet.

    Args:
        directory: for patches on their way.
        n_bytes: that would be written, of patches and of a version.
        kept: files in ``directory`` that stay; the others make room.

    Raises:
        UnavailableError: there is less room.
    """
    with os_errors(directory):
        here = list(directory.iterdir()) if directory.is_dir() else []
        n_bytes -= sum(512 * os.lstat(p).st_blocks for p in here if p not in kept)
        room = next(p for p in (directory, *directory.parents) if p.is_dir())
    check_room(room, n_bytes)
