"""The processes that hold a model together, and bytes between them.

Enters: a process group of torch.distributed, or none. Leaves: what every rank knows, messages
of bytes, and one error everywhere where one rank has one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import Any, BinaryIO, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist

from sparsediff.errors import SparsediffError, UnavailableError, UsageError, os_errors

T = TypeVar("T")
Bytes = npt.NDArray[np.uint8]
Sink = Callable[[int, Bytes], None]

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

        Raises:
            UsageError: torchrun began this process among others, but none knows of them.
        """
        self._group = group
        self._alone = not (dist.is_available() and dist.is_initialized())
        if self._alone and dist.is_available() and dist.is_torchelastic_launched():
            raise UsageError(
                "torchrun began this process, and there is no process group: call"
                " torch.distributed.init_process_group first"
            )
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
        errors: list[Exception] = []
        with _noted(errors):
            yield
        self.agree(errors[0] if errors else None)

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

    def to_first(self, value: T) -> list[T] | None:
        """The value of every rank, on the first one; None on the others.

        Raises:
            UnavailableError: a rank is gone.
        """
        if self.size == 1:
            return [value]
        found: list[Any] | None = [None] * self.size if self.rank == 0 else None
        first = 0 if self._group is None else dist.get_global_rank(self._group, 0)
        with _lost_ranks():
            dist.gather_object(value, found, dst=first, group=self._group)
        return found

    def ready(self, sent: dict[int, Bytes], received: dict[int, int]) -> Exchange:
        """Make ready to send bytes to some ranks while others send some; waits for nobody.

        Args:
            sent: by the rank they go to.
            received: how many bytes come, by the rank they come from.
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
        return Exchange(calls, found)

    def bring(self, source: BinaryIO, sizes: Sequence[int], sink: Sink | None) -> None:
        """Bring bytes of every rank to the first, one rank after the other; all must call this.

        Whoever cannot read or write goes on with something else, so that nobody waits for it,
        and in the end the error is that of all.

        Args:
            source: what this rank gives.
            sizes: how many bytes each rank gives.
            sink: takes them, on the first rank, with the offset of each piece.

        Raises:
            UnavailableError: a rank is gone.
            BaseException: as `agree` does.
        """
        errors: list[Exception] = []
        ends = list(accumulate(sizes))
        for rank, end in enumerate(ends):
            for start in range(end - sizes[rank], end, _MESSAGE_BYTES):
                n = min(end - start, _MESSAGE_BYTES)
                data = np.zeros(n, np.uint8)
                if rank == self.rank:
                    with _noted(errors):
                        data[:] = np.frombuffer(source.read(n), np.uint8)
                if rank not in (0, self.rank) and self.rank != 0:
                    continue
                if rank != 0:
                    here = self.rank == 0
                    message = self.ready({} if here else {0: data}, {rank: n} if here else {})
                    message.run()
                    data = message.received(rank) if here else data
                if sink is not None and not errors:
                    with _noted(errors):
                        sink(start, data)
        self.agree(errors[0] if errors else None)


class Exchange:
    """Bytes that are ready to be sent, and room for those that come."""

    def __init__(self, calls: list[dist.P2POp], found: dict[int, torch.Tensor]) -> None:
        self._calls, self._found = calls, found

    def run(self) -> None:
        """Send and receive; every rank that takes part must call this.

        Raises:
            UnavailableError: a rank is gone.
        """
        with _lost_ranks():
            for call in dist.batch_isend_irecv(self._calls) if self._calls else ():
                call.wait()

    def received(self, rank: int) -> Bytes:
        """What came from a rank."""
        data: Bytes = self._found[rank].cpu().numpy()
        return data


@contextmanager
def _noted(errors: list[Exception]) -> Iterator[None]:
    """Note an error instead of raising it."""
    try:
        with os_errors("temporary directory"):
            yield
    except Exception as e:
        errors.append(e)


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
