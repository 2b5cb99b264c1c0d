"""Owner, permissions and extended attributes of what is replaced by a new version of itself.

Enters: the old file, the new one. Leaves: the new one as accessible as the old, and never
more. Times are those of the change.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

_OTHERS = ("security.", "trusted.")  # attributes that only the system may set
_UNSUPPORTED = (errno.ENOTSUP, errno.ENOSYS)


def keep_attributes(old: Path, fd: int) -> None:
    """Give an open file of ours what the file or directory ``old`` has.

    Where we may not give it to its owner or group, those who could only read it as
    somebody else can do no more than that.

    Raises:
        OSError: it cannot be as well protected as ``old``.
    """
    before = os.stat(old)
    _keep_owner(before, fd)
    _keep_extended(old, fd)
    now, mode = os.fstat(fd), stat.S_IMODE(before.st_mode)
    if now.st_uid != before.st_uid:
        mode &= ~stat.S_ISUID
    if now.st_gid != before.st_gid:
        others = mode & stat.S_IRWXO
        mode = mode & ~(stat.S_ISGID | stat.S_IRWXG) | (mode & stat.S_IRWXG & others << 3)
    os.fchmod(fd, mode)


def keep_tree_attributes(old: Path, new: Path) -> None:
    """`keep_attributes` of a file, or of a directory and all in it that both have.

    Args:
        old: may be missing, and may lack what ``new`` has.
        new: ours, without links in it.

    Raises:
        OSError: something cannot be as well protected as it was.
    """
    for path in [*new.rglob("*"), new]:
        before = old / path.relative_to(new)
        if before.is_dir() if path.is_dir() else before.is_file():
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                keep_attributes(before, fd)
            finally:
                os.close(fd)


def _keep_owner(before: os.stat_result, fd: int) -> None:
    for uid, gid in ((before.st_uid, before.st_gid), (-1, before.st_gid)):
        try:
            os.fchown(fd, uid, gid)
        except PermissionError:
            continue
        return


def _keep_extended(old: Path, fd: int) -> None:
    """Make the extended attributes those of ``old``, access control lists included."""
    if not hasattr(os, "listxattr"):  # Linux only
        return
    try:
        wanted, there = os.listxattr(old), os.listxattr(fd)
    except OSError as e:
        if e.errno in _UNSUPPORTED:
            return
        raise
    for name in {*wanted, *there}:
        try:
            if name not in wanted:  # inherited from the directory
                os.removexattr(fd, name)
            elif name not in there or os.getxattr(fd, name) != os.getxattr(old, name):
                os.setxattr(fd, name, os.getxattr(old, name))
        except OSError:
            if not name.startswith(_OTHERS):
                raise
