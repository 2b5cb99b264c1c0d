"""Checksums against accidents (XXH3-128) and the digest of what travels (SHA-256).

Enters: bytes. Leaves: hex strings. A bucket's checksum is taken over the
checksums of its parts, so one pass over the words both verifies the bucket
and, through the parts' locators, names the tensor that differs
(format.md, "Checksums"). Of the parts, which may be very many, no more leaves than that.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NewType

import xxhash

if TYPE_CHECKING:
    from hashlib import _Hash
    from io import BufferedReader

Verified = NewType("Verified", bytes)
"""Bytes that have the SHA-256 promised for them: nothing else is decoded."""

Sums = tuple[str, str]
"""Of several parts: the checksum of their checksums, 16 bytes each, in order; and the start of
each of these, enough to name the part that differs."""

SUM_BYTES = 16
LOCATOR_DIGITS = 2  # one tensor in 256 that differs goes unnoticed and the next is named


def checksum(data: Any) -> str:
    """Hex XXH3-128 of a byte buffer."""
    return xxhash.xxh3_128_hexdigest(data)


class PartChecksums:
    """Checksums of consecutive parts: each fed in pieces, or several at once."""

    def __init__(self) -> None:
        self._done = bytearray()
        self._open: xxhash.xxh3_128 | None = None  # of the part after those

    def update(self, part: int, piece: Any) -> None:
        """Add bytes of the part with index ``part``, the last one or the next."""
        if self._open is not None and SUM_BYTES * part == len(self._done):
            self._open.update(piece)
        else:
            self._close()
            self._open = xxhash.xxh3_128(piece)

    def extend(self, data: Any, ends: Iterable[int]) -> None:
        """Add several whole parts, of which ``data`` holds one after the other.

        Args:
            data: a byte buffer.
            ends: where each part ends in it, in bytes.
        """
        self._close()
        view, sum_of, start = memoryview(data).cast("B"), xxhash.xxh3_128_digest, 0
        for end in ends:
            self._done += sum_of(view[start:end])
            start = end

    def sums(self) -> Sums:
        """Of all that was fed."""
        self._close()
        return checksum(self._done), self._done[::SUM_BYTES].hex()

    def of_several(self, n_parts: Iterable[int]) -> list[str]:
        """The checksum that `sums` gives, for so many parts each."""
        self._close()
        found, start = [], 0
        for end in accumulate(n_parts):
            found.append(checksum(self._done[SUM_BYTES * start : SUM_BYTES * end]))
            start = end
        return found

    def _close(self) -> None:
        if self._open is not None:
            self._done += self._open.digest()
            self._open = None


def digest(data: bytes) -> str:
    """Hex SHA-256 of ``data``."""
    return digester(data).hexdigest()


def digest_rest(file: BufferedReader) -> str:
    """Hex SHA-256 of what is left of an open file."""
    from hashlib import file_digest

    return file_digest(file, "sha256").hexdigest()


def digester(data: bytes = b"") -> _Hash:
    """A SHA-256 that begins with ``data``, to be fed with more."""
    import hashlib  # with OpenSSL, which takes long; who only looks into a store does without

    return hashlib.sha256(data)
