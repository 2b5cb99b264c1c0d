"""Frequency tables of the entropy coder, as they are read.

Enters: what `kernels.tier_tables` made of tables. Leaves: those tables, or a refusal
(format.md, "Frequency tables").
"""

from __future__ import annotations

import numpy as np

from sparsediff.codec.varint import Reader
from sparsediff.errors import CorruptError
from sparsediff.kernels.rans import SCALE, Tables
from sparsediff.kernels.tables import STORED


def load(reader: Reader) -> Tables:
    """A table stored as a quarter of its frequencies, (256,).

    Raises:
        CorruptError: the bytes are not a table.
    """
    return _load(reader, STORED) * np.uint32(SCALE // STORED)


def load_symmetric(reader: Reader) -> Tables:
    """Table of step symbols stored as one frequency per class, (256,).

    Raises:
        CorruptError: the bytes are not such a table.
    """
    by_class = _load(reader, STORED // 2)
    if by_class[128:].any():
        raise CorruptError("step class out of range")
    return np.repeat(by_class[:128], 2) * np.uint32(SCALE // STORED)


def _load(reader: Reader, scale: int) -> Tables:
    """First symbol, last symbol, all frequencies but the last, which sum to ``scale`` with it.

    Raises:
        CorruptError: the bytes are not a table.
    """
    first, last = reader.byte(), reader.byte()
    if first > last:
        raise CorruptError("frequency table runs backwards")
    table = np.zeros(256, np.uint32)
    left = scale
    for symbol in range(first, last):
        freq = reader.varint()
        left -= freq
        if left <= 0:
            raise CorruptError("frequency table sums past its scale", expected=scale)
        table[symbol] = freq
    table[last] = left
    return table
