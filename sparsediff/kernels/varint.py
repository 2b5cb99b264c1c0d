"""Variable-length integers (LEB128) and a bounded reader for them."""

from __future__ import annotations

from sparsediff.errors import CorruptError


def varint(value: int) -> bytes:
    """Encode a non-negative integer, 7 bits a byte, least significant first."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


class Reader:
    """Reads small fields from bytes and never past their end.

    Raises:
        CorruptError: from every method, when the bytes run out.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def byte(self) -> int:
        """Next byte."""
        return self.take(1)[0]

    def varint(self) -> int:
        """Next integer, below 2^63."""
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value
            if shift > 56:
                raise CorruptError("integer too long")

    def take(self, n: int) -> bytes:
        """Next ``n`` bytes."""
        end = self._at + n
        if end > len(self._data):
            raise CorruptError(
                "payload is cut short", expected=f"{end} bytes", found=f"{len(self._data)} bytes"
            )
        part = self._data[self._at : end]
        self._at = end
        return part

    def rest(self) -> bytes:
        """Everything not read yet."""
        return self.take(len(self._data) - self._at)

    def end(self) -> None:
        """Check that nothing is left."""
        left = len(self._data) - self._at
        if left:
            raise CorruptError("payload has bytes left over", found=f"{left} bytes")
