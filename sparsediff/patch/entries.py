"""Named entries of bytes, one after the other in a file that is read front to back.

Enters: sizes to store, or a stream. Leaves: the canonical header of a safetensors file whose
entries are all bytes (format.md, "Container"), or what is in such a file. Because the header
is canonical, it is checked by composing it again.
"""

from __future__ import annotations

import json
from typing import BinaryIO

from sparsediff.disk.inputs import InputStream
from sparsediff.errors import CorruptError, os_errors
from sparsediff.unfolding import uncollected

MAX_HEADER = 1 << 24  # bytes
_SKIP = 1 << 20


def compose_header(metadata: dict[str, str], sizes: dict[str, int]) -> bytes:
    """Header of a file of entries, with its length before it.

    Args:
        metadata: of the file, in this order.
        sizes: bytes of each entry, in stored order.
    """
    header: dict[str, object] = {"__metadata__": metadata}
    end = 0
    for name, size in sizes.items():
        header[name] = {"dtype": "U8", "shape": [size], "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header, separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


class EntryReader:
    """A file of entries, read front to back.

    Attributes:
        name: where it comes from, for messages.
        metadata: of the file. Not checked yet: see `check_header`.
        sizes: bytes of each entry, by name, in stored order.
        n_bytes: size of the whole file.
    """

    def __init__(self, stream: BinaryIO | InputStream, name: str, what: str) -> None:
        """Read the header.

        Args:
            stream: at the beginning of the file.
            name: what messages call it.
            what: what it should be, for messages.

        Raises:
            CorruptError: it has no such header.
        """
        self.name, self._stream, self._what = name, stream, what
        length = int.from_bytes(self.read(8), "little")
        if length > MAX_HEADER:
            raise CorruptError(f"not a {what}", found=f"header of {length} bytes")
        self._raw = self.read(length)
        self.sizes: dict[str, int] = {}
        try:
            with uncollected():
                header = json.loads(self._raw)
            self.metadata = header.pop("__metadata__")
            for key, entry in header.items():
                (self.sizes[key],) = entry["shape"]
            if not isinstance(self.metadata, dict):
                raise ValueError
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise CorruptError(f"not a {what}") from None
        self.n_bytes = 8 + length

    def check_header(self, metadata: dict[str, str]) -> None:
        """Check that the header is the canonical one, and that the file ends where it says.

        Args:
            metadata: what it must be, in this order.

        Raises:
            CorruptError: it is not.
        """
        if not all(type(s) is int and 0 <= s < 1 << 53 for s in self.sizes.values()):
            raise CorruptError(f"header of the {self._what} has the wrong entries")
        try:
            canonical = compose_header(metadata, self.sizes)[8:]
        except (ValueError, TypeError):
            raise CorruptError(f"not a {self._what}") from None
        if self._raw != canonical:
            raise CorruptError(f"header of the {self._what} is not canonical")
        self._raw = b""
        self.n_bytes += sum(self.sizes.values())
        self._check_size()

    def read(self, size: int) -> bytes:
        """The next ``size`` bytes.

        Raises:
            CorruptError: the file is cut short.
        """
        with os_errors(self.name):
            data = self._stream.read(size) or b""
        if len(data) != size:
            raise CorruptError(
                f"{self._what} is cut short",
                file=self.name,
                expected=f"{size} more bytes",
                found=f"{len(data)} bytes",
            )
        return data

    def skip(self, size: int) -> None:
        """Pass over the next ``size`` bytes.

        Raises:
            CorruptError: the file is cut short.
        """
        if self._stream.seekable():  # then its size was checked
            with os_errors(self.name):
                self._stream.seek(size, 1)
            return
        while size:
            size -= len(self.read(min(size, _SKIP)))

    def check_end(self) -> None:
        """Raise CorruptError if anything follows."""
        if self._stream.read(1):
            raise CorruptError(
                f"bytes after the end of the {self._what}", file=self.name, offset=self.n_bytes
            )

    def place(self) -> int | None:
        """Where the next byte is read from; None if the stream cannot go back there."""
        return self._stream.tell() if self._stream.seekable() else None

    def go_to(self, place: int) -> None:
        """Read from there next."""
        self._stream.seek(place)

    def _check_size(self) -> None:
        if not self._stream.seekable():
            return
        with os_errors(self.name):
            here = self._stream.tell()
            size = self._stream.seek(0, 2)
            self._stream.seek(here)
        if size != self.n_bytes:
            what = (
                f"{self._what} is cut short"
                if size < self.n_bytes
                else f"bytes after the end of the {self._what}"
            )
            raise CorruptError(what, expected=f"{self.n_bytes} bytes", found=f"{size} bytes")
