"""What kernels take and give, and the numbers that their symbols stand for.

Enters and leaves: nothing but definitions, which the reference and the compiled kernels share.
None of it needs NumPy, which takes longer to import than small patches take to make.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sparsediff.checksum import Sums

N_SYMBOLS = 256

SCALE_BITS = 14
SCALE = 1 << SCALE_BITS  # frequencies of a table sum to this
STORED = SCALE // 4  # stored frequencies are coarser: a varint each, most of one byte

MODE_TIERS = 1  # the first byte of a payload of tiers

GAPS_GEOMETRIC, GAPS_TABLE = 0, 1
STEPS_TABLE, STEPS_SYMMETRIC, STEPS_AS_BEFORE = 0, 1, 2

Words = Any
"""Words of a dtype: an array of NumPy, or a view of memory. Both have a length and slices."""

Extents = Sequence[tuple[int, int, int]]
"""Bytes of open files, one after the other: descriptor, offset and size of each run."""

Counts = Any
"""A writable buffer of int64."""


def class_of(value: int) -> int:
    """Class of a number (format.md, "Numbers").

    Classes 0 and 1 are the values 0, 1; class 2b + h is the half h of the octave [2^b, 2^(b+1)),
    located inside it by b - 1 extra bits.
    """
    if value < 2:
        return value
    octave = value.bit_length() - 1
    return 2 * octave + (value >> (octave - 1) & 1)


def class_width(of: int) -> int:
    """Extra bits of a class."""
    return max(of >> 1, 1) - 1


def class_start(of: int) -> int:
    """Its first value."""
    return of if of < 2 else 2 + (of & 1) << class_width(of)


class TierCode(NamedTuple):
    """One tier of a bucket, ready for the entropy coder.

    The *marked* members are the changed ones, or the unchanged ones where more
    than half changed: the rarer set is written as gaps.

    Attributes:
        n_members: words of the bucket in this tier.
        n_changed: how many of them changed.
        gap_symbols: one byte for each of the n_marked.
        gap_extra: packed extra bits of the gaps.
        step_symbols: one byte for each of the n_changed.
        step_extra: packed extra bits of |step| - 1.
    """

    n_members: int
    n_changed: int
    gap_symbols: bytes
    gap_extra: bytes
    step_symbols: bytes
    step_extra: bytes

    @property
    def marks_unchanged(self) -> bool:
        """Whether the gaps mark the unchanged members."""
        return 2 * self.n_changed > self.n_members

    @property
    def n_marked(self) -> int:
        """Number of gaps."""
        return min(self.n_changed, self.n_members - self.n_changed)


class Survey(NamedTuple):
    """What one pass over a pair of words counts.

    Attributes:
        members: int64, (n_classes,): words per class of the base.
        steps: int64, (n_classes, 256): step symbols per class.
        largest: largest |step| in ULP; 0 if nothing changed.
    """

    members: Counts
    steps: Counts
    largest: int


Tiers = tuple[list[int], list[bool]]
"""The first class of each tier, and whether its unchanged members are marked."""


Sampled = tuple[tuple[list[int], list[bool], float], tuple[Words, Words] | None]
"""What `choose_tiers` gives by a sample of a bucket's words; and these, if any changed."""


class TakenIn(NamedTuple):
    """What was found out about the parts of a bucket while its words were read.

    Attributes:
        base: checksums of the parts' base words.
        target: of their target words.
        counts: of the parts, as `count_parts` gives them.
        payload: of all words, if they were coded and any changed.
    """

    base: Sums
    target: Sums
    counts: tuple[list[list[int]], list[int]]
    payload: bytes

    @property
    def is_same(self) -> bool:
        """Whether nothing changed."""
        return self.base == self.target
