"""File formats: where the tensors of a file lie, and nothing else.

Enters: a file. Leaves: its spans, in file order, without overlap, inside the
file. Whatever no span covers is skeleton and travels byte for byte, so a
format module cannot break exactness, only sparsity.
"""

from __future__ import annotations

from sparsediff.files import InputFile
from sparsediff.formats import opaque, safetensors
from sparsediff.formats.span import Span

__all__ = ["Span", "find_spans"]


def find_spans(file: InputFile) -> list[Span]:
    """Spans of ``file``, ordered by offset.

    The content decides; the suffix decides only whether a file that looks
    broken is an error or just bytes.

    Raises:
        CorruptError: a file with the suffix of a format violates that format.
    """
    claimed = file.path.name.endswith(safetensors.SUFFIX)
    if claimed or safetensors.looks_like(file):
        try:
            return safetensors.find_spans(file)
        except safetensors.MalformedError:
            if claimed:
                raise
    return opaque.find_spans(file)
