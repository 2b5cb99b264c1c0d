"""File formats: where the tensors of a file lie, and nothing else.

Enters: a file. Leaves: its spans, in file order, without overlap, inside the
file. Whatever no span covers is skeleton and travels byte for byte, so a
format module cannot break exactness, only sparsity.
"""

from __future__ import annotations

from typing import Protocol

from sparsediff.checkpoint.formats import (
    distcp,
    gguf,
    npy,
    npz,
    opaque,
    safetensors,
    torch_legacy,
    torch_zip,
)
from sparsediff.checkpoint.formats.span import MalformedError, Span
from sparsediff.disk.inputs import InputFile

__all__ = ["MAX_SKELETON_BYTES", "PART_SUFFIXES", "WEIGHT_SUFFIXES", "Span", "find_spans"]

MAX_SKELETON_BYTES = 1 << 27
"""Skeletons are carried whole; `sparsediff.patch.manifest` has the same limit."""

WEIGHT_SUFFIXES = (*safetensors.SUFFIXES, *torch_zip.SUFFIXES)
"""Of files that may be a whole checkpoint of a training run by themselves."""

PART_SUFFIXES = distcp.SUFFIXES
"""Of files with weights that are never a checkpoint by themselves."""


class Format(Protocol):
    """What a format module offers."""

    @property
    def SUFFIXES(self) -> tuple[str, ...]:  # noqa: N802 - a constant of the module
        """A broken file of such a name is an error; of another name it is just bytes."""

    def looks_like(self, file: InputFile) -> bool:
        """Whether the first bytes are those of the format."""

    def find_spans(self, file: InputFile) -> list[Span] | None:
        """Spans by offset, None if the module does not understand the file.

        Raises:
            MalformedError: the file contradicts itself.
        """


_FORMATS: tuple[Format, ...] = (safetensors, torch_zip, torch_legacy, gguf, npy, npz)


def find_spans(file: InputFile) -> list[Span]:
    """Spans of ``file``, ordered by offset.

    The content decides; the suffix decides only whether a file that looks
    broken is an error or just bytes.

    Raises:
        CorruptError: a file with the suffix of a format violates that format.
    """
    for module in _FORMATS:
        claimed = file.path.name.endswith(module.SUFFIXES)
        if not (claimed or module.looks_like(file)):
            continue
        try:
            spans = module.find_spans(file)
        except MalformedError:
            if claimed:
                raise
            continue
        if spans is not None and file.size - sum(s.nbytes for s in spans) <= MAX_SKELETON_BYTES:
            return spans
    return opaque.find_spans(file)
