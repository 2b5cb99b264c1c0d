"""Where the files of tests go: into memory, where there is a file system in it with room."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

MEMORY = Path("/dev/shm")


def memory_has_room(n_bytes: int) -> bool:
    """Whether files of so many bytes, some of them programs, can be in memory."""
    return (
        MEMORY.is_dir()
        and os.access(MEMORY, os.W_OK)
        and not os.statvfs(MEMORY).f_flag & os.ST_NOEXEC
        and shutil.disk_usage(MEMORY).free > n_bytes
    )
