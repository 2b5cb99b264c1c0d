"""What may be written over.

Enters: the path of an output. Leaves: nothing, or the error that says why it stays as it
is. One rule for all verbs: a file is replaced by whoever says so; a directory only if every
file in it could have been written by the same command before, because base or target has a
file of that name, and never one that somebody is at home in.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path

from sparsediff.disk.names import is_temp
from sparsediff.errors import UsageError, os_errors


def check_output(path: Path, *, force: bool, inputs: Iterable[Path | str] = ()) -> None:
    """Raise UsageError if ``path`` may not be written, whatever is in it.

    It may not if it exists (unless ``force``), is neither file nor directory,
    has no parent, or is, contains or lies in one of ``inputs``; nor if it is a mount point,
    or is or contains the working directory or the user's home.
    """
    with os_errors(path):
        if os.path.lexists(path):
            if not force:
                raise UsageError("output exists (`force=True` replaces it)", file=path)
            if not (path.is_file() or path.is_dir() or path.is_symlink()):
                raise UsageError("output is neither a file nor a directory", file=path)
        if not path.parent.is_dir():
            raise UsageError("directory of the output does not exist", file=path)
        real = path.resolve()
        there = [Path(i).resolve() for i in inputs if os.path.exists(i)]
    for other in there:
        if real == other or (other.is_dir() and other in real.parents):
            raise UsageError("output is, or lies in, one of the inputs", file=path, found=other)
        if real in other.parents:
            raise UsageError("output would replace one of the inputs", file=path, found=other)
    if path.is_dir() and not path.is_symlink():
        _check_nobody_lives_in(path)


def _check_nobody_lives_in(path: Path) -> None:
    """Raise UsageError if a directory is a mount point, or holds a place somebody is in."""
    lived_in: dict[str, str] = {}
    with suppress(OSError):  # it may have been removed
        lived_in["the working directory"] = os.getcwd()
    with suppress(KeyError):
        lived_in["the home directory"] = pwd.getpwuid(os.geteuid()).pw_dir
    real = path.resolve()
    for what, place in lived_in.items():
        inside = Path(place).resolve()
        if real == inside or real in inside.parents:
            raise UsageError(f"output would replace {what}", file=path, found=inside)
    if os.path.ismount(path):
        raise UsageError("output would replace a mount point", file=path)


def check_replaceable(path: Path, names: Collection[str]) -> None:
    """Raise UsageError unless all that the directory ``path`` holds could be an earlier output.

    Args:
        path: a directory.
        names: of the files that base and target have, relative, ``/`` separated. Nothing else
            may be there but what a killed run left; links and other file systems neither.
    """
    with os_errors(path):
        device = os.lstat(path).st_dev

        def visit(directory: Path, prefix: str) -> None:
            for entry in sorted(os.scandir(directory), key=lambda e: e.name):
                name = prefix + entry.name
                if entry.is_dir(follow_symlinks=False):
                    if entry.stat(follow_symlinks=False).st_dev != device:
                        raise _unknown(path, name, "another file system")
                    visit(directory / entry.name, f"{name}/")
                elif not entry.is_file(follow_symlinks=False):
                    raise _unknown(path, name, "a link" if entry.is_symlink() else "no file")
                elif name not in names and not is_temp(entry.name):
                    raise _unknown(path, name, "a file that neither base nor target has")

        visit(path, "")


def _unknown(path: Path, name: str, what: str) -> UsageError:
    return UsageError(
        f"will not be replaced, for it holds {what}; remove it yourself if nothing in it is needed",
        file=path,
        found=name,
    )
