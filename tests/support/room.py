"""A disk as full as a test wants it, in the place of what `os.statvfs` says."""

from __future__ import annotations


class Room:
    """A disk that is as full as a test wants it."""

    f_blocks, f_frsize = 1 << 40, 1

    def __init__(self, free: int) -> None:
        self.f_bfree = free
