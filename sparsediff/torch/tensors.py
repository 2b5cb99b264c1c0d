"""Tensors as the words of their elements, wherever they are.

Enters: PyTorch tensors. Leaves: integer views that share their memory, and
`MemoryTensor` for the rest of the package. Refuses what has no plain memory of its own.
Never looks at a value as a number, so every bit pattern stays what it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from sparsediff.checkpoint.memory import MemoryTensor, bytes_of, dtype_named, name_elsewhere
from sparsediff.dtypes import DType
from sparsediff.errors import UnsupportedError, printable

StateDict = Mapping[str, Any]
"""Tensors by name; entries that are no tensors are refused where one is needed."""

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def checked(name: str, tensor: object) -> torch.Tensor:
    """Return ``tensor`` if it is one with ordinary memory.

    Raises:
        UnsupportedError: it is no tensor, on ``meta``, sparse, quantised, distributed or
            another subclass that keeps its elements elsewhere; names it.
    """

    def refused(what: str, found: object) -> UnsupportedError:
        return UnsupportedError(
            f"cannot be read or changed in place: {what}", tensor=name, found=found
        )

    if not isinstance(tensor, torch.Tensor):
        raise refused("not a tensor", type(tensor).__name__)
    if type(tensor).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__:
        raise refused("a kind of tensor that stands for others", type(tensor).__name__)
    if tensor.is_meta:
        raise refused("a tensor without data", "device meta")
    if tensor.is_quantized:
        raise refused("a quantised tensor", tensor.dtype)
    if tensor.layout is not torch.strided:
        raise refused("not a strided tensor", tensor.layout)
    if tensor.is_conj() or tensor.is_neg():
        raise refused("a view that stands for other values", "a conjugate or negative view")
    return tensor


def words_of(tensor: torch.Tensor) -> torch.Tensor:
    """Integer view of a tensor's words: the same memory, strides and version counter.

    Complex tensors get one more dimension, of 2.
    """
    plain = tensor.detach()
    if plain.is_complex():
        plain = torch.view_as_real(plain)
    return plain.view(_INTEGERS[plain.element_size()])


def dtype_of(name: str, tensor: torch.Tensor) -> DType:
    """Element type of a tensor.

    Raises:
        UnsupportedError: safetensors has no such type.
    """
    return dtype_named(str(tensor.dtype).removeprefix("torch."), name)


def dtype_in_torch(name: str, tensor: str) -> torch.dtype:
    """PyTorch's element type for what safetensors calls ``name``.

    Raises:
        UnsupportedError: PyTorch has none; names the ``tensor``.
    """
    own = getattr(torch, name_elsewhere(name) or "", None)
    if not isinstance(own, torch.dtype):
        raise UnsupportedError("PyTorch has no such dtype", tensor=tensor, found=name)
    return own


def overlaps_itself(tensor: torch.Tensor) -> bool:
    """Whether two elements may lie at one place; so it is in what `expand` returns."""
    reach = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and stride < reach:
            return tensor.numel() > 0
        reach += stride * max(size - 1, 0)
    return False


def held_by(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters and persistent buffers of a module, each under all of its names."""
    yield from module.named_parameters(remove_duplicate=False)
    for prefix, part in module.named_modules(remove_duplicate=False):
        for name, buffer in part.named_buffers(recurse=False, remove_duplicate=False):
            if name not in part._non_persistent_buffers_set:
                yield f"{prefix}.{name}" if prefix else name, buffer


def extent(tensor: torch.Tensor) -> tuple[str, int, int]:
    """Device of a tensor, its first byte there, and the end of its last."""
    last = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    begin = tensor.data_ptr()
    return str(tensor.device), begin, begin + (last + 1) * tensor.element_size()


def listed(names: list[str]) -> str:
    """The first few of ``names``, and how many there are."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(f"'{printable(name)}'" for name in names[:5]) + more


def shape_of(tensor: torch.Tensor) -> tuple[int, ...]:
    """Shape as safetensors counts it; also of a DTensor, whole."""
    shape = tuple(tensor.shape)
    packed = str(tensor.dtype) == "torch.float4_e2m1fn_x2"  # pairs, of which the numbers count
    return (*shape[:-1], 2 * shape[-1]) if packed and shape else shape


def identity(tensor: torch.Tensor) -> tuple[object, ...]:
    """Equal for two tensors that are the same elements of the same memory."""
    return (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())


def in_memory(state_dict: StateDict) -> dict[str, MemoryTensor]:
    """The tensors of a state dict, as `sparsediff.iter_updates` takes them.

    Contiguous tensors on the CPU are read where they are; others of the CPU are copied
    now; those of other devices are copied piece by piece when they are read.

    Raises:
        UnsupportedError: an entry is no tensor with ordinary memory.
    """
    return {name: _in_memory(name, checked(name, t)) for name, t in state_dict.items()}


def _in_memory(name: str, tensor: torch.Tensor) -> MemoryTensor:
    words = words_of(tensor).contiguous()
    flat = words.as_strided((words.numel(),), (1,)).view(
        torch.uint8
    )  # one word may have any stride
    on_cpu = flat.numpy() if _on_host(flat) else None

    def read(offset: int, buffer: Any) -> None:
        out = bytes_of(buffer)
        if on_cpu is not None:
            out[:] = on_cpu[offset : offset + out.size]
        else:
            out[:] = flat[offset : offset + out.size].cpu().numpy()

    def version() -> int:
        return 0 if tensor.is_inference() else int(tensor._version)

    return MemoryTensor(dtype_of(name, tensor), shape_of(tensor), read, version)


def _on_host(tensor: torch.Tensor) -> bool:
    """Whether NumPy can read the tensor where it is."""
    return tensor.device.type == "cpu"
