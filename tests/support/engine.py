"""A model that loads as inference engines do: fused, split over ranks, tied, and odd."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import save_file

HEADS, HIDDEN, INNER, VOCAB, PADDED = 4, 16, 24, 40, 48

Weights = Iterable[tuple[str, torch.Tensor]]


def random_words(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> torch.Tensor:
    """A tensor of any words, NaN payloads and infinities among them."""
    generator = torch.Generator().manual_seed(seed)
    n_bytes = dtype.itemsize
    for side in shape:
        n_bytes *= side
    if dtype is torch.bool:
        return torch.randint(0, 2, shape, generator=generator).bool()
    words = torch.randint(0, 256, (n_bytes,), generator=generator, dtype=torch.uint8)
    return words.view(dtype).view(shape)


def checkpoint(dtype: torch.dtype = torch.bfloat16, seed: int = 0) -> dict[str, torch.Tensor]:
    """Tensors as a trainer names them."""
    shapes: dict[str, tuple[int, ...]] = {"embed.weight": (VOCAB, HIDDEN), "norm.weight": (HIDDEN,)}
    for name in "qkv":
        shapes[f"{name}_proj.weight"] = (HIDDEN, HIDDEN)
    shapes |= {
        "o_proj.weight": (HIDDEN, HIDDEN),
        "gate_proj.weight": (INNER, HIDDEN),
        "up_proj.weight": (INNER, HIDDEN),
        "down_proj.weight": (HIDDEN, INNER),
        "experts.0.w1": (INNER, HIDDEN),
        "experts.1.w1": (INNER, HIDDEN),
        "scalar": (),
        "unused": (3,),
    }
    return {n: random_words(s, dtype, seed + i) for i, (n, s) in enumerate(shapes.items())}


def step(before: dict[str, torch.Tensor], share: float, seed: int) -> dict[str, torch.Tensor]:
    """About this share of the words, but for those of ``unused``, replaced by any others."""
    generator = torch.Generator().manual_seed(seed)
    after = {}
    for i, (name, tensor) in enumerate(before.items()):
        other = random_words(tuple(tensor.shape), tensor.dtype, seed + 100 + i)
        chosen = torch.rand(tensor.shape, generator=generator) < share
        bits = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.itemsize]
        mixed = torch.where(chosen, other.view(bits), tensor.view(bits))
        after[name] = mixed.view(tensor.dtype)
    return after


def save(tensors: dict[str, torch.Tensor], path: Path) -> Path:
    """A checkpoint of one file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)
    return path


class Engine(torch.nn.Module):
    """One rank of a model whose parameters have names and shapes of their own.

    Args:
        dtype: of all parameters.
        rank: of how many, ``size``.
        size: ranks that rows or columns are split over.
        tied: whether the head is the embedding.
    """

    def __init__(
        self, dtype: torch.dtype = torch.bfloat16, rank: int = 0, size: int = 1, tied: bool = True
    ) -> None:
        super().__init__()
        self.rank, self.size = rank, size

        def new(*shape: int) -> torch.nn.Parameter:
            return torch.nn.Parameter(torch.zeros(shape, dtype=dtype), requires_grad=False)

        self.embed = new(PADDED, HIDDEN)
        self.head = self.embed if tied else new(PADDED, HIDDEN)
        self.norm = new(HIDDEN)
        self.qkv = new(3 * HIDDEN // size, HIDDEN)
        self.o = new(HIDDEN, HIDDEN // size)
        self.gate_up = new(2 * INNER // size, HIDDEN)
        self.down = new(HIDDEN, INNER // size)
        self.experts = new(2, HIDDEN, INNER)  # transposed
        self.scale = new(1)
        self.register_buffer("rotary", torch.ones(4), persistent=False)

    def load_weights(self, weights: Weights) -> set[str]:
        """As in engines: narrow, then copy."""
        seen = set()
        for name, tensor in weights:
            self.load_one(name, tensor)
            seen.add(name)
        return seen

    def load_one(self, name: str, tensor: torch.Tensor) -> None:
        """One tensor of the checkpoint."""
        parts = {"q_proj.weight": 0, "k_proj.weight": 1, "v_proj.weight": 2}
        if name in parts:
            self.rows(self.qkv.data, parts[name], tensor)
        elif name in ("gate_proj.weight", "up_proj.weight"):
            self.rows(self.gate_up.data, int(name == "up_proj.weight"), tensor)
        elif name == "embed.weight":
            assert tensor.shape == (VOCAB, HIDDEN)
            self.embed[:VOCAB].data.copy_(tensor)
            self.embed[VOCAB:].data.fill_(0)
        elif name == "norm.weight":
            self.norm.data.copy_(tensor)
        elif name in ("o_proj.weight", "down_proj.weight"):
            own = self.o if name == "o_proj.weight" else self.down
            width = own.shape[1]
            own.data.copy_(tensor.narrow(1, self.rank * width, width))
        elif name.startswith("experts."):
            self.experts.data[int(name.split(".")[1])].copy_(tensor.t())
        elif name == "scalar":
            self.scale.data.copy_(tensor.reshape(1))

    def rows(self, fused: torch.Tensor, part: int, tensor: torch.Tensor) -> None:
        """One of several tensors that lie below each other in a parameter."""
        height = tensor.shape[0] // self.size
        own = fused.narrow(0, part * height, height)
        own.copy_(tensor.narrow(0, self.rank * height, height).to(own.device))


def fresh(tensors: dict[str, torch.Tensor], like: Engine) -> Engine:
    """An engine of the same kind, loaded the ordinary way."""
    tied = like.head is like.embed
    engine = type(like)(like.norm.dtype, like.rank, like.size, tied)
    engine.load_weights(tensors.items())
    return engine


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    """Whether two models hold the same words."""
    return all(
        torch.equal(x.cpu().view(torch.uint8), y.cpu().view(torch.uint8))
        for x, y in zip(a.parameters(), b.parameters(), strict=True)
    )
