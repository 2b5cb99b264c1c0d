"""Reference kernels in NumPy: base words and target words to symbols, and back.

Enters: two equally long arrays of unsigned words and a `DType`. Leaves: per
tier, the gaps between marked members and the steps of the changed ones, each
as one-byte symbols and packed extra bits (`TierCode`). With `steps`, the
specification a compiled kernel must meet bit for bit; the clauses they follow
are in ``docs/format.md``. They never look at a value as a float, never read or
write outside the arrays they are given, and know nothing of files.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sparsediff.checksum import Sums
from sparsediff.dtypes import DType
from sparsediff.errors import CorruptError
from sparsediff.kernels.numbers import (
    CHUNK,
    CLASS_START,
    CLASS_WIDTH,
    BitWriter,
    Bytes,
    Int64s,
    number_classes,
    read_numbers,
)
from sparsediff.kernels.steps import (
    Words,
    classes,
    keys,
    step_symbols,
    words_of_keys,
)
from sparsediff.kernels.symbols import N_SYMBOLS, Counts, Extents, Sampled, TakenIn, TierCode, Tiers


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


class Differ:
    """Codes target words in the context of base words, tier by tier, piece by piece."""

    def __init__(self, dtype: DType, bounds: list[int], marks_unchanged: list[bool]) -> None:
        """Start a bucket.

        Args:
            dtype: element type.
            bounds: first class of each tier, increasing, the first 0.
            marks_unchanged: per tier, whether to mark the unchanged members.
        """
        self.bounds = bounds
        self._dtype = dtype
        self._tier_of_class = _tier_of_class(bounds, dtype)
        self._marks_unchanged = marks_unchanged
        self._n_members, self._n_changed = [0] * len(bounds), [0] * len(bounds)
        self._last = [-1] * len(bounds)  # rank within the tier of the last marked member
        self._gap_symbols: list[list[bytes]] = [[] for _ in bounds]
        self._step_symbols: list[list[bytes]] = [[] for _ in bounds]
        self._gap_bits = [BitWriter() for _ in bounds]
        self._step_bits = [BitWriter() for _ in bounds]

    def feed(self, base: Words, target: Words, counts: Counts) -> int:
        """Code the next words.

        Args:
            base: words the decoder will hold, (n_words,).
            target: words to reproduce, (n_words,).
            counts: a buffer of int64, (256,): the number of each step symbol is added.

        Returns:
            The largest |step| among them, in ULP; 0 if nothing changed.
        """
        pieces, counts = range(0, base.size, CHUNK), np.asarray(counts)
        return max(
            (self._feed(base[i : i + CHUNK], target[i : i + CHUNK], counts) for i in pieces),
            default=0,
        )

    def _feed(self, b: Words, t: Words, counts: Int64s) -> int:
        order, members = _tier_order(b, self._dtype, self._tier_of_class)
        changed = b != t
        if order is not None:
            changed = changed[order]
        at = np.flatnonzero(changed)
        where = at if order is None else order[at]
        symbols, values = step_symbols(b[where], t[where], self._dtype)
        counts += np.bincount(symbols, minlength=N_SYMBOLS)
        end = 0
        for tier, n_members in enumerate(members.tolist()):
            start, end = end, end + n_members
            marks = changed[start:end]
            if self._marks_unchanged[tier]:
                marks = ~marks
            ranks = np.flatnonzero(marks) + self._n_members[tier]
            if ranks.size:
                gaps = (np.diff(ranks, prepend=self._last[tier]) - 1).astype(np.uint64)
                self._last[tier] = int(ranks[-1])
                c = number_classes(gaps)
                self._gap_symbols[tier].append(c.astype(np.uint8).tobytes())
                self._gap_bits[tier].put(gaps - CLASS_START[c], CLASS_WIDTH[c])
            self._n_members[tier] += n_members
            lo, hi = np.searchsorted(at, (start, end))
            c = (symbols[lo:hi] >> 1).astype(np.int64)
            self._step_symbols[tier].append(symbols[lo:hi].tobytes())
            self._step_bits[tier].put(values[lo:hi] - CLASS_START[c], CLASS_WIDTH[c])
            self._n_changed[tier] += int(hi - lo)
        return int(values.max()) + 1 if values.size else 0

    def finish(self) -> list[TierCode]:
        """The tiers of all words fed, the rarer half of each marked, whatever was expected."""
        tiers = [
            TierCode(
                self._n_members[i],
                self._n_changed[i],
                b"".join(self._gap_symbols[i]),
                self._gap_bits[i].getvalue(),
                b"".join(self._step_symbols[i]),
                self._step_bits[i].getvalue(),
            )
            for i in range(len(self._last))
        ]
        return [
            tier if tier.marks_unchanged == expected else _remark(tier)
            for tier, expected in zip(tiers, self._marks_unchanged, strict=True)
        ]


def _marked_ranks(tier: TierCode) -> npt.NDArray[np.uint32]:
    """Ranks within the tier of the marked members, increasing, (n_marked,)."""
    symbols = np.frombuffer(tier.gap_symbols, np.uint8)
    if np.any(symbols > 127):
        raise CorruptError("gap symbol out of range", found=int(symbols.max()))
    ranks = np.empty(symbols.size, np.uint32)
    last = -1
    for i, gaps in read_numbers(symbols, tier.gap_extra):
        # Each gap first, so that their sum cannot overflow.
        if int(gaps.max()) < tier.n_members:
            piece = np.cumsum(gaps.astype(np.int64) + 1) + last
            last = int(piece[-1])
        if int(gaps.max()) >= tier.n_members or last >= tier.n_members:
            raise CorruptError("gap leaves its tier", expected=f"below {tier.n_members}")
        ranks[i : i + piece.size] = piece
    return ranks


def _remark(tier: TierCode) -> TierCode:
    """The same tier with the other half of its members marked."""
    left = np.ones(tier.n_members, np.bool_)
    last = -1
    for _, gaps in read_numbers(np.frombuffer(tier.gap_symbols, np.uint8), tier.gap_extra):
        ranks = np.cumsum(gaps.astype(np.int64) + 1) + last
        left[ranks] = False
        last = int(ranks[-1])
    symbols, bits = [], BitWriter()
    last = -1
    for i in range(0, left.size, CHUNK):
        ranks = np.flatnonzero(left[i : i + CHUNK]) + i
        if ranks.size:
            gaps = (np.diff(ranks, prepend=last) - 1).astype(np.uint64)
            last = int(ranks[-1])
            c = number_classes(gaps)
            symbols.append(c.astype(np.uint8).tobytes())
            bits.put(gaps - CLASS_START[c], CLASS_WIDTH[c])
    return tier._replace(gap_symbols=b"".join(symbols), gap_extra=bits.getvalue())


def _steps(tier: TierCode, dtype: DType) -> Words:
    """Steps of a tier as words, modulo 2^word_bits, (n_changed,)."""
    symbols = np.frombuffer(tier.step_symbols, np.uint8)
    steps = np.empty(symbols.size, dtype.numpy)
    # |step| - 1 is below 2^(W-1), and for positive steps below one less.
    limit = np.uint64((1 << (dtype.word_bits - 1)) - 1)
    for i, values in read_numbers(symbols >> 1, tier.step_extra):
        negative = symbols[i : i + values.size] & 1
        if np.any(values >= limit + negative):
            raise CorruptError("step out of range")
        size = (values + np.uint64(1)).astype(dtype.numpy)
        steps[i : i + values.size] = np.where(negative, ~size + size.dtype.type(1), size)
    return steps


class Patcher:
    """Rebuilds target words from base words, piece by piece; inverse of `Differ`."""

    def __init__(self, dtype: DType, bounds: list[int], tiers: list[TierCode]) -> None:
        """Start a bucket.

        Args:
            dtype: element type.
            bounds: first class of each tier.
            tiers: the decoded tiers.

        Raises:
            CorruptError: gaps, steps or extra bits break a rule of the format.
        """
        self._dtype, self._tiers = dtype, tiers
        self._tier_of_class = _tier_of_class(bounds, dtype)
        self._ranks = [_marked_ranks(t) for t in tiers]
        self._steps = [_steps(t, dtype) for t in tiers]
        self._seen = [0] * len(tiers)  # members passed, per tier
        self._done = [0] * len(tiers)  # steps used, per tier

    def feed(self, words: Words) -> None:
        """Turn the next base words, (n_words,), into target words, in place.

        Raises:
            CorruptError: the tiers do not fit the base words.
        """
        for i in range(0, words.size, CHUNK):
            self._feed(words[i : i + CHUNK])

    def _feed(self, b: Words) -> None:
        order, counts = _tier_order(b, self._dtype, self._tier_of_class)
        positions, steps = [], []
        end = 0
        for k, tier in enumerate(self._tiers):
            start, end = end, end + int(counts[k])
            seen = self._seen[k]
            lo, hi = np.searchsorted(self._ranks[k], (seen, seen + end - start))
            at = self._ranks[k][lo:hi].astype(np.int64) - seen + start
            if tier.marks_unchanged:
                left = np.ones(end - start, np.bool_)
                left[at - start] = False
                at = np.flatnonzero(left) + start
            self._seen[k] += end - start
            use = slice(self._done[k], self._done[k] + at.size)
            self._done[k] += at.size
            if self._steps[k][use].size != at.size:
                raise CorruptError("more changed members than steps")
            positions.append(at)
            steps.append(self._steps[k][use])
        at = np.concatenate(positions)
        if order is not None:
            at = order[at]
        b[at] = words_of_keys(keys(b[at], self._dtype) + np.concatenate(steps), self._dtype)

    def finish(self) -> None:
        """Check that the words fed were all there are.

        Raises:
            CorruptError: members or steps are left, or there were more.
        """
        for k, tier in enumerate(self._tiers):
            if self._seen[k] != tier.n_members or self._done[k] != tier.n_changed:
                raise CorruptError("tier sizes do not fit the base words")


def choose_by_sample(
    base: Extents, target: Extents, stride: int, size: int, dtype: DType
) -> Sampled | None:
    """How to cut a bucket into tiers, by some of its words, in one call; or None, as `take_in`.

    Args:
        base: where the base words are.
        target: where the target words are.
        stride: of so many bytes, whole words,
        size: the first are looked at, whole words too.
        dtype: element type.

    Returns:
        What `choose_tiers` gives for a survey of these words; and the words of both sides, unless
        they are the same.
    """
    return None


def take_in(
    base: Extents,
    target: Extents,
    memory: Sequence[Words] | None,
    ends: Sequence[int],
    piece_words: int,
    dtype: DType,
    tiers: Tiers | None,
) -> TakenIn | None:
    """Read, hash, compare and code the words of a bucket in one call; only compiled kernels do.

    Args:
        base: where the base words are.
        target: where the target words are.
        memory: for all base words and all target words, which are kept there; None for nowhere.
        ends: where each part ends, (n_parts,), in words, increasing.
        piece_words: how many are read at a time.
        dtype: element type.
        tiers: to code all words in, if they are to be coded.

    Returns:
        None if nothing is known: there are no compiled kernels, or something could not be read.
        Whoever reads it by himself gets to know why.
    """
    return None


def rebuild(
    base: Extents,
    target: Extents,
    ends: Sequence[int],
    piece_words: int,
    dtype: DType,
    patcher: Patcher | None,
) -> tuple[Sums, Sums] | None:
    """Read, hash, patch, hash and write the words of a bucket in one call, as `take_in` does.

    Args:
        base: where the base words are.
        target: where the target words go; nowhere, where the descriptor is negative.
        ends: as of `take_in`.
        piece_words: likewise.
        dtype: element type.
        patcher: turns base words into target words; None if they are the same.

    Returns:
        Checksums of the parts' base words and of their target words; or None, as `take_in` does.
        Some target words may have been written then.

    Raises:
        CorruptError: as `Patcher.feed` does.
    """
    return None
