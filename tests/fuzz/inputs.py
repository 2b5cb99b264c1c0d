"""Bytes in the place of a file on disk, for readers of formats."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparsediff.errors import UsageError


@dataclass(frozen=True)
class MemoryInput:
    """A file that is nowhere; like `InputFile` to whoever reads it."""

    path: Path
    data: bytes = field(repr=False)

    @property
    def size(self) -> int:
        return len(self.data)

    def read_into(self, offset: int, buffer: Any) -> None:
        view = memoryview(buffer).cast("B")
        part = self.data[offset : offset + len(view)]
        assert offset >= 0, "read before the start"
        assert len(part) == len(view), "read beyond the end"
        view[:] = part

    def read(self, offset: int, size: int) -> bytes:
        buffer = bytearray(size)
        self.read_into(offset, buffer)
        return bytes(buffer)

    def beside(self, name: str) -> MemoryInput:
        raise UsageError("no such file", file=self.path.parent / name)

    def check_unchanged(self) -> None:
        """It cannot change."""
