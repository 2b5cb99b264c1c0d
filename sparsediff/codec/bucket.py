"""One bucket of words to bounded bytes, and back.

Enters: base words (or none) and target words. Leaves: a payload that decodes
with nothing but the base words (format.md, "Bucket payload"). The encoder
chooses the smallest of: tiers, byte planes of the target, byte planes of
target XOR base. Never allocates from a size the payload declares before that
size is shown to fit the words it must produce.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from sparsediff import kernels
from sparsediff.codec import tables
from sparsediff.codec.tables import Table
from sparsediff.codec.tiers import choose_tiers
from sparsediff.codec.varint import Reader, varint
from sparsediff.codec.zstd import compress, decompress
from sparsediff.dtypes import DType
from sparsediff.errors import CorruptError
from sparsediff.kernels import Survey, TierCode, Words, numbers

MODE_TIERS, MODE_PLANES, MODE_XOR_PLANES = 1, 2, 3
GAPS_GEOMETRIC, GAPS_TABLE = 0, 1
STEPS_TABLE, STEPS_SYMMETRIC, STEPS_AS_BEFORE = 0, 1, 2


def encode(base: Words | None, target: Words, dtype: DType, survey: Survey | None) -> bytes:
    """Encode one bucket.

    Args:
        base: (n_words,), or None if there is nothing to compare with.
        target: (n_words,), at least one word, not all equal to ``base``.
        dtype: element type.
        survey: `survey(base, target)`, None exactly if ``base`` is.
    """
    if base is None or survey is None:
        return _encode_planes(target, None)
    bounds, estimate = choose_tiers(survey)
    planes = b""
    if _planes_may_win(base, target, estimate):
        planes = min((_encode_planes(target, b) for b in (None, base)), key=len)
        if 0.8 * estimate < len(planes) < 1.01 * estimate:
            return planes  # no structure for tiers to find, and no memory for both
        if len(planes) > 1.1 * estimate:
            planes = b""  # out of the race: the estimate is never that far too low
    tiers = _encode_tiers(base, target, dtype, bounds, survey)
    return planes if planes and len(planes) < len(tiers) else tiers


def decode(payload: bytes, base: Words | None, out: Words, dtype: DType) -> None:
    """Decode one bucket into ``out``; inverse of `encode`.

    Args:
        payload: what `encode` returned.
        base: the base words, (n_words,), or None.
        out: (n_words,), receives the target words; may not alias ``base``.
        dtype: element type.

    Raises:
        CorruptError: the payload is not one that `encode` could have made.
    """
    reader = Reader(payload)
    mode = reader.byte()
    if mode == MODE_PLANES:
        _decode_planes(reader.rest(), out)
    elif base is None:
        raise CorruptError("bucket without a base has a mode that needs one", found=mode)
    elif mode == MODE_XOR_PLANES:
        _decode_planes(reader.rest(), out)
        out ^= base
    elif mode == MODE_TIERS:
        _decode_tiers(reader, base, out, dtype)
    else:
        raise CorruptError("unknown bucket mode", expected="1, 2 or 3", found=mode)


def _planes_may_win(base: Words, target: Words, estimate: float) -> bool:
    """Whether planes are worth a try: always when small or dense, else if a sample says so.

    A regular pattern of changes, which gaps cannot see, shows in any part of it.
    """
    if target.nbytes <= 1 << 20 or estimate > target.nbytes / 8:
        return True
    size = target.size // 64
    starts = range(0, target.size - size, target.size // 3)
    sample = np.concatenate([target[i : i + size] ^ base[i : i + size] for i in starts])
    return len(_encode_planes(sample, None)) < 0.7 * estimate * sample.nbytes / target.nbytes


def _encode_planes(target: Words, base: Words | None) -> bytes:
    mode, words = (MODE_PLANES, target) if base is None else (MODE_XOR_PLANES, target ^ base)
    planes = words.view(np.uint8).reshape(-1, words.itemsize).T.tobytes()
    del words
    return compress(planes, level=3, prefix=bytes([mode]))


def _decode_planes(frame: bytes, out: Words) -> None:
    planes = decompress(frame, out.nbytes)
    out.view(np.uint8).reshape(-1, out.itemsize)[:] = (
        np.frombuffer(planes, np.uint8).reshape(out.itemsize, -1).T
    )


def _encode_tiers(
    base: Words, target: Words, dtype: DType, bounds: list[int], survey: Survey
) -> bytes:
    members = np.add.reduceat(survey.members, bounds)
    changed = np.add.reduceat(survey.changed, bounds)
    marks_unchanged = [bool(2 * k > n) for n, k in zip(members, changed, strict=True)]
    tiers = kernels.diff(base, target, dtype, bounds, marks_unchanged)

    head = [bytes([MODE_TIERS]), varint(len(tiers))]
    head += [varint(b - a) for a, b in pairwise(bounds)]
    coder_tables: list[Table] = []
    symbols: list[numbers.Bytes] = []
    previous: Table | None = None
    for tier in tiers:
        head += [varint(tier.n_members), varint(tier.n_changed)]
        if not tier.n_changed:
            continue
        gap_kind, stored_gaps, table = _gap_table(tier)
        step_kind, stored_steps, previous = _step_table(tier, previous)
        head += [bytes([step_kind << 1 | gap_kind]), stored_gaps, stored_steps]
        if tier.n_marked:
            coder_tables.append(table)
            symbols.append(tier.gap_symbols)
        coder_tables.append(previous)
        symbols.append(tier.step_symbols)
    table_of = np.repeat(np.arange(len(symbols), dtype=np.uint8), [s.size for s in symbols])
    lanes_log2 = _lanes_log2(table_of.size)
    coded = kernels.rans_encode(
        np.concatenate(symbols), table_of, np.stack(coder_tables), 1 << lanes_log2
    )
    head += [bytes([lanes_log2]), varint(len(coded)), coded]
    head += [extra for tier in tiers for extra in (tier.gap_extra, tier.step_extra)]
    return b"".join(head)


def _lanes_log2(n_symbols: int) -> int:
    """A lane costs 4 bytes, so below 0.1 % of what it codes; many make decoding fast."""
    return min(max(n_symbols.bit_length() - 13, 0), 11)


def _gap_table(tier: TierCode) -> tuple[int, bytes, Table]:
    """Cheapest table for a tier's gaps: its kind, its stored form, and itself."""
    by_chance = tables.geometric(tier.n_marked, tier.n_members)
    if not tier.n_marked:
        return GAPS_GEOMETRIC, b"", by_chance
    counts = np.bincount(tier.gap_symbols, minlength=256)
    fitted = tables.fitted(counts)
    stored = tables.dump(fitted)
    if tables.cost_bits(counts, fitted) + 8 * len(stored) < tables.cost_bits(counts, by_chance):
        return GAPS_TABLE, stored, fitted
    return GAPS_GEOMETRIC, b"", by_chance


def _step_table(tier: TierCode, previous: Table | None) -> tuple[int, bytes, Table]:
    """Cheapest table for a tier's steps; ``previous`` is that of the tier before."""
    counts = np.bincount(tier.step_symbols, minlength=256)
    both, even = tables.fitted(counts), tables.fitted_symmetric(counts)
    choices = [
        (STEPS_SYMMETRIC, tables.dump_symmetric(even), even),
        (STEPS_TABLE, tables.dump(both), both),
    ]
    if previous is not None:
        choices.insert(0, (STEPS_AS_BEFORE, b"", previous))
    return min(choices, key=lambda c: 8 * len(c[1]) + tables.cost_bits(counts, c[2]))


def _decode_tiers(reader: Reader, base: Words, out: Words, dtype: DType) -> None:
    n_tiers = reader.varint()
    if not 1 <= n_tiers <= min(dtype.n_classes, 64):
        raise CorruptError("number of tiers out of range", found=n_tiers)
    bounds = [0]
    for _ in range(n_tiers - 1):
        bounds.append(bounds[-1] + reader.varint())
        if bounds[-1] == bounds[-2] or bounds[-1] >= dtype.n_classes:
            raise CorruptError("tier boundaries out of order")
    tiers: list[TierCode] = []
    coder_tables: list[Table] = []
    sizes: list[int] = []
    previous: Table | None = None
    empty = np.zeros(0, np.uint8)
    for _ in range(n_tiers):
        tier = TierCode(reader.varint(), reader.varint(), empty, b"", empty, b"")
        tiers.append(tier)
        if tier.n_changed > tier.n_members or sum(t.n_members for t in tiers) > base.size:
            raise CorruptError("tier counts exceed the bucket", expected=f"{base.size} words")
        if not tier.n_changed:
            continue
        kinds = reader.byte()
        if tier.n_marked:
            coder_tables.append(
                tables.load(reader)
                if kinds & 1 == GAPS_TABLE
                else tables.geometric(tier.n_marked, tier.n_members)
            )
            sizes.append(tier.n_marked)
        elif kinds & 1:
            raise CorruptError("gap table without gaps")
        if kinds >> 1 == STEPS_TABLE:
            previous = tables.load(reader)
        elif kinds >> 1 == STEPS_SYMMETRIC:
            previous = tables.load_symmetric(reader)
        elif kinds >> 1 != STEPS_AS_BEFORE or previous is None:
            raise CorruptError("unknown kind of step table", found=kinds >> 1)
        coder_tables.append(previous)
        sizes.append(tier.n_changed)
    lanes_log2 = reader.byte()
    if not sizes:
        raise CorruptError("nothing changed in a bucket with a payload")
    if lanes_log2 != _lanes_log2(sum(sizes)):
        raise CorruptError(
            "wrong number of lanes", expected=_lanes_log2(sum(sizes)), found=lanes_log2
        )
    table_of = np.repeat(np.arange(len(sizes), dtype=np.uint8), sizes)
    coded = reader.take(reader.varint())
    symbols = iter(
        np.split(
            kernels.rans_decode(coded, table_of, np.stack(coder_tables), 1 << lanes_log2),
            np.cumsum(sizes)[:-1],
        )
    )
    for tier in tiers:
        if tier.n_marked:
            tier.gap_symbols = next(symbols)
            tier.gap_extra = reader.take(numbers.extra_length(tier.gap_symbols, signed=False))
        if tier.n_changed:
            tier.step_symbols = next(symbols)
            tier.step_extra = reader.take(numbers.extra_length(tier.step_symbols, signed=True))
    reader.end()
    kernels.patch(base, out, dtype, bounds, tiers)
