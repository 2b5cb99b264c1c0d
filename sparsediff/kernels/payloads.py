"""Payloads of buckets coded as tiers: symbols, tables and extra bits to bytes, and back.

Enters: the tiers of a bucket. Leaves: a payload (format.md, "Bucket payload"), or from one, which
may be any bytes, what it says of the bucket's words. Never allocates from a size the payload
declares before that size is shown to fit the words it must produce.
"""

from __future__ import annotations

from itertools import pairwise

from sparsediff.dtypes import DType
from sparsediff.errors import CorruptError
from sparsediff.kernels import rans
from sparsediff.kernels.numbers import extra_bytes
from sparsediff.kernels.reference import Differ, Patcher
from sparsediff.kernels.symbols import (
    GAPS_GEOMETRIC,
    MODE_TIERS,
    STEPS_AS_BEFORE,
    STEPS_SYMMETRIC,
    STEPS_TABLE,
    TierCode,
)
from sparsediff.kernels.tables import geometric, load, tier_tables
from sparsediff.kernels.varint import Reader, varint


def payload_of(differ: Differ) -> bytes:
    """Payload of a bucket, all of whose words were fed to ``differ``, which is of no use then."""
    return encode(differ.finish(), differ.bounds)


def encode(tiers: list[TierCode], bounds: list[int]) -> bytes:
    """Payload of a bucket coded as tiers that begin at the classes ``bounds``."""
    head = [bytes([MODE_TIERS]), varint(len(tiers))]
    head += [varint(b - a) for a, b in pairwise(bounds)]
    stepped, coder_tables = tier_tables([t for t in tiers if t.n_changed])
    of_tables = iter(stepped)
    for tier in tiers:
        head += [varint(tier.n_members), varint(tier.n_changed)]
        if tier.n_changed:
            head.append(next(of_tables))
    runs = [run for tier in tiers for run in (tier.gap_symbols, tier.step_symbols) if run]
    lanes_log2 = _lanes_log2(sum(map(len, runs)))
    coded = rans.encode(runs, coder_tables, 1 << lanes_log2)
    head += [bytes([lanes_log2]), varint(len(coded)), coded]
    head += [extra for tier in tiers for extra in (tier.gap_extra, tier.step_extra)]
    return b"".join(head)


def patcher(payload: bytes, n_words: int, dtype: DType) -> Patcher:
    """What turns base words into those that a payload, of tiers, is of.

    Raises:
        CorruptError: the payload is not one that an encoder could have made.
    """
    reader = Reader(payload)
    if (mode := reader.byte()) != MODE_TIERS:
        raise CorruptError("unknown bucket mode", expected=MODE_TIERS, found=mode)
    n_tiers = reader.varint()
    if not 1 <= n_tiers <= min(dtype.n_classes, 64):
        raise CorruptError("number of tiers out of range", found=n_tiers)
    bounds = [0]
    for _ in range(n_tiers - 1):
        bounds.append(bounds[-1] + reader.varint())
        if bounds[-1] == bounds[-2] or bounds[-1] >= dtype.n_classes:
            raise CorruptError("tier boundaries out of order")
    tiers: list[TierCode] = []
    coder_tables: list[bytes] = []
    sizes: list[int] = []
    previous: bytes | None = None
    for _ in range(n_tiers):
        tier = TierCode(reader.varint(), reader.varint(), b"", b"", b"", b"")
        tiers.append(tier)
        if tier.n_changed > tier.n_members or sum(t.n_members for t in tiers) > n_words:
            raise CorruptError("tier counts exceed the bucket", expected=f"{n_words} words")
        if not tier.n_changed:
            continue
        kinds = reader.byte()
        if tier.n_marked:
            coder_tables.append(
                geometric(tier.n_marked, tier.n_members)
                if kinds & 1 == GAPS_GEOMETRIC
                else load(reader, is_symmetric=False)
            )
            sizes.append(tier.n_marked)
        elif kinds & 1:
            raise CorruptError("gap table without gaps")
        if kinds >> 1 == STEPS_TABLE:
            previous = load(reader, is_symmetric=False)
        elif kinds >> 1 == STEPS_SYMMETRIC:
            previous = load(reader, is_symmetric=True)
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
    coded = reader.take(reader.varint())
    symbols = iter(rans.decode(coded, sizes, b"".join(coder_tables), 1 << lanes_log2))

    def stream(*, is_steps: bool) -> tuple[bytes, bytes]:
        """The next symbols, and their extra bits."""
        found = next(symbols)
        return found, reader.take(extra_bytes(found, is_steps=is_steps))

    for i, tier in enumerate(tiers):
        gaps, gap_extra = stream(is_steps=False) if tier.n_marked else (b"", b"")
        steps, step_extra = stream(is_steps=True) if tier.n_changed else (b"", b"")
        tiers[i] = TierCode(tier.n_members, tier.n_changed, gaps, gap_extra, steps, step_extra)
    reader.end()
    return Patcher(dtype, bounds, tiers)


def _lanes_log2(n_symbols: int) -> int:
    """A lane costs 4 bytes, so below 0.1 % of what it codes; many make decoding fast."""
    return min(max(n_symbols.bit_length() - 13, 0), 11)
