"""The one thing a format module produces, and the one error it raises."""

from __future__ import annotations

from dataclasses import dataclass

from sparsediff.dtypes import DType
from sparsediff.errors import CorruptError


class MalformedError(CorruptError):
    """The file is of the format, and violates it."""


@dataclass(frozen=True, slots=True)
class Span:
    """Where one tensor's bytes lie inside a file.

    Attributes:
        name: tensor name; empty for the bytes of an opaque file.
        dtype: element type.
        shape: sizes, C order; empty for a scalar.
        offset: bytes from the start of the file.
        nbytes: length in bytes.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]
    offset: int
    nbytes: int

    @property
    def n_words(self) -> int:
        """Length in words."""
        return self.nbytes // self.dtype.word_bytes
