"""File formats: where the tensors of a file lie, and what else belongs to it.

Enters: a file. Leaves: its spans, in file order, without overlap, inside the
file. Whatever no span covers is skeleton and travels byte for byte, so a
format module cannot break exactness, only sparsity. Or: the files that it names and
that must lie beside it, or the error that says it is not whole itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple

from sparsediff.checkpoint.formats import opaque, safetensors
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
    "load_all",
]

MAX_SKELETON_BYTES = 1 << 27
"""Skeletons are carried whole; `sparsediff.patch.manifest` has the same limit."""


class Format(NamedTuple):
    """A row of the table of formats.

    Attributes:
        module: its module here, which is loaded for a file that may be of the format. It has
            ``looks_like``, whether the first bytes are those of the format, and ``find_spans``:
            spans by offset, None if the module does not understand the file; it raises a
            MalformedError if the file contradicts itself.
        suffixes: a broken file of such a name is an error; of another name it is just bytes.
        mark: bytes among the first `_START` of every file that ``looks_like`` it.
    """

    module: str
    suffixes: tuple[str, ...]
    mark: bytes

    def load(self) -> Any:
        """Its module."""
        return _loaded(self.module)


_START = 32
_ZIP = b"PK\x03\x04"
_FORMATS = (
    Format("safetensors", (".safetensors",), b"{"),
    Format("torch_zip", (".pt", ".pth", ".bin", ".ckpt", ".jit", ".pt.tar", ".pth.tar"), _ZIP),
    # Of two formats nothing is refused: of one too little can be checked, of one too little read.
    Format("torch_legacy", (), b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"),
    Format("gguf", (".gguf",), b"GGUF"),
    Format("npy", (".npy",), b"\x93NUMPY"),
    Format("npz", (".npz",), _ZIP),
    Format("hdf5", (), b"\x89HDF\r\n\x1a\n"),
)
_SUFFIXES = {row.module: row.suffixes for row in _FORMATS} | {"onnx": (".onnx",)}
_MAX_DEPTH = 3  # of archives in archives


def _loaded(module: str) -> Any:
    return import_module(f"{__name__}.{module}")


def load_all() -> None:
    """Load all formats, for who looks for spans when something is begun already.

    While a module is loaded, a program cannot clean up after an interrupt.
    """
    for row in _FORMATS:
        row.load()
    _loaded("archives")
    _referring()


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
    start = file.read(0, min(file.size, _START))
    for row in _FORMATS:
        claimed = depth == 0 and file.path.name.endswith(row.suffixes)
        if not (claimed or (row.mark in start and row.load().looks_like(file))):
            continue
        try:
            spans: list[Span] | None = row.load().find_spans(file)
        except CorruptError:
            if claimed:
                raise
            continue
        if spans is not None and _can_travel(file, spans):
            return spans
    if depth < _MAX_DEPTH and (_ZIP in start or _loaded("tars").looks_like(file)):
        with suppress(CorruptError):
            spans = _loaded("archives").find_spans(
                file, lambda member: _find_spans(member, depth + 1)
            )
            if spans is not None and _can_travel(file, spans):
                return spans
    return opaque.find_spans(file)


def have_same_spans(file: InputFile, other: Readable) -> bool:
    """Whether it is certain, without looking for spans, that two files have the same."""
    return (
        isinstance(other, InputFile)
        and all(f.path.name.endswith(_SUFFIXES["safetensors"]) for f in (file, other))
        and safetensors.have_same_spans(file, other)
    )


def _can_travel(file: Input, spans: Sequence[Span]) -> bool:
    """Whether the skeleton that ``spans`` leave is small enough."""
    return file.size - sum(s.nbytes for s in spans) <= MAX_SKELETON_BYTES


WEIGHT_SUFFIXES = tuple(suffix for suffixes in _SUFFIXES.values() for suffix in suffixes)
"""Of files that may be a whole checkpoint of a training run by themselves."""

PART_SUFFIXES = (".distcp",)
"""Of files with weights that are never a checkpoint by themselves."""

_References = Callable[[InputFile], list[Reference]]


@cache
def _referring() -> list[tuple[re.Pattern[str], _References]]:
    """Patterns of the names of files that say what lies beside them, and what reads that."""

    def rows() -> Iterator[tuple[str, _References]]:
        for module in ("torch_zip", "torch_legacy", "gguf", "npy", "npz", "onnx"):
            suffixes = _SUFFIXES[module] or _SUFFIXES["torch_zip"]
            yield rf".*(?:{'|'.join(map(re.escape, suffixes))})", _loaded(module).references
        for module in ("distcp", "deepspeed", "listings"):
            yield _loaded(module).NAMES, _loaded(module).references

    return [(re.compile(names, re.DOTALL), references) for names, references in rows()]


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
    return [r for names, find in _referring() if names.fullmatch(name) for r in find(file)]


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
