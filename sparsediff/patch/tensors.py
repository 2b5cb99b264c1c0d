"""The tensors of a target and where their bases lie, in columns, as there may be very many.

Enters: what `plan` found or `manifest_json` validated. Leaves: a column where all tensors are
looked at, and a `Tensor` where one is, made at that moment.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, overload

from sparsediff.dtypes import DType


class Tensor(NamedTuple):
    """A tensor of the target and where its base lies.

    Attributes:
        name: its name; empty too for the bytes of an opaque file (`Manifest.names`).
        dtype: element type.
        shape: sizes, C order.
        offset: first byte in its target file.
        base_file: index of the base file it is compared with, or None.
        base_offset: first byte there.
        n_based: words, from the first on, that have a base.
        n_stepped: words, among those, that changed.
        n_ones: how many of them by one step, up or down.
        median: median |step| of them, in ULP.
        largest: largest |step|, in ULP.
        n_bytes: length in bytes; it follows from dtype and shape, and so does
        n_words: length in words.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]
    offset: int
    base_file: int | None
    base_offset: int
    n_based: int
    n_stepped: int
    n_ones: int
    median: int
    largest: int
    n_bytes: int
    n_words: int

    @property
    def n_changed(self) -> int:
        """Changed words; those without a base count as changed."""
        return self.n_stepped + self.n_words - self.n_based


_new = partial(tuple.__new__, Tensor)  # `Tensor._make` without a call of Python for each


class Tensors(Sequence[Tensor]):
    """A column for each attribute of `Tensor`, by the plural of its name."""

    __slots__ = (
        "base_files",
        "base_offsets",
        "dtypes",
        "largest",
        "medians",
        "n_based",
        "n_bytes",
        "n_ones",
        "n_stepped",
        "n_words",
        "names",
        "offsets",
        "shapes",
    )

    def __init__(self) -> None:
        """Begin without a tensor."""
        self.names: list[str] = []
        self.dtypes: list[DType] = []
        self.shapes: list[tuple[int, ...]] = []
        self.base_files: list[int | None] = []
        self.offsets, self.base_offsets = array("q"), array("q")
        self.n_bytes, self.n_words, self.n_based = array("q"), array("q"), array("q")
        self.n_stepped, self.n_ones = array("q"), array("q")
        self.medians, self.largest = array("Q"), array("Q")

    def add(
        self,
        name: str,
        dtype: DType,
        shape: tuple[int, ...],
        offset: int,
        base: tuple[int, int, int] | None = None,
    ) -> None:
        """Add a tensor, of whose steps nothing is known yet.

        Args:
            name: its name.
            dtype: element type.
            shape: sizes, C order.
            offset: first byte in its target file.
            base: index of a base file, first byte there, and how many bytes it has there.
        """
        n_bytes = dtype.n_bytes(shape) or 0
        file, begin, n_there = base or (None, 0, 0)
        self.names.append(name)
        self.dtypes.append(dtype)
        self.shapes.append(shape)
        self.offsets.append(offset)
        self.base_files.append(file)
        self.base_offsets.append(begin)
        self.n_bytes.append(n_bytes)
        self.n_words.append(n_bytes // dtype.word_bytes)
        self.n_based.append(min(n_bytes, n_there) // dtype.word_bytes)
        for unknown in (self.n_stepped, self.n_ones, self.medians, self.largest):
            unknown.append(0)

    def extend(self, other: Tensors, rows: range, base_at: Mapping[int | None, int | None]) -> None:
        """Add tensors in a row of others, whose base files have the indices of ``base_at``."""
        for name in self.__slots__:
            getattr(self, name).extend(getattr(other, name)[rows.start : rows.stop])
        n = len(rows)
        if n:
            self.base_files[-n:] = [base_at[file] for file in self.base_files[-n:]]

    def n_changed(self, row: int) -> int:
        """Changed words of one; those without a base count as changed."""
        return self.n_stepped[row] + self.n_words[row] - self.n_based[row]

    def lie_like(self, other: Tensors) -> bool:
        """Whether targets and bases lie at the same places."""
        return (
            self.offsets == other.offsets
            and self.shapes == other.shapes
            and self.dtypes == other.dtypes
            and self.base_files == other.base_files
            and self.base_offsets == other.base_offsets
            and self.n_based == other.n_based
        )

    def are_based_on(self, before: Tensors, rows: range, file: int) -> bool:
        """Whether the base of these is the target of the same rows of ``before``, all in ``file``.

        Of empty tensors it does not matter.
        """
        at = slice(rows.start, rows.stop)
        targets = before.n_words[at], before.offsets[at], before.dtypes[at], [file] * len(rows)
        bases = self.n_based[at], self.base_offsets[at], self.dtypes[at], self.base_files[at]
        if targets == bases:
            return True
        both = zip(zip(*targets, strict=True), zip(*bases, strict=True), strict=True)
        return all(base == target for target, base in both if target[0])

    def __len__(self) -> int:
        """How many there are."""
        return len(self.names)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Tensor]: ...
    def __getitem__(self, index: int | slice) -> Tensor | Sequence[Tensor]:
        """One of them, or some."""
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        return _new(column[index] for column in self._columns())

    def __iter__(self) -> Iterator[Tensor]:
        """Make them in order."""
        return map(_new, zip(*self._columns(), strict=True))

    def __eq__(self, other: object) -> bool:
        """Whether all that is known of them is the same."""
        if not isinstance(other, Tensors):
            return NotImplemented
        return self is other or self._columns() == other._columns()

    __hash__ = None  # type: ignore[assignment]

    def _columns(self) -> tuple[Sequence[Any], ...]:
        """In the order of a tensor's attributes."""
        return (
            self.names,
            self.dtypes,
            self.shapes,
            self.offsets,
            self.base_files,
            self.base_offsets,
            self.n_based,
            self.n_stepped,
            self.n_ones,
            self.medians,
            self.largest,
            self.n_bytes,
            self.n_words,
        )
