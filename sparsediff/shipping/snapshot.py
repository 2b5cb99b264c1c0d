"""Keeping a checkpoint beyond the trainer's deleting or overwriting it.

Enters: the path of a checkpoint. Leaves: the same tree of files elsewhere,
whole or not at all: sharing blocks where the file system can, hard-linked
where the caller allows it, copied otherwise; and an identity that tells
whether files were touched since. Never writes to the checkpoint, and never
gives a hard link a temporary name that a later run would open for writing.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from sparsediff.checksum import checksum
from sparsediff.disk.inputs import InputFile, walk
from sparsediff.disk.names import temp_sibling
from sparsediff.disk.outputs import clone, create, staged_directory, staged_file, sync
from sparsediff.disk.replace import check_output
from sparsediff.disk.selection import Selection
from sparsediff.errors import CorruptError, SparsediffError, UnavailableError, UsageError, os_errors

State = tuple[str, int, int, int]  # name inside the checkpoint, size, mtime in ns, inode

_WAYS = ("reflink", "link", "copy")  # the cheapest first
_CANNOT_LINK = (errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.EOPNOTSUPP)
_CANNOT_COPY = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)
_STEP = 256 << 20  # bytes that one call copies: an interrupt waits no longer
_PORTION = 1 << 20  # bytes that go through our memory at a time, where the kernel does not copy
_CHANGED = "changed while it was read; try again"


class _CannotError(Exception):
    """This way of keeping is not possible here."""


def states(path: Path, selection: Selection | None = None) -> list[State]:
    """What a checkpoint looks like from outside: each file's name, size, mtime and inode.

    Not the ctime: another hard link that comes or goes changes it.

    Args:
        path: of the checkpoint.
        selection: look only at these of a directory's files.

    Raises:
        UsageError: it is missing, or holds something that is no file.
    """
    with os_errors(path):
        files = list(walk(path)) if path.is_dir() else [("", path)]
    if selection:
        files = [(name, file) for name, file in files if not name or selection.takes(name)]
    pinned = [(name, InputFile.of(file)) for name, file in files]
    return sorted((name, f.size, f.identity[2], f.identity[1]) for name, f in pinned)


def leftovers(path: Path) -> list[Path]:
    """What killed runs left in a checkpoint: `keep` leaves it out."""
    found: list[Path] = []
    if path.is_dir():
        for _ in walk(path, passed_over=found):
            pass
    return found


def identity_of(seen: list[State]) -> str:
    """Hash of `states`: differs when any file's name, size, mtime or inode does."""
    lines = [
        os.fsencode(name) + f"\0{size} {mtime} {inode}".encode()
        for name, size, mtime, inode in seen
    ]
    return checksum(b"\n".join(lines))


def identity(path: Path) -> str:
    """`identity_of` the checkpoint at ``path``: its `Candidate.fingerprint`, if that is one.

    Raises:
        UsageError: it is missing, or holds something that is no file.
    """
    return identity_of(states(path))


def check_kept(dest: Path, expected: str) -> None:
    """Raise CorruptError unless ``identity(dest)`` is still what it was after `keep`.

    A kept file that is hard-linked follows whoever writes into it; then ``dest``
    is no base for a patch any more. Content is not read: an application that
    writes in place and sets the mtime back goes unnoticed here, and is caught
    when the words do not match their checksums.
    """
    try:
        found = identity(dest)
    except SparsediffError as e:
        raise CorruptError(f"kept checkpoint is gone ({e.problem})", file=dest) from e
    if found != expected:
        raise CorruptError(
            "kept checkpoint was modified", file=dest, expected=expected, found=found
        )


def keep(
    candidate_path: Path,
    dest: Path,
    *,
    how: str = "auto",
    linkable: bool = False,
    selection: Selection | None = None,
) -> str:
    """Keep the files of a checkpoint at ``dest``, which must not exist.

    Links are followed, so ``dest`` holds files only; empty directories are not
    kept. Permissions and times are those of new files, but for hard links.

    Args:
        candidate_path: a checkpoint, file or directory.
        dest: appears whole, synced, or not at all.
        how: ``reflink``, ``link`` or ``copy``: the way to try first, then copy;
            ``auto``: reflink, link if ``linkable``, copy. Each file goes the
            first way that its file system allows.
        linkable: the trainer replaces or deletes these files, but never writes
            into them.
        selection: keep only these of a directory's files.

    Returns:
        The way that asks most care of the caller: ``link`` if any file was
        linked (see `check_kept`), else ``copy`` if any was copied, else
        ``reflink``.

    Raises:
        UsageError: ``candidate_path`` holds no files, or none that is wanted, or ``dest`` exists.
        UnavailableError: the disk is full, or a file changed or went meanwhile.
        LockedError: another run keeps something at ``dest``.
    """
    if how not in (*_WAYS, "auto"):
        raise UsageError("unknown way to keep", expected=", ".join(("auto", *_WAYS)), found=how)
    if how == "auto":
        ways = [way for way in _WAYS if way != "link" or linkable]
    else:
        ways = list(dict.fromkeys((how, "copy")))
    check_output(dest, force=False, inputs=[candidate_path])
    with _gone_is_changed(candidate_path):
        before = states(candidate_path, selection)
        if not before:
            raise UsageError(
                "`include` and `exclude` leave no file"
                if selection
                else "directory holds no files",
                file=candidate_path,
            )
        if before[0][0] == "":
            if selection:
                raise UsageError(
                    "is one file; `include` and `exclude` choose among those of a directory",
                    file=candidate_path,
                )
            return _keep_file(candidate_path, dest, ways, before)
        with staged_directory(dest, force=False) as staged:
            done = {_keep_one_of(ways, candidate_path / n, staged / n) for n, *_ in before}
            _check_same(candidate_path, before, selection)
    return next(way for way in ("link", "copy", "reflink") if way in done)


def _keep_file(path: Path, dest: Path, ways: list[str], before: list[State]) -> str:
    """`keep` for a checkpoint that is one file."""
    for way in ways:
        with suppress(_CannotError):
            if way == "link":
                # Whole from the start, so it needs no staging; and must have none:
                # what a killed run leaves under the temporary name, the next one truncates.
                _link(path, dest)
                try:
                    _check_same(path, before)
                    with os_errors(dest):
                        sync(dest)
                        sync(dest.parent)
                except BaseException:
                    dest.unlink(missing_ok=True)
                    raise
            else:
                with staged_file(dest, force=False):
                    _fill(way, path, temp_sibling(dest))
                    _check_same(path, before)
            return way
    raise AssertionError("a copy is always possible")


def _keep_one_of(ways: list[str], path: Path, dest: Path) -> str:
    """Keep one file of a directory the first way that is possible; returns that way."""
    for way in ways:
        with suppress(_CannotError):
            with os_errors(dest):
                dest.unlink(missing_ok=True)  # of the way tried before
                dest.parent.mkdir(parents=True, exist_ok=True)
            if way == "link":
                _link(path, dest)
            else:
                create(dest, 0)
                _fill(way, path, dest)
            return way
    raise AssertionError("a copy is always possible")


def _link(path: Path, dest: Path) -> None:
    """Make ``dest`` a hard link of the file at ``path``."""
    source = InputFile.of(path)
    try:
        os.link(os.path.realpath(path), dest)  # the file, not a link to it
    except OSError as e:
        if e.errno == errno.ENOENT:
            raise source.changed() from e
        if e.errno in _CANNOT_LINK:
            raise _CannotError from e
        raise UnavailableError((e.strerror or str(e)).lower(), file=dest) from e
    if InputFile.of(dest).identity != source.identity:
        dest.unlink()
        raise source.changed()


def _fill(way: str, path: Path, dest: Path) -> None:
    """Fill the empty file ``dest`` by reflink or by copy."""
    source = InputFile.of(path)
    if way == "copy":
        _copy(source, dest)
    elif not clone(source, dest):
        raise _CannotError
    source.check_unchanged()


def _copy(source: InputFile, dest: Path) -> None:
    """Copy inside the kernel: a file server may do it without sending the bytes around."""
    with ExitStack() as stack:
        with os_errors(source.path):
            a = source.open()
            stack.callback(os.close, a)
        with os_errors(dest):
            b = os.open(dest, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            stack.callback(os.close, b)
            done = 0
            while done < source.size:
                n = _copy_step(a, b, min(_STEP, source.size - done), done)
                if n == 0:
                    raise source.changed()
                done += n


def _copy_step(a: int, b: int, n_bytes: int, offset: int) -> int:
    """Copy some bytes between two descriptors, at the same offset; returns how many."""
    n = 0
    if hasattr(os, "copy_file_range"):  # Linux only
        try:
            n = os.copy_file_range(a, b, n_bytes, offset, offset)
        except OSError as e:
            if e.errno not in _CANNOT_COPY:
                raise
    if n == 0:  # some file systems say so instead of an error
        data = os.pread(a, min(n_bytes, _PORTION), offset)
        n = os.pwrite(b, data, offset) if data else 0
    return n


def _check_same(path: Path, before: list[State], selection: Selection | None = None) -> None:
    """Raise UnavailableError unless the files at ``path`` are still those of ``before``."""
    differ = sorted(set(before) ^ set(states(path, selection)))
    if differ:
        name = differ[0][0]
        raise UnavailableError(_CHANGED, file=path / name if name else path)


@contextmanager
def _gone_is_changed(path: Path) -> Iterator[None]:
    """A checkpoint was found a moment ago; what is missing now was removed meanwhile."""
    try:
        yield
    except UsageError as e:
        if isinstance(e.__cause__, FileNotFoundError | NotADirectoryError):
            raise UnavailableError(_CHANGED, file=path) from e
        raise
