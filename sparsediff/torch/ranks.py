"""The processes that hold a model together, and bytes between them.

Enters: a process group of torch.distributed, or none. Leaves: what every rank knows, messages
of bytes, and one error everywhere where one rank has one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist

from sparsediff.errors import SparsediffError, UnavailableError, os_errors

T = TypeVar("T")
Bytes = npt.NDArray[np.uint8]

_MESSAGE_BYTES = 1 << 26  # of one message of a stream


class Ranks:
    """The processes of a group.

    Attributes:
        rank: of this one.
        size: how many there are.
    """

    def __init__(self, group: dist.ProcessGroup | None) -> None:
        """Know the group.

        Args:
            group: None for all processes, or this one alone where there is no distribution.
        """
        self._group = group
        self._alone = not (dist.is_available() and dist.is_initialized())
        self.rank = 0 if self._alone else dist.get_rank(group)
        self.size = 1 if self._alone else dist.get_world_size(group)
        self._device = torch.device("cpu")
        if not self._alone and "gloo" not in str(dist.get_backend(group)):
            self._device = torch.device("cuda", torch.cuda.current_device())

    def gather(self, value: T) -> list[T]:
        """The value of every rank, on every rank; for small ones.

        Raises:
            UnavailableError: a rank is gone.
        """
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        with _lost_ranks():
            dist.all_gather_object(found, value, group=self._group)
        return found

    @contextmanager
    def together(self) -> Iterator[None]:
        """What one rank fails in, all fail in. Inside, no rank may wait for another.

        Raises:
            BaseException: as `agree` does.
        """
        error: Exception | None = None
        try:
            with os_errors("temporary directory"):
                yield
        except Exception as e:
            error = e
        self.agree(error)

    def agree(self, error: BaseException | None) -> None:
        """Go on only if no rank has an error.

        Args:
            error: of this rank, or None.

        Raises:
            BaseException: ``error``.
            SparsediffError: like the one of another rank.
        """
        told = None if error is None else _told(error)
        errors = self.gather(told)
        if error is not None:
            raise error
        for rank, other in enumerate(errors):
            if other is not None:
                kind, problem = other
                raise kind(f"rank {rank} failed: {problem}")

    def exchange(self, sent: dict[int, Bytes], received: dict[int, int]) -> dict[int, Bytes]:
        """Send bytes to some ranks while others send some.

        Args:
            sent: by the rank they go to.
            received: how many bytes come, by the rank they come from.

        Raises:
            UnavailableError: a rank is gone.
        """
        found = {
            rank: torch.empty(n, dtype=torch.uint8, device=self._device)
            for rank, n in received.items()
        }
        out = {rank: torch.from_numpy(data).to(self._device) for rank, data in sent.items()}
        calls = [
            dist.P2POp(dist.irecv, data, group=self._group, group_peer=rank)
            for rank, data in found.items()
        ] + [
            dist.P2POp(dist.isend, data, group=self._group, group_peer=rank)
            for rank, data in out.items()
        ]
        with _lost_ranks():
            for call in dist.batch_isend_irecv(calls) if calls else ():
                call.wait()
        return {rank: data.cpu().numpy() for rank, data in found.items()}

    def streams(self, chunks: Iterable[bytes], n_bytes: int) -> Iterator[Iterable[bytes]]:
        """On the first rank, what each rank sends, one after the other; elsewhere nothing.

        Args:
            chunks: what this rank sends, in pieces of any size.
            n_bytes: how many bytes they are.

        Raises:
            UnavailableError: a rank is gone.
        """
        sizes = self.gather(n_bytes)
        if self.rank != 0:
            for message in _cut(chunks):
                self.exchange({0: message}, {})
            return
        yield chunks
        for rank in range(1, self.size):
            yield self._stream(rank, sizes[rank])

    def _stream(self, rank: int, n_bytes: int) -> Iterator[bytes]:
        while n_bytes:
            n = min(n_bytes, _MESSAGE_BYTES)
            yield self.exchange({}, {rank: n})[rank].tobytes()
            n_bytes -= n


def _cut(chunks: Iterable[bytes]) -> Iterator[Bytes]:
    """Chunks joined and cut into messages that are full but for the last."""
    held = bytearray()
    for chunk in chunks:
        held += chunk
        while len(held) >= _MESSAGE_BYTES:
            yield np.frombuffer(held[:_MESSAGE_BYTES], np.uint8)
            del held[:_MESSAGE_BYTES]
    if held:
        yield np.frombuffer(held, np.uint8)


def _told(error: BaseException) -> tuple[type[SparsediffError], str]:
    """What other ranks are told of an error."""
    if isinstance(error, SparsediffError):
        return type(error), str(error)
    return UnavailableError, f"{type(error).__name__}: {error}"


@contextmanager
def _lost_ranks() -> Iterator[None]:
    """Turn what torch.distributed raises when a rank is gone into an error of ours."""
    try:
        yield
    except RuntimeError as e:
        raise UnavailableError(
            "a rank is gone, or did not answer in time", found=str(e).splitlines()[0]
        ) from e
