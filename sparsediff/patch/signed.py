"""The signatures of a patch, in a file beside it: ``PATCH.sig``.

Enters: the beginning of a patch, header and manifest, which holds a digest of all the rest.
Leaves: a file of signatures, or a patch that is opened only if one of them is trusted.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from sparsediff.disk.outputs import staged_file
from sparsediff.errors import UntrustedError, UsageError, os_errors

if TYPE_CHECKING:
    from sparsediff.signing import Signer, Trust

SUFFIX = ".sig"
_FORMAT = "sparsediff-signatures"
_KIND = "patch"  # of what is signed
_MAX_BYTES = 1 << 16


class Signed:
    """A patch that is read only if it is signed; takes the place of its path.

    Attributes:
        path: of the patch; its signatures are in ``path.sig``.
        trust: who must have signed it.
    """

    def __init__(self, path: Path | str, trust: Trust) -> None:
        self.path, self.trust = path, trust

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return str(self.path)

    def check(self, beginning: bytes) -> None:
        """Check the signatures of a patch.

        Args:
            beginning: header and manifest, as they are in the patch.

        Raises:
            UntrustedError: nobody who is trusted signed it.
        """
        file = beside(self.path)
        data = _read(file)
        rows = None if data is None else _rows(data, file)
        self.trust.check(_KIND, beginning, rows, self.path)


def beside(path: Path | str | Signed) -> Path:
    """Where the signatures of a patch are."""
    if str(path) == "-":
        raise UsageError(
            "a patch on standard input has no signature beside it; let it be a file",
        )
    return Path(f"{path}{SUFFIX}")


def write_signatures(path: Path | str | Signed, beginning: bytes, signer: Signer) -> Path:
    """Write the signatures of a patch; those that are there are replaced.

    Raises:
        UsageError: a key has expired.
        UnavailableError: the disk is full.
    """
    file = beside(path)
    _write(file, signer.sign(_KIND, beginning))
    return file


def check_signatures_may_go(path: Path | str | Signed, advice: str) -> None:
    """Raise UsageError if what lies where the signatures of a patch go is something else.

    Such as those of another program, whose files have the same name.
    """
    file = beside(path)
    data = _read(file)
    try:
        if data is not None:
            _rows(data, file)
    except UntrustedError:
        raise UsageError(f"exists, and holds no signatures of ours ({advice})", file=file) from None


@contextmanager
def signed_when_it_appears(path: Path, signer: Signer | None) -> Iterator[Callable[[bytes], None]]:
    """Have a patch that appears at ``path`` inside be signed from the first moment.

    One that it replaces is signed to the last: in between, the file has the signatures of both.

    Args:
        path: of the patch.
        signer: None to sign nothing; then those of another patch that is replaced go with it.

    Yields:
        What is to be called with header and manifest, just before the patch appears.

    Raises:
        UsageError: a key has expired.
        UnavailableError: the disk is full.
    """
    file = beside(path)
    if signer is None:
        is_another = False

        def compare(beginning: bytes) -> None:
            nonlocal is_another
            is_another = os.path.lexists(file) and _is_another(path, beginning)

        yield compare
        if is_another and _usable(file):
            with os_errors(file):
                file.unlink()
        return
    was_there, before = True, None
    new: list[dict[str, str]] = []
    old: list[object] = []

    def sign(beginning: bytes) -> None:
        from sparsediff.signing import MOST

        nonlocal was_there, before
        was_there, before = os.path.lexists(file), _inode(path)
        new.extend(signer.sign(_KIND, beginning))
        if os.path.lexists(path):
            old.extend(row for row in _usable(file) if row not in new)
        _write(file, [*new, *old][:MOST])

    try:
        yield sign
    except BaseException:
        if not was_there and _inode(path) == before:  # of what did not appear
            with suppress(OSError):
                file.unlink()
        raise
    if old:
        _write(file, new)


def _is_another(path: Path, beginning: bytes) -> bool:
    """Whether there is a file that begins otherwise."""
    with os_errors(path), suppress(FileNotFoundError), open(path, "rb") as stream:
        return stream.read(len(beginning)) != beginning
    return False


def _inode(path: Path) -> int | None:
    """Which file has this name; None if none has."""
    with suppress(FileNotFoundError):
        return os.lstat(path).st_ino
    return None


def _usable(file: Path) -> list[object]:
    """The rows in a file of signatures; none if it is not there, or malformed."""
    from sparsediff.signing import parsed

    try:
        data = _read(file)
        rows = None if data is None else _rows(data, file)
        return [] if not isinstance(rows, list) or not parsed(rows, file) else rows
    except UntrustedError:
        return []


def _read(file: Path) -> bytes | None:
    """What is in a file of signatures, or the beginning of something longer; None if none is."""
    with os_errors(file):
        try:
            # NONBLOCK: a pipe must not hold us up.
            with open(file, "rb", opener=lambda p, f: os.open(p, f | os.O_NONBLOCK)) as stream:
                if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                    raise UntrustedError("signatures are no regular file", file=file)
                return stream.read(_MAX_BYTES + 1)
        except FileNotFoundError:
            return None


def _write(file: Path, rows: Sequence[object]) -> None:
    document = {"format": _FORMAT, "signatures": rows}
    with staged_file(file, force=True) as stream, os_errors(file):
        stream.write((json.dumps(document, indent=1) + "\n").encode())


def _rows(data: bytes, file: Path) -> object:
    """The rows of signatures in a file."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        document = None
    if (
        len(data) > _MAX_BYTES
        or not isinstance(document, dict)
        or document.get("format") != _FORMAT
        or "signatures" not in document
    ):
        raise UntrustedError(f"the file of its signatures, {file.name}, is malformed", file=file)
    return document["signatures"]
