"""File formats: where the tensors of a file lie, and what else belongs to it.

Enters: a file. Leaves: its spans, in file order, without overlap, inside the
file. Whatever no span covers is skeleton and travels byte for byte, so a
format module cannot break exactness, only sparsity. Or: the files that it names and
that must lie beside it, or the error that says it is not whole itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

from sparsediff.checkpoint.formats import (
    archives,
    deepspeed,
    distcp,
    gguf,
    hdf5,
    listings,
    npy,
    npz,
    onnx,
    opaque,
    safetensors,
    torch_legacy,
    torch_zip,
)
from sparsediff.checkpoint.formats.span import MalformedError, Reference, Span
from sparsediff.disk.inputs import Input, InputFile, Readable
from sparsediff.errors import CorruptError
from sparsediff.unfolding import uncollected

__all__ = [
    "MAX_SKELETON_BYTES",
    "PART_SUFFIXES",
    "WEIGHT_SUFFIXES",
    "Reference",
    "Span",
    "find_references",
    "find_spans",
    "have_same_spans",
]

MAX_SKELETON_BYTES = 1 << 27
"""Skeletons are carried whole; `sparsediff.patch.manifest` has the same limit."""


class Format(Protocol):
    """What a format module offers."""

    @property
    def SUFFIXES(self) -> tuple[str, ...]:  # noqa: N802 - a constant of the module
        """A broken file of such a name is an error; of another name it is just bytes."""

    def looks_like(self, file: Input) -> bool:
        """Whether the first bytes are those of the format."""

    def find_spans(self, file: Input) -> list[Span] | None:
        """Spans by offset, None if the module does not understand the file.

        Raises:
            MalformedError: the file contradicts itself.
        """


_FORMATS: tuple[Format, ...] = (safetensors, torch_zip, torch_legacy, gguf, npy, npz, hdf5)
_MAX_DEPTH = 3  # of archives in archives


@uncollected()
def find_spans(file: Input) -> list[Span]:
    """Spans of ``file``, ordered by offset.

    The content decides; the suffix decides only whether a file that looks
    broken is an error or just bytes. In an archive it is always just bytes.

    Raises:
        CorruptError: a file with the suffix of a format violates that format.
    """
    return _find_spans(file, 0)


def _find_spans(file: Input, depth: int) -> list[Span]:
    """Spans of ``file``, which lies in ``depth`` archives."""
    for module in _FORMATS:
        claimed = depth == 0 and file.path.name.endswith(module.SUFFIXES)
        if not (claimed or module.looks_like(file)):
            continue
        try:
            spans = module.find_spans(file)
        except CorruptError:
            if claimed:
                raise
            continue
        if spans is not None and _can_travel(file, spans):
            return spans
    if depth < _MAX_DEPTH:
        with suppress(CorruptError):
            spans = archives.find_spans(file, lambda member: _find_spans(member, depth + 1))
            if spans is not None and _can_travel(file, spans):
                return spans
    return opaque.find_spans(file)


def have_same_spans(file: InputFile, other: Readable) -> bool:
    """Whether it is certain, without looking for spans, that two files have the same."""
    return isinstance(other, InputFile) and safetensors.have_same_spans(file, other)


def _can_travel(file: Input, spans: Sequence[Span]) -> bool:
    """Whether the skeleton that ``spans`` leave is small enough."""
    return file.size - sum(s.nbytes for s in spans) <= MAX_SKELETON_BYTES


WEIGHT_SUFFIXES: tuple[str, ...] = (
    *(suffix for module in _FORMATS for suffix in module.SUFFIXES),
    *onnx.SUFFIXES,
)
"""Of files that may be a whole checkpoint of a training run by themselves."""

PART_SUFFIXES = distcp.SUFFIXES
"""Of files with weights that are never a checkpoint by themselves."""

_REFERRING: tuple[tuple[re.Pattern[str], Callable[[InputFile], list[Reference]]], ...] = tuple(
    (re.compile(names, re.DOTALL), references)
    for names, references in (
        *(
            (rf".*(?:{'|'.join(map(re.escape, suffixes))})", references)
            for suffixes, references in (
                (torch_zip.SUFFIXES, torch_zip.references),
                (torch_zip.SUFFIXES, torch_legacy.references),
                (gguf.SUFFIXES, gguf.references),
                (npy.SUFFIXES, npy.references),
                (npz.SUFFIXES, npz.references),
                (onnx.SUFFIXES, onnx.references),
            )
        ),
        (distcp.METADATA, distcp.references),
        (deepspeed.NAMES, deepspeed.references),
        (listings.NAMES, listings.references),
    )
)
_POINTER = b"version https://git-lfs.github.com/spec/"
_LOOK = 1 << 12  # bytes, at both ends


@uncollected()
def find_references(file: InputFile) -> list[Reference]:
    """What must lie beside ``file``, as far as it says so.

    Whether tensors lie where a header says is `find_spans`' to check. The name decides what
    is promised here: a file that was never filled has no content to go by.

    Raises:
        CorruptError: the file is not whole.
    """
    name = file.path.name
    if name.endswith((*WEIGHT_SUFFIXES, *PART_SUFFIXES)):
        _check_filled(file)
    return [r for names, find in _REFERRING if names.fullmatch(name) for r in find(file)]


def _check_filled(file: InputFile) -> None:
    """Raise MalformedError if there is nothing in the place of weights."""
    if file.size == 0:
        raise MalformedError("file of weights is empty", file=file.path)
    n_bytes = min(file.size, _LOOK)
    start = file.read(0, n_bytes)
    if start.startswith(_POINTER):
        raise MalformedError("pointer of Git LFS in place of weights", file=file.path)
    if not any(start) and not any(file.read(file.size - n_bytes, n_bytes)):
        raise MalformedError(
            "file of weights begins and ends with nothing but zeros", file=file.path
        )
