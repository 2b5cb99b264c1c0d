"""Tensors in memory as a checkpoint, without writing them anywhere.

Enters: tensors that can be read piece by piece. Leaves: a `Checkpoint` of the one
safetensors file that the format's own library would write of them, byte for byte.
Holds the header, never the tensors: their bytes are fetched when somebody reads them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sparsediff.checkpoint import Checkpoint, CheckpointFile
from sparsediff.checkpoint.formats import Span, safetensors
from sparsediff.dtypes import DTYPES, DType
from sparsediff.errors import UnavailableError, UnsupportedError

_NAMES = {
    "bool": "BOOL",
    "complex64": "C64",
    "float4_e2m1fn_x2": "F4",
    "bfloat16": "BF16",
    "float16": "F16",
    "float32": "F32",
    "float64": "F64",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2": "F8_E5M2",
    "float8_e5m2fnuz": "F8_E5M2FNUZ",
    "float8_e8m0fnu": "F8_E8M0",
} | {
    f"{kind}int{bits}": f"{kind or 'i'}{bits}".upper()
    for kind in ("", "u")
    for bits in (8, 16, 32, 64)
}


def dtype_named(name: str, tensor: str) -> DType:
    """The element type that NumPy, ml_dtypes and PyTorch call ``name``.

    Raises:
        UnsupportedError: safetensors has no such type; names the ``tensor``.
    """
    if name not in _NAMES:
        raise UnsupportedError("safetensors has no such dtype", tensor=tensor, found=name)
    return DTYPES[_NAMES[name]]


def name_elsewhere(dtype: str) -> str | None:
    """What NumPy, ml_dtypes and PyTorch call an element type of safetensors, if they have it."""
    return next((name for name, own in _NAMES.items() if own == dtype), None)


@dataclass(frozen=True, slots=True)
class MemoryTensor:
    """A tensor in memory.

    Attributes:
        dtype: element type.
        shape: sizes, C order, as safetensors counts them.
        read: fills a byte buffer with the tensor's bytes, C order, from an offset in bytes.
        version: a number that changes when the tensor does; constant if nobody counts.
    """

    dtype: DType
    shape: tuple[int, ...]
    read: Callable[[int, Any], None]
    version: Callable[[], int] = int

    @property
    def n_words(self) -> int:
        """Length in words."""
        return (self.dtype.n_bytes(self.shape) or 0) // self.dtype.word_bytes


def bytes_of(buffer: Any) -> npt.NDArray[np.uint8]:
    """Any contiguous buffer as an array of its bytes."""
    return np.asarray(memoryview(buffer).cast("B"))


def from_array(name: str, array: npt.NDArray[Any]) -> MemoryTensor:
    """A NumPy array as a `MemoryTensor`; copied only if it is not contiguous.

    Raises:
        UnsupportedError: safetensors has no such dtype.
    """
    dtype = dtype_named(array.dtype.name, name)
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("<"))
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)

    def read(offset: int, buffer: Any) -> None:
        out = bytes_of(buffer)
        out[:] = flat[offset : offset + out.size]

    return MemoryTensor(dtype, array.shape, read)


Tensors = Mapping[str, "MemoryTensor | npt.NDArray[Any]"]
"""Tensors by name; those of PyTorch go through `sparsediff.torch.in_memory`."""


def in_memory(tensors: Tensors) -> dict[str, MemoryTensor]:
    """All of ``tensors`` as `MemoryTensor`.

    Raises:
        UnsupportedError: safetensors has no place for a dtype or a name.
    """
    safetensors.check_names(tensors)
    return {
        name: t if isinstance(t, MemoryTensor) else from_array(name, t)
        for name, t in tensors.items()
    }


class MemoryFile:
    """The safetensors file that tensors would be written to."""

    def __init__(
        self, tensors: Mapping[str, MemoryTensor], path: Path, metadata: Mapping[str, str] | None
    ) -> None:
        self.path = path
        self._header, self.spans = safetensors.compose(
            ((name, t.dtype, t.shape) for name, t in tensors.items()), metadata
        )
        self._tensors = [tensors[span.name] for span in self.spans]
        self._starts = [0, *(span.offset for span in self.spans)]
        self._versions = [t.version() for t in self._tensors]
        last = self.spans[-1] if self.spans else Span("", DTYPES["U8"], (), len(self._header), 0)
        self.size = last.offset + last.nbytes

    def read_into(self, offset: int, buffer: Any) -> None:
        """Fill ``buffer`` (a writable byte buffer) from ``offset``."""
        out = bytes_of(buffer)
        while out.size:
            part = bisect_right(self._starts, offset) - 1  # the last that starts here: not empty
            skip = offset - self._starts[part]
            if part == 0:
                n = min(len(self._header) - skip, out.size)
                out[:n] = np.frombuffer(self._header, np.uint8, n, skip)
            else:
                n = min(self.spans[part - 1].nbytes - skip, out.size)
                self._tensors[part - 1].read(skip, out[:n])
            out, offset = out[n:], offset + n

    def read(self, offset: int, size: int) -> bytes:
        """Read ``size`` bytes from ``offset``."""
        buffer = bytearray(size)
        self.read_into(offset, buffer)
        return bytes(buffer)

    def check_unchanged(self) -> None:
        """Raise UnavailableError if a tensor changed since this was made."""
        for span, tensor, version in zip(self.spans, self._tensors, self._versions, strict=True):
            if tensor.version() != version:
                raise UnavailableError(
                    "tensor changed while it was read; try again", file=self.path, tensor=span.name
                )


def memory_checkpoint(
    tensors: Tensors, metadata: Mapping[str, str] | None = None, name: str = "<memory>"
) -> Checkpoint:
    """A checkpoint of the one file that ``safetensors.torch.save_file`` would write.

    Args:
        tensors: by name.
        metadata: of the file; ``{"format": "pt"}`` is usual.
        name: what messages call it.

    Raises:
        UnsupportedError: safetensors has no place for a dtype, a name or the metadata.
    """
    file = MemoryFile(in_memory(tensors), Path(name), metadata)
    return Checkpoint(file.path, False, [CheckpointFile("", file, file.spans)])
