"""Numbers as a class, which is entropy-coded, and extra bits, which are packed.

Enters: non-negative integers. Leaves: one-byte classes and a bit string, and
the way back (format.md, "Numbers").
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from sparsediff.errors import CorruptError
from sparsediff.kernels.symbols import N_SYMBOLS, class_start, class_width

Bytes = npt.NDArray[np.uint8]
Int64s = npt.NDArray[np.int64]
UInt64s = npt.NDArray[np.uint64]

LOG2_DIGITS = 48  # binary ones
CHUNK = 1 << 17  # numbers worked on at a time: the temporaries stay in the L2 cache

CLASS_WIDTH: Int64s = np.array([class_width(c) for c in range(128)], np.int64)
CLASS_START: UInt64s = np.array([class_start(c) for c in range(128)], np.uint64)


def number_classes(values: UInt64s) -> Int64s:
    """Class of each non-negative number below 2^63 (format.md, "Numbers")."""
    # frexp is exact below 2^53; above, rounding up may cross a power of two by one.
    octave = np.frexp(values.astype(np.float64))[1].astype(np.int64) - 1
    octave = np.maximum(octave, 1)
    octave -= (values >> octave.astype(np.uint64)) == 0
    octave = np.maximum(octave, 1)
    half = (values >> (octave - 1).astype(np.uint64)).astype(np.int64) & 1
    return np.where(values < 2, values.astype(np.int64), 2 * octave + half)


def log2_table(n: int) -> npt.NDArray[np.float64]:
    """log2 of 0 (which is 0), 1, 2, … n - 1, to 2^-48.

    By squaring, in integers, so that every machine and every library finds the same digits.
    """
    x = np.maximum(np.arange(n), 1).astype(np.uint64)
    found = np.frexp(x.astype(np.float64))[1].astype(np.uint64) - np.uint64(1)
    m, one, half = x << (np.uint64(63) - found), np.uint64(1), np.uint64(32)
    for _ in range(LOG2_DIGITS):
        high, low = m >> half, m & np.uint64((1 << 32) - 1)
        square = high * high + (high * low >> np.uint64(31))
        is_large = square >> np.uint64(63)
        found = found << one | is_large
        m = square << (one - is_large)
    return np.asarray(found.astype(np.float64) / 2.0**LOG2_DIGITS)


class BitWriter:
    """Append numbers of varying width to a bit string, least significant bit first."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._partial = np.uint64(0)
        self._fill = 0  # bits used in _partial

    def put(self, values: UInt64s, widths: Int64s) -> None:
        """Append ``values`` (uint64), each ``widths`` (int64, 0…63) bits wide."""
        used = widths > 0
        values, widths = values[used], widths[used]
        if values.size == 0:
            return
        ends = np.cumsum(widths) + self._fill
        starts = ends - widths
        word = starts >> 6
        shift = (starts & 63).astype(np.uint64)
        out = np.zeros((int(ends[-1]) >> 6) + 1, np.uint64)
        first = np.flatnonzero(np.diff(word, prepend=-1))
        # Fields do not overlap, so a sum is an OR; at most one field crosses each word's end.
        out[word[first]] = np.add.reduceat(values << shift, first)
        cross = np.flatnonzero((starts & 63) + widths > 64)
        out[word[cross] + 1] |= values[cross] >> (np.uint64(64) - shift[cross])
        out[0] |= self._partial
        self._fill = int(ends[-1]) & 63
        self._partial = out[-1]
        self._parts.append(out[:-1].astype("<u8").tobytes())

    def getvalue(self) -> bytes:
        """The bits so far, padded with zeros to a whole byte."""
        last = np.array([self._partial], "<u8").tobytes()
        return b"".join(self._parts) + last[: (self._fill + 7) // 8]


def read_numbers(classes: npt.NDArray[np.integer], extra: bytes) -> Iterator[tuple[int, UInt64s]]:
    """Numbers from their classes and packed extra bits, `CHUNK` at a time.

    Yields:
        The index of the first number of a piece, and the piece.

    Raises:
        CorruptError: ``extra`` is not exactly as long as the classes ask for,
            or has bits set after its end.
    """
    pieces = (classes[i : i + CHUNK] for i in range(0, classes.size, CHUNK))
    n_bits = sum(int(np.bincount(c, minlength=128) @ CLASS_WIDTH) for c in pieces)
    if (n_bits + 7) // 8 != len(extra):
        raise CorruptError(
            "extra bits have the wrong length",
            expected=f"{(n_bits + 7) // 8} bytes",
            found=f"{len(extra)} bytes",
        )
    if n_bits % 8 and extra[-1] >> n_bits % 8:
        raise CorruptError("extra bits are not filled up with zeros")
    words = np.frombuffer(extra + bytes(16 + -len(extra) % 8), "<u8")
    begin = 0
    for i in range(0, classes.size, CHUNK):
        c = classes[i : i + CHUNK]
        widths = CLASS_WIDTH[c]
        ends = np.cumsum(widths) + begin
        starts = ends - widths
        begin = int(ends[-1])
        shift = (starts & 63).astype(np.uint64)
        low = words[starts >> 6] >> shift
        high = (words[(starts >> 6) + 1] << np.uint64(1)) << (np.uint64(63) - shift)
        mask = (np.uint64(1) << widths.astype(np.uint64)) - np.uint64(1)
        yield i, CLASS_START[c] + ((low | high) & mask)


def extra_bytes(symbols: bytes, *, is_steps: bool) -> int:
    """Bytes of packed extra bits that go with symbols of numbers, or of steps."""
    counts = np.bincount(np.frombuffer(symbols, np.uint8), minlength=N_SYMBOLS)
    by_class = counts.reshape(-1, 2).sum(axis=1) if is_steps else counts[:128]
    return (int(by_class @ CLASS_WIDTH) + 7) // 8
