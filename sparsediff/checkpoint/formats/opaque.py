"""Files of no known format: all skeleton when small, one span of bytes when large.

A small file is carried whole, compressed against its namesake in the base.
A large one would not fit that way in bounded memory, so it is cut into buckets
of bytes like a tensor.
"""

from __future__ import annotations

from sparsediff.checkpoint.formats.span import Span
from sparsediff.disk.inputs import Input
from sparsediff.dtypes import DTYPES

MAX_SKELETON = 8 << 20  # bytes


def find_spans(file: Input) -> list[Span]:
    """No span, or one over the whole file if it is larger than `MAX_SKELETON`."""
    if file.size <= MAX_SKELETON:
        return []
    return [Span("", DTYPES["U8"], (file.size,), 0, file.size)]
