"""The two things a format module produces, and the one error it raises."""

from __future__ import annotations

from typing import NamedTuple

from sparsediff.dtypes import DType
from sparsediff.errors import CorruptError


class MalformedError(CorruptError):
    """The file is of the format, and violates it."""


class Span(NamedTuple):
    """Where one tensor's bytes lie inside a file.

    Attributes:
        name: tensor name; empty too for the bytes of an opaque file (`is_all_of`).
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

    def is_all_of(self, size: int) -> bool:
        """Whether this is the bytes of a file of ``size``, of no known format, and no tensor.

        A format that knows tensors has a header, so none of them is all of a file.
        """
        return not self.name and self.nbytes == size


class Reference(NamedTuple):
    """What a file says must lie beside it.

    Attributes:
        name: path relative to the directory of the file, ``/`` separated; that of a
            folder ends with a slash.
        n_bytes: how long the file is at least, as far as that is said.
        weights: the folder holds weights; else it is enough that it holds a file.
    """

    name: str
    n_bytes: int = 0
    weights: bool = False
