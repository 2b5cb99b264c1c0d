"""One bucket of words to bounded bytes, and back.

Enters: base words (or none) and target words. Leaves: a payload that decodes
with nothing but the base words (format.md, "Bucket payload"). The encoder
chooses between tiers, which are coded piece by piece while the words pass by,
and byte planes of the target or of target XOR base, for which all words are
needed at once; a sample of the words decides. Never allocates from a size the
payload declares before that size is shown to fit the words it must produce.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sparsediff import kernels
from sparsediff.checksum import Verified
from sparsediff.codec.zstd import compress, decompress
from sparsediff.dtypes import DType
from sparsediff.errors import CorruptError
from sparsediff.kernels import Survey, Words
from sparsediff.kernels.symbols import MODE_TIERS, N_SYMBOLS, Tiers

MODE_PLANES, MODE_XOR_PLANES = 2, 3

SMALL_BYTES = 1 << 20  # up to here more is tried to see whether byte planes win,
_TINY_BYTES = 1 << 16  # and up to here, or where tiers take no more than this, it is tried out
_FEW_BYTES = 2000
_PLANES_SAMPLE = 1 << 18  # bytes


class Choice(NamedTuple):
    """How a bucket will be coded.

    Attributes:
        bounds: first class of each tier.
        marks_unchanged: per tier, whether to mark the unchanged members.
        estimate: size of the payload as tiers, in bytes.
    """

    bounds: list[int]
    marks_unchanged: list[bool]
    estimate: float

    @property
    def tiers(self) -> Tiers:
        """What the bucket's words are coded in."""
        return self.bounds, self.marks_unchanged


def choose(survey: Survey, n_words: int) -> Choice:
    """How to code a bucket of ``n_words`` words, of which ``survey`` counted some or all."""
    return Choice(*kernels.choose_tiers(survey, n_words / int(sum(survey.members))))


def planes_may_win(base: Words, target: Words, choice: Choice, n_bytes: int) -> bool:
    """Whether byte planes are worth a try for a bucket of ``n_bytes``, from a sample of it.

    They are if it is dense; otherwise if a test says so: a regular pattern of
    changes, which gaps cannot see, shows in any part of it. A small bucket, which has less to
    show, is tried in a closer race as well, and where the target's words are alike by themselves.
    """
    small = n_bytes <= SMALL_BYTES
    if choice.estimate > n_bytes / 8:
        return True
    if small and (n_bytes <= _TINY_BYTES or choice.estimate <= _FEW_BYTES):
        return True
    size = min(base.nbytes // 4 if small else base.nbytes, _PLANES_SAMPLE) // base.itemsize // 4
    starts = [i * (len(base) - size) // 3 for i in range(4)]
    limit: float = (1.1 if small else 0.7) * choice.estimate * 4 * size * base.itemsize / n_bytes
    if len(_encode_planes(target, base, starts, size)) < limit:
        return True
    if not small:
        return False
    sample = b"".join(target[start : start + size] for start in starts)
    if _are_noise(sample, base.itemsize, limit):
        return False
    return len(_encode_planes(target, None, starts, size)) < limit


def _are_noise(words: Words | bytes, word_bytes: int, n_bytes: float) -> bool:
    """Whether byte planes of words surely take ``n_bytes`` and more.

    The first plane of weights is noise, as a rule, and then its start alone shows it.
    """
    start = memoryview(words).cast("B")[: int(9 * n_bytes) * word_bytes]
    if len(start) < 8 * n_bytes * word_bytes:
        return False
    return bool(kernels.literals(start, word_bytes) >= 8 * n_bytes)


def encode(base: Words | None, target: Words, dtype: DType, survey: Survey | None) -> bytes:
    """Encode one bucket whose words are all at hand, the smallest way.

    Args:
        base: (n_words,), or None if there is nothing to compare with.
        target: (n_words,), at least one word, not all equal to ``base``.
        dtype: element type.
        survey: `survey(base, target)`, None exactly if ``base`` is.
    """
    if base is None or survey is None:
        return _encode_planes(target, None)
    choice = choose(survey, len(target))
    planes, limit = b"", 1.1 * choice.estimate
    if planes_may_win(base, target, choice, target.nbytes):
        against = [base] if _are_noise(target, target.itemsize, limit) else [None, base]
        planes = min((_encode_planes(target, b) for b in against), key=len)
    if 0.8 * choice.estimate < len(planes) < 1.01 * choice.estimate:
        return planes  # no structure for tiers to find, and no memory for both
    if len(planes) > limit:
        planes = b""  # out of the race: the estimate is never that far too low
    differ = kernels.Differ(dtype, *choice.tiers)
    differ.feed(base, target, memoryview(bytearray(8 * N_SYMBOLS)).cast("q"))
    tiers = kernels.payload_of(differ)
    return planes if planes and len(planes) < len(tiers) else tiers


def is_dense(payload: Verified) -> bool:
    """Whether a `Decoder` of this payload holds as many bytes as the words have.

    zstd makes megabytes of a kilobyte of byte planes; tiers take two bytes at most for each
    base word, of which there must be as many.
    """
    return payload[:1] != bytes([MODE_TIERS])


class Decoder:
    """Rebuilds the words of a bucket from its payload, piece by piece.

    Attributes:
        patcher: does so by itself, if the bucket is coded as tiers.
    """

    def __init__(self, payload: Verified, n_words: int, dtype: DType, *, has_base: bool) -> None:
        """Read a payload.

        Args:
            payload: what `encode` or `kernels.payload_of` returned, with the digest it then had.
            n_words: words of the bucket.
            dtype: element type.
            has_base: whether the bucket has base words.

        Raises:
            CorruptError: the payload is not one that an encoder could have made.
        """
        self.patcher: kernels.Patcher | None = None
        self._planes = b""
        self._at = 0
        mode = self._mode = payload[0] if payload else 0
        if not has_base and mode != MODE_PLANES:
            raise CorruptError("bucket without a base has a mode that needs one", found=mode)
        if mode in (MODE_PLANES, MODE_XOR_PLANES):
            self._planes = decompress(payload[1:], n_words * dtype.word_bytes)
        elif mode == MODE_TIERS:
            self.patcher = kernels.patcher(payload, n_words, dtype)
        else:
            raise CorruptError("unknown bucket mode", expected="1, 2 or 3", found=mode)

    def feed(self, words: Words) -> None:
        """Turn the next base words into target words, in place.

        Raises:
            CorruptError: the payload does not fit the base words.
        """
        if self.patcher is not None:
            self.patcher.feed(words)
            return
        is_xor = self._mode == MODE_XOR_PLANES
        kernels.from_planes(self._planes, self._at, words, is_xor=is_xor)
        self._at += len(words)

    def finish(self) -> None:
        """Check that nothing is left.

        Raises:
            CorruptError: the payload does not fit the base words.
        """
        if self.patcher is not None:
            self.patcher.finish()


def _encode_planes(
    target: Words, base: Words | None, starts: Sequence[int] = (0,), size: int | None = None
) -> bytes:
    """Payload of a bucket coded as byte planes, or of runs of ``size`` words of one."""
    planes: Any = kernels.planes(target, base, starts, len(target) if size is None else size)
    mode = MODE_PLANES if base is None else MODE_XOR_PLANES
    return compress(memoryview(planes), level=3, prefix=bytes([mode]))
