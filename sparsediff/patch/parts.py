"""Which words of which tensors buckets take, in columns, as there may be very many.

Enters: numbers. Leaves: a `Part` for each place where a bucket and a tensor meet, made when it
is looked at.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple, TypeAlias, overload

Columns: TypeAlias = "tuple[array[int], array[int], array[int]]"


class Part(NamedTuple):
    """The words that one bucket takes from one tensor: ``start`` and ``n_words``, in words."""

    tensor: int
    start: int
    n_words: int


_new = partial(tuple.__new__, Part)  # `Part._make` without a call of Python for each


class Parts(Sequence[Part]):
    """The parts of a bucket, or some of them in a row."""

    __slots__ = ("_at", "_columns")

    def __init__(self, columns: Columns, at: range) -> None:
        """Take the columns of all parts, and where these are in them."""
        self._columns, self._at = columns, at

    @property
    def tensors(self) -> memoryview[int]:
        """Of each part its tensor."""
        return self._column(0)

    @property
    def sizes(self) -> memoryview[int]:
        """Of each part its ``n_words``."""
        return self._column(2)

    def _column(self, i: int) -> memoryview[int]:
        return memoryview(self._columns[i])[self._at.start : self._at.stop]

    def __len__(self) -> int:
        """How many there are."""
        return len(self._at)

    @overload
    def __getitem__(self, index: int) -> Part: ...
    @overload
    def __getitem__(self, index: slice) -> Parts: ...
    def __getitem__(self, index: int | slice) -> Part | Parts:
        """One of them; or some in a row, which takes no memory."""
        at = self._at[index]
        if isinstance(at, range):
            return Parts(self._columns, at)
        tensors, starts, sizes = self._columns
        return Part(tensors[at], starts[at], sizes[at])

    def __iter__(self) -> Iterator[Part]:
        """Make them in order."""
        columns = zip(self._column(0), self._column(1), self._column(2), strict=True)
        return map(_new, columns)


class PartsByBucket(Sequence[Parts]):
    """For each bucket its parts."""

    __slots__ = ("_columns", "_ends")

    def __init__(self, columns: Columns, ends: array[int]) -> None:
        """Take the columns of all parts: tensors, starts, sizes; and 0 and where buckets end."""
        self._columns, self._ends = columns, ends

    @classmethod
    def empty(cls) -> PartsByBucket:
        """Of no bucket."""
        return cls((array("i"), array("q"), array("q")), array("q", [0]))

    def __len__(self) -> int:
        """How many buckets there are."""
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> Parts: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Parts]: ...
    def __getitem__(self, index: int | slice) -> Parts | Sequence[Parts]:
        """Those of one bucket, from 0 on; or of some."""
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        return Parts(self._columns, range(self._ends[index], self._ends[index + 1]))

    def n_of(self, bucket: int) -> int:
        """How many parts a bucket has."""
        return self._ends[bucket + 1] - self._ends[bucket]

    def joined(self, buckets: range) -> Parts:
        """Those of several in a row, one after the other."""
        return Parts(self._columns, range(self._ends[buckets.start], self._ends[buckets.stop]))

    def __eq__(self, other: object) -> bool:
        """Whether buckets take the same words of the same tensors."""
        if not isinstance(other, PartsByBucket):
            return NotImplemented
        return self is other or (self._ends, self._columns) == (other._ends, other._columns)

    __hash__ = None  # type: ignore[assignment]
