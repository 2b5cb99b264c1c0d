"""Reference kernels in NumPy: base words and target words to symbols, and back.

Enters: two equally long arrays of unsigned words and a `DType`. Leaves: per
tier, the gaps between marked members and the steps of the changed ones, each
as one-byte symbols and packed extra bits (`TierCode`). These functions are the
specification a compiled kernel must meet bit for bit; the clauses they follow
are in ``docs/format.md``. They never look at a value as a float, never read or
write outside the arrays they are given, and know nothing of files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sparsediff.dtypes import DType
from sparsediff.errors import CorruptError
from sparsediff.kernels.numbers import (
    CHUNK,
    CLASS_START,
    CLASS_WIDTH,
    BitWriter,
    Bytes,
    Int64s,
    UInt64s,
    number_classes,
    read_numbers,
)

Words = npt.NDArray[Any]  # uint8, uint16, uint32 or uint64; little-endian

N_SYMBOLS = 256


def keys(words: Words, dtype: DType) -> Words:
    """Map words to keys whose unsigned order is the order of the values.

    A bijection for every bit pattern (format.md, "Keys").
    """
    sign = words.dtype.type(1 << (dtype.word_bits - 1))
    if dtype.kind == "float":
        # Arithmetic shift of the sign over the word: all ones where negative.
        negative = (words >> words.dtype.type(dtype.word_bits - 1)) * words.dtype.type(
            (1 << (dtype.word_bits - 1)) - 1
        )
        return np.asarray(words ^ (negative | sign))
    return words ^ sign if dtype.kind == "signed" else words


def words_of_keys(key: Words, dtype: DType) -> Words:
    """Inverse of `keys`."""
    sign = key.dtype.type(1 << (dtype.word_bits - 1))
    if dtype.kind == "float":
        positive = key >> key.dtype.type(dtype.word_bits - 1)
        inverted = (key.dtype.type(1) - positive) * key.dtype.type((1 << (dtype.word_bits - 1)) - 1)
        return np.asarray(key ^ (inverted | sign))
    return key ^ sign if dtype.kind == "signed" else key


def classes(words: Words, dtype: DType) -> Words:
    """Class of each word's magnitude, in ``range(dtype.n_classes)``."""
    magnitude = words & words.dtype.type((1 << (dtype.word_bits - 1)) - 1)
    return np.asarray(magnitude >> words.dtype.type(dtype.class_shift))


def step_symbols(base: Words, target: Words, dtype: DType) -> tuple[Bytes, UInt64s]:
    """Symbol and value of the step of each pair of differing words.

    Returns:
        symbols: uint8, shape (n_changed,): twice the class of |step| - 1,
            plus one where the step is negative.
        values: uint64, shape (n_changed,): |step| - 1, in ULP.
    """
    step = keys(target, dtype) - keys(base, dtype)  # modulo 2^word_bits
    negative = step >> step.dtype.type(dtype.word_bits - 1)
    one = step.dtype.type(1)
    values = (np.where(negative, ~step + one, step) - one).astype(np.uint64)
    return (2 * number_classes(values) + negative.astype(np.int64)).astype(np.uint8), values


@dataclass(slots=True)
class Survey:
    """What one pass over a pair of word arrays counts.

    Attributes:
        members: int64, (n_classes,): words per class of the base.
        changed: int64, (n_classes,): changed words per class.
        steps: int64, (n_classes, 256): step symbols per class.
        largest: largest |step| in ULP; 0 if nothing changed.
    """

    members: Int64s
    changed: Int64s
    steps: Int64s
    largest: int


def survey(base: Words, target: Words, dtype: DType) -> Survey:
    """Count members, changes and step symbols per magnitude class."""
    n = dtype.n_classes
    members = np.zeros(n, np.int64)
    steps = np.zeros(n * N_SYMBOLS, np.int64)
    largest = 0
    for i in range(0, base.size, CHUNK):
        b, t = base[i : i + CHUNK], target[i : i + CHUNK]
        members += (
            np.bincount(classes(b, dtype), minlength=n) if n > 1 else np.array([b.size], np.int64)
        )
        at = np.flatnonzero(b != t)
        if at.size == 0:
            continue
        b, t = b[at], t[at]
        symbols, values = step_symbols(b, t, dtype)
        largest = max(largest, int(values.max()) + 1)
        cell = symbols.astype(np.int64)
        if n > 1:
            cell += classes(b, dtype).astype(np.int64) * N_SYMBOLS
        if at.size * 8 < steps.size:
            where, count = np.unique(cell, return_counts=True)
            steps[where] += count
        else:
            steps += np.bincount(cell, minlength=steps.size)
    table = steps.reshape(n, N_SYMBOLS)
    return Survey(members, table.sum(axis=1), table, largest)


def count_steps(base: Words, target: Words, dtype: DType) -> tuple[Int64s, int]:
    """Counts per step symbol, int64, (256,), and the largest |step|: a survey without classes."""
    counts, largest = np.zeros(N_SYMBOLS, np.int64), 0
    for i in range(0, base.size, CHUNK):
        b, t = base[i : i + CHUNK], target[i : i + CHUNK]
        at = np.flatnonzero(b != t)
        if at.size:
            symbols, values = step_symbols(b[at], t[at], dtype)
            counts += np.bincount(symbols, minlength=N_SYMBOLS)
            largest = max(largest, int(values.max()) + 1)
    return counts, largest


@dataclass(slots=True)
class TierCode:
    """One tier of a bucket, ready for the entropy coder.

    The *marked* members are the changed ones, or the unchanged ones where more
    than half changed: the rarer set is written as gaps.

    Attributes:
        n_members: words of the bucket in this tier.
        n_changed: how many of them changed.
        gap_symbols: uint8, (n_marked,).
        gap_extra: packed extra bits of the gaps.
        step_symbols: uint8, (n_changed,).
        step_extra: packed extra bits of |step| - 1.
    """

    n_members: int
    n_changed: int
    gap_symbols: Bytes
    gap_extra: bytes
    step_symbols: Bytes
    step_extra: bytes

    @property
    def marks_unchanged(self) -> bool:
        """Whether the gaps mark the unchanged members."""
        return 2 * self.n_changed > self.n_members

    @property
    def n_marked(self) -> int:
        """Number of gaps."""
        return min(self.n_changed, self.n_members - self.n_changed)


def _tier_order(words: Words, dtype: DType, tier_of_class: Bytes) -> tuple[Int64s | None, Int64s]:
    """Positions of a chunk sorted by tier, element order kept within; members per tier."""
    n_tiers = int(tier_of_class[-1]) + 1
    if n_tiers == 1:
        return None, np.array([words.size], np.int64)
    tier = tier_of_class[classes(words, dtype)]
    return np.argsort(tier, kind="stable"), np.bincount(tier, minlength=n_tiers)


def _tier_of_class(bounds: list[int], dtype: DType) -> Bytes:
    """uint8, (n_classes,): tier of each class, where ``bounds`` are the tiers' first classes."""
    return (np.searchsorted(np.array(bounds), np.arange(dtype.n_classes), side="right") - 1).astype(
        np.uint8
    )


def diff(
    base: Words, target: Words, dtype: DType, bounds: list[int], marks_unchanged: list[bool]
) -> list[TierCode]:
    """Code ``target`` in the context of ``base``, tier by tier.

    Args:
        base: words the decoder will hold, (n_words,).
        target: words to reproduce, (n_words,).
        dtype: their element type.
        bounds: first class of each tier, increasing, the first 0.
        marks_unchanged: per tier, whether to mark the unchanged members.
    """
    tier_of_class = _tier_of_class(bounds, dtype)
    n_tiers = len(bounds)
    n_members, n_changed = [0] * n_tiers, [0] * n_tiers
    last = [-1] * n_tiers  # rank within the tier of the last marked member
    gap_symbols: list[list[Bytes]] = [[] for _ in bounds]
    symbols_of: list[list[Bytes]] = [[] for _ in bounds]
    gap_bits = [BitWriter() for _ in bounds]
    step_bits = [BitWriter() for _ in bounds]
    for i in range(0, base.size, CHUNK):
        b, t = base[i : i + CHUNK], target[i : i + CHUNK]
        order, counts = _tier_order(b, dtype, tier_of_class)
        changed = b != t
        if order is not None:
            changed = changed[order]
        at = np.flatnonzero(changed)
        symbols, values = (
            step_symbols(b[at], t[at], dtype)
            if order is None
            else step_symbols(b[order[at]], t[order[at]], dtype)
        )
        end = 0
        for tier in range(n_tiers):
            start, end = end, end + int(counts[tier])
            marks = changed[start:end]
            if marks_unchanged[tier]:
                marks = ~marks
            ranks = np.flatnonzero(marks) + n_members[tier]
            if ranks.size:
                gaps = (np.diff(ranks, prepend=last[tier]) - 1).astype(np.uint64)
                last[tier] = int(ranks[-1])
                c = number_classes(gaps)
                gap_symbols[tier].append(c.astype(np.uint8))
                gap_bits[tier].put(gaps - CLASS_START[c], CLASS_WIDTH[c])
            n_members[tier] += end - start
            lo, hi = np.searchsorted(at, (start, end))
            if hi > lo:
                c = (symbols[lo:hi] >> 1).astype(np.int64)
                symbols_of[tier].append(symbols[lo:hi])
                step_bits[tier].put(values[lo:hi] - CLASS_START[c], CLASS_WIDTH[c])
                n_changed[tier] += int(hi - lo)
    empty = np.zeros(0, np.uint8)
    return [
        TierCode(
            n_members[i],
            n_changed[i],
            np.concatenate([empty, *gap_symbols[i]]),
            gap_bits[i].getvalue(),
            np.concatenate([empty, *symbols_of[i]]),
            step_bits[i].getvalue(),
        )
        for i in range(n_tiers)
    ]


def _marked_ranks(tier: TierCode) -> npt.NDArray[np.uint32]:
    """Ranks within the tier of the marked members, increasing, (n_marked,)."""
    if np.any(tier.gap_symbols > 127):
        raise CorruptError("gap symbol out of range", found=int(tier.gap_symbols.max()))
    ranks = np.empty(tier.gap_symbols.size, np.uint32)
    last = -1
    for i, gaps in read_numbers(tier.gap_symbols, tier.gap_extra):
        # Each gap first, so that their sum cannot overflow.
        if int(gaps.max()) < tier.n_members:
            piece = np.cumsum(gaps.astype(np.int64) + 1) + last
            last = int(piece[-1])
        if int(gaps.max()) >= tier.n_members or last >= tier.n_members:
            raise CorruptError("gap leaves its tier", expected=f"below {tier.n_members}")
        ranks[i : i + piece.size] = piece
    return ranks


def _steps(tier: TierCode, dtype: DType) -> Words:
    """Sizes of a tier's steps, |step|, as words, (n_changed,)."""
    sizes = np.empty(tier.step_symbols.size, dtype.numpy)
    # |step| - 1 is below 2^(W-1), and for positive steps below one less.
    limit = np.uint64((1 << (dtype.word_bits - 1)) - 1)
    for i, values in read_numbers(tier.step_symbols >> 1, tier.step_extra):
        negative = tier.step_symbols[i : i + values.size] & 1
        if np.any(values >= limit + negative):
            raise CorruptError("step out of range")
        sizes[i : i + values.size] = values + np.uint64(1)
    return sizes


def patch(base: Words, out: Words, dtype: DType, bounds: list[int], tiers: list[TierCode]) -> None:
    """Rebuild the target words from the base words; inverse of `diff`.

    Args:
        base: (n_words,).
        out: (n_words,), receives the target words; may not alias ``base``.
        dtype: element type.
        bounds: first class of each tier.
        tiers: the decoded tiers.

    Raises:
        CorruptError: the tiers do not fit the base words.
    """
    tier_of_class = _tier_of_class(bounds, dtype)
    ranks = [_marked_ranks(t) for t in tiers]
    steps = [_steps(t, dtype) for t in tiers]
    seen = [0] * len(tiers)  # members passed, per tier
    done = [0] * len(tiers)  # steps used, per tier
    for i in range(0, base.size, CHUNK):
        b = base[i : i + CHUNK]
        order, counts = _tier_order(b, dtype, tier_of_class)
        positions, sizes, negative = [], [], []
        end = 0
        for k, tier in enumerate(tiers):
            start, end = end, end + int(counts[k])
            lo, hi = np.searchsorted(ranks[k], (seen[k], seen[k] + end - start))
            at = ranks[k][lo:hi].astype(np.int64) - seen[k] + start
            if tier.marks_unchanged:
                left = np.ones(end - start, np.bool_)
                left[at - start] = False
                at = np.flatnonzero(left) + start
            seen[k] += end - start
            use = slice(done[k], done[k] + at.size)
            done[k] += at.size
            if steps[k][use].size != at.size:
                raise CorruptError("more changed members than steps")
            positions.append(at)
            sizes.append(steps[k][use])
            negative.append(tier.step_symbols[use] & 1)
        at = np.concatenate(positions)
        if order is not None:
            at = order[at]
        size, neg = np.concatenate(sizes), np.concatenate(negative).astype(np.bool_)
        t = out[i : i + CHUNK]
        t[:] = b
        t[at] = words_of_keys(
            keys(b[at], dtype) + np.where(neg, ~size + size.dtype.type(1), size), dtype
        )
    for k, tier in enumerate(tiers):
        if seen[k] != tier.n_members or done[k] != tier.n_changed:
            raise CorruptError(
                "tier sizes do not fit the base words",
                expected=f"{tier.n_members} members, {tier.n_changed} changed",
                found=f"{seen[k]} members, {done[k]} changed",
            )
