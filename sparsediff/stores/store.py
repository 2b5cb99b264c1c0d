"""What a store is: whole objects under names, and one compare-and-swap.

Enters: keys, bytes, local files. Leaves: the same interface for a directory and
for an object store, so that nothing above knows which of them it talks to. An
object is there whole or not at all. Holds no state and reads no environment.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from sparsediff.disk.inputs import InputFile, OpenFiles
from sparsediff.errors import CorruptError
from sparsediff.stores.throttle import Throttle

if TYPE_CHECKING:
    from sparsediff.signing import Signer, Trust

_PIECE = 1 << 20
MAX_SMALL_BYTES = 1 << 28
"""Of an object that is read whole: a pointer of 300,000 versions in layout 1, which lists all,
or a list of 1,500,000 parts."""


class Stored(NamedTuple):
    """One object as listed.

    Attributes:
        key: relative name with ``/`` separators.
        n_bytes: size.
        modified: seconds since the epoch, by the store's clock.
    """

    key: str
    n_bytes: int
    modified: float


Found = tuple[bytes, str]
"""Content and tag."""


class Store(Protocol):
    """Objects under keys; every method may be called from several threads at once.

    All of them raise UnavailableError for what may pass, UsageError for missing
    permission, and CorruptError for a key that is no safe relative name.

    Attributes:
        name: for messages; never holds credentials.
        trust: who must have signed the pointer; None if nobody must.
        signer: who signs the pointer when it is written; None if nobody does.
    """

    name: str
    trust: Trust | None
    signer: Signer | None

    def get(self, key: str, known: Found | None = None) -> Found | None:
        """A small object and its tag, which changes whenever its content does.

        Args:
            key: of the object.
            known: what an earlier call returned. If the object is that still, this is returned
                again, at the cost of one small request.

        Raises:
            CorruptError: it has more than `MAX_SMALL_BYTES`.
        """
        ...

    def tag(self, key: str) -> str | None:
        """The tag `get` would return, without the content."""
        ...

    def size(self, key: str) -> int | None:
        """Bytes of an object, or None."""
        ...

    def read(self, key: str, offset: int, n_bytes: int) -> bytes:
        """Exactly these bytes of an object.

        Raises:
            CorruptError: there is no such object, or it is shorter.
        """
        ...

    def put(self, key: str, path: Path) -> None:
        """Store the file ``path``; it appears whole or not at all and replaces what was there."""
        ...

    def swap(self, key: str, data: bytes, expected: str | None) -> bool:
        """Write a small object if its tag is ``expected`` (None: if there is none).

        After a lost connection the object is read back: holding ``data``, it
        counts as written. So ``data`` must say who wrote it wherever two writers
        could want the same. False means that another writer was faster, or
        that this one wrote and was replaced before it could know.

        Raises:
            UnsupportedError: the store has no compare-and-swap.
        """
        ...

    def list(self, prefix: str) -> Iterator[Stored]:
        """Objects whose keys start with ``prefix``, which is empty or ends with ``/``; by key."""
        ...

    def delete(self, key: str) -> None:
        """Remove an object or one of the `leftovers`; no error if there is none."""
        ...

    def leftovers(self) -> Iterator[Stored]:
        """Unfinished uploads. A recent one may be in use: a living upload modifies its own."""
        ...


def check_small(name: str, n_bytes: int) -> None:
    """Raise CorruptError if an object is too large for `Store.get`."""
    if n_bytes > MAX_SMALL_BYTES:
        raise CorruptError(
            "object is too large",
            file=name,
            expected=f"at most {MAX_SMALL_BYTES} bytes",
            found=n_bytes,
        )


def pieces(file: InputFile, throttle: Throttle) -> Iterator[bytearray]:
    """The bytes of a local file in order, as fast as ``throttle`` lets them go.

    Raises:
        UnavailableError: the file changed meanwhile.
    """
    with OpenFiles() as files:
        for offset in range(0, file.size, _PIECE):
            piece = bytearray(min(_PIECE, file.size - offset))
            throttle.take(len(piece))
            files.read(file, offset, piece)
            yield piece
    file.check_unchanged()
