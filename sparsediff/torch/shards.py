"""Which words of which tensor each rank holds.

Enters: state dicts of tensors that are whole, or in shards (DTensor: FSDP2, tensor parallelism
and both), one per rank. Leaves: the tensors of the whole model, and for any run of rows of one
who sends which block of it to whom. Looks at places only; the words are copied by `exchange`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch.distributed.tensor import DTensor

from sparsediff.checkpoint.memory import MemoryTensor
from sparsediff.dtypes import DTYPES
from sparsediff.errors import UnsupportedError, UsageError
from sparsediff.torch.tensors import StateDict, checked, dtype_of, identity, shape_of, words_of


@dataclass(frozen=True, slots=True)
class Block:
    """A box of a tensor's words: where it begins and how long it is, by dimension."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]

    @property
    def n_words(self) -> int:
        """How many words it holds."""
        return math.prod(self.sizes)

    @property
    def slices(self) -> tuple[slice, ...]:
        """The box as an index."""
        return tuple(slice(o, o + n) for o, n in zip(self.offsets, self.sizes, strict=True))


@dataclass(frozen=True, slots=True)
class Held:
    """What a rank says of one of its tensors.

    Attributes:
        name: in its state dict.
        dtype: as safetensors calls it.
        shape: of the whole tensor, as safetensors counts it.
        words: shape of the whole tensor's words.
        block: what this rank has of them.
        same_as: another name of the same memory, None if this is the first.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    words: tuple[int, ...]
    block: Block
    same_as: str | None


def describe(state_dict: StateDict) -> tuple[list[Held], dict[str, torch.Tensor]]:
    """What this rank holds: descriptions, and the words of each block by name.

    Raises:
        UnsupportedError: an entry is no tensor with ordinary memory, nor in shards of such;
            or its shards are still to be summed up.
    """
    held: list[Held] = []
    words: dict[str, torch.Tensor] = {}
    first: dict[tuple[object, ...], str] = {}
    for name, entry in state_dict.items():
        local, shape, offsets = _local(name, entry)
        own = words_of(local)
        extra = tuple(own.shape[local.dim() :])  # complex numbers are two words
        block = Block((*offsets, *(0 for _ in extra)), tuple(own.shape))
        same = first.setdefault(identity(local), name) if local.numel() else name
        words[name] = own
        held.append(
            Held(
                name,
                dtype_of(name, local).name,
                shape_of(entry),
                (*shape, *extra),
                block,
                None if same == name else same,
            )
        )
    return held, words


def _local(name: str, entry: object) -> tuple[torch.Tensor, tuple[int, ...], tuple[int, ...]]:
    """This rank's shard of a tensor, the whole shape, and where the shard begins."""
    if not isinstance(entry, DTensor):
        tensor = checked(name, entry)
        return tensor, tuple(tensor.shape), (0,) * tensor.dim()
    if any(p.is_partial() for p in entry.placements):
        raise UnsupportedError(
            "its shards are still to be summed up; redistribute it first",
            tensor=name,
            found=entry.placements,
        )
    local = checked(name, entry.to_local().detach())
    # What torch.distributed.checkpoint asks for as well.
    chunks = entry.__create_chunk_list__()  # type: ignore[no-untyped-call]
    if not chunks or local.numel() == 0:
        return local, tuple(entry.shape), (0,) * entry.dim()
    if len(chunks) != 1 or tuple(chunks[0].sizes) != tuple(local.shape):
        raise UnsupportedError(
            "its shard is not one block of it; redistribute it first",
            tensor=name,
            found=entry.placements,
        )
    return local, tuple(entry.shape), tuple(chunks[0].offsets)


@dataclass(slots=True)
class WholeTensor:
    """A tensor of the model.

    Attributes:
        dtype: as safetensors calls it.
        shape: as safetensors counts it.
        words: shape of its words.
        holders: for each block of it, the ranks that have it, ascending.
        block_of: for each rank that has one, its block.
    """

    dtype: str
    shape: tuple[int, ...]
    words: tuple[int, ...]
    holders: dict[Block, list[int]] = field(default_factory=lambda: defaultdict(list))
    block_of: dict[int, Block] = field(default_factory=dict)

    @property
    def row_dimension(self) -> int:
        """The first dimension that is longer than 1: its rows follow one another in memory."""
        return next((d for d, n in enumerate(self.words) if n > 1), max(0, len(self.words) - 1))

    @property
    def row_words(self) -> int:
        """Words of a row."""
        return math.prod(self.words[self.row_dimension + 1 :])

    @property
    def word_bytes(self) -> int:
        """Bytes of a word."""
        return DTYPES[self.dtype].word_bytes

    def in_memory(self) -> MemoryTensor:
        """The tensor as a checkpoint in memory describes it; not to be read."""

        def read(offset: int, buffer: object) -> None:
            raise AssertionError("words of shards are read by bucket")

        return MemoryTensor(DTYPES[self.dtype], self.shape, read)

    def senders(self, receiver: int) -> Iterator[tuple[int, Block]]:
        """Every block once, and who sends it: the receiver itself where it can."""
        for block, ranks in self.holders.items():
            yield (receiver if receiver in ranks else ranks[0]), block

    def block_sent(self, sender: int, receiver: int) -> Block | None:
        """The block that one rank sends to another, None if it sends it nothing."""
        block = self.block_of.get(sender)
        if block is None or receiver in self.holders[block] or self.holders[block][0] != sender:
            return None
        return block


def assemble(by_rank: Sequence[list[Held]]) -> dict[str, WholeTensor]:
    """The tensors of the model, by name, from what every rank holds.

    Of names that are the same memory on every rank that has them the first stands for all.

    Raises:
        UsageError: ranks disagree about a tensor, or some of its words are on none of them.
    """
    found: dict[str, WholeTensor] = {}
    names_of: dict[str, set[str | None]] = defaultdict(set)
    for rank, held in enumerate(by_rank):
        for h in held:
            whole = found.setdefault(h.name, WholeTensor(h.dtype, h.shape, h.words))
            if (whole.dtype, whole.shape) != (h.dtype, h.shape):
                raise UsageError(
                    f"rank {rank} has another dtype or shape than ranks before it",
                    tensor=h.name,
                    expected=f"{whole.dtype} {list(whole.shape)}",
                    found=f"{h.dtype} {list(h.shape)}",
                )
            if h.block.n_words:
                whole.holders[h.block].append(rank)
                whole.block_of[rank] = h.block
                names_of[h.name].add(h.same_as)
    for name, whole in found.items():
        n_words = sum(block.n_words for block in whole.holders)
        if n_words != math.prod(whole.words):
            raise UsageError(
                "the ranks do not hold every word of it once",
                tensor=name,
                expected=f"{math.prod(whole.words)} words",
                found=f"{n_words} in {len(whole.holders)} blocks",
            )
    tied = {name for name, same in names_of.items() if len(same) == 1 and None not in same}
    return {name: whole for name, whole in found.items() if name not in tied}


@dataclass(frozen=True, slots=True)
class Rows:
    """A run of rows of a tensor: all that is needed for a run of its words.

    Attributes:
        tensor: whose rows.
        start: first row.
        stop: the row after the last.
    """

    tensor: WholeTensor
    start: int
    stop: int

    @classmethod
    def around(cls, tensor: WholeTensor, start: int, n_words: int) -> Rows:
        """The rows that the ``n_words`` words from ``start`` on lie in."""
        row = tensor.row_words
        return cls(tensor, start // row, -(-(start + n_words) // row))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of these rows, all dimensions before them left out."""
        return (self.stop - self.start, *self.tensor.words[self.tensor.row_dimension + 1 :])

    def part_of(self, block: Block) -> Block | None:
        """What a block has of them, counted from their start; None if nothing."""
        d = self.tensor.row_dimension
        if not block.sizes:
            return Block((0,), (1,))
        start = max(self.start, block.offsets[d])
        stop = min(self.stop, block.offsets[d] + block.sizes[d])
        if start >= stop:
            return None
        return Block(
            (start - self.start, *block.offsets[d + 1 :]), (stop - start, *block.sizes[d + 1 :])
        )

    def taken_from(self, words: torch.Tensor, block: Block) -> torch.Tensor:
        """These rows of the words of a block."""
        d = self.tensor.row_dimension
        part = self.part_of(block)
        assert part is not None
        rows = words.reshape(words.shape[d:] if words.dim() else (1,))
        begin = part.offsets[0] + self.start - (block.offsets[d] if block.offsets else 0)
        return rows[begin : begin + part.sizes[0]]
