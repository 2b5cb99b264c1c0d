"""Where payloads wait until what comes before them is known, and where a patch goes.

Enters: payloads, then header and manifest. Leaves: a file that appears whole or not at all,
or bytes on a stream.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from sparsediff.disk.outputs import staged_file
from sparsediff.disk.replace import check_output
from sparsediff.errors import UsageError, from_os_error, os_errors
from sparsediff.patch.signed import check_signatures_may_go, signed_when_it_appears

if TYPE_CHECKING:
    from sparsediff.signing import Signer

_SMALL = 1 << 20  # bytes
Output = Path | str | BinaryIO | None
"""Path of the file, ``-`` for standard output, a binary stream, or None to write nothing."""


def place_of(
    output: Output,
    *,
    force: bool,
    inputs: Sequence[Path | str],
    signer: Signer | None = None,
) -> Path | None:
    """Absolute path of an output that is a file; None for others.

    Raises:
        UsageError: nothing may be written there, or where its signatures go; or ``signer`` is to
            sign what is no file.
    """
    if not isinstance(output, (Path, str)) or output == "-":
        if signer is not None:
            raise UsageError("a patch that is signed must be a file: signatures lie beside it")
        return None
    if not str(output):
        raise UsageError("the name of the output is empty")
    place = Path(os.path.abspath(output))
    check_output(place, force=force, inputs=list(inputs))
    if signer is not None and not force:
        check_signatures_may_go(place, "`force=True` replaces it")
    return place


@contextmanager
def spool(place: Path | None, n_bytes: int | None = None) -> Iterator[BinaryIO]:
    """Unnamed file for payloads: the header, which comes first, needs their sizes.

    Args:
        place: of the output, beside which it lies.
        n_bytes: about how long it gets at most; what is small stays in memory.
    """
    if n_bytes is not None and n_bytes <= _SMALL:
        yield io.BytesIO()
        return
    import tempfile  # takes long

    # Opened apart, so that errors of whoever uses it are not taken for errors of opening.
    try:
        file = tempfile.TemporaryFile(dir=place.parent if place else None)  # noqa: SIM115 - see below
    except OSError as e:
        e.filename = None  # a random one, which nobody knows
        raise from_os_error(e, place or "temporary directory") from e
    try:
        yield file
    finally:
        with suppress(OSError):  # of a disk that is full: it was told of before, by its name
            file.close()


def rewound(file: BinaryIO) -> Iterator[bytes]:
    """All of a spool, a megabyte at a time."""
    file.seek(0)
    while chunk := file.read(1 << 20):
        yield chunk


def deliver(
    output: Output,
    place: Path | None,
    head: bytes,
    rest: Iterable[bytes],
    *,
    force: bool,
    signer: Signer | None = None,
) -> None:
    """Write a patch or a part to where the output goes.

    Args:
        output: as the caller was given it.
        place: what `place_of` made of it.
        head: header and manifest.
        rest: what comes after it.
        force: replace an existing file.
        signer: of a patch in a file.

    Raises:
        UnavailableError: the disk is full.
    """
    chunks = chain([head], rest)
    if place is not None:
        with (
            signed_when_it_appears(place, signer) as sign,
            staged_file(place, force=force) as stream,
            os_errors(place),
        ):
            _write(stream, chunks)
            sign(head)
    elif isinstance(output, str):
        with os_errors("standard output"):
            _write(sys.stdout.buffer, chunks)
    elif output is not None:
        assert not isinstance(output, Path)
        _write(output, chunks)


def _write(stream: BinaryIO, chunks: Iterable[bytes]) -> None:
    for chunk in chunks:
        stream.write(chunk)
    stream.flush()
