"""A disk as full as a test wants it, in the place of what `os.statvfs` says."""

from __future__ import annotations


class Room:
    """A disk that is as full as a test wants it."""

    f_blocks, f_frsize, f_files = 1 << 40, 1, 1 << 30

    def __init__(self, free: int, n_files: int = 1 << 30) -> None:
        self.f_bfree, self.f_favail = free, n_files
