"""An update of a model's memory that is ready to be written.

Enters: positions in storages, new words and old. Leaves: the same memory with the new
words, all of them, or as it was. Reads before it writes: what is replaced is what the
update was made for.
"""

from __future__ import annotations

import contextlib
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch

from sparsediff.errors import UsageError, WrongBaseError
from sparsediff.torch.tensors import listed


@dataclass(slots=True)
class Part:
    """What is to be written to one storage."""

    flat: torch.Tensor
    tensors: list[tuple[str, int]] = field(default_factory=list)  # name, words up to its end
    pieces: list[tuple[torch.Tensor, ...]] = field(default_factory=list)
    at: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    new: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    base: torch.Tensor = field(default_factory=lambda: torch.empty(0))

    def add(self, name: str, at: torch.Tensor, new: torch.Tensor, base: torch.Tensor) -> None:
        """Words of one tensor."""
        end = (self.tensors[-1][1] if self.tensors else 0) + at.numel()
        self.tensors.append((name, end))
        self.pieces.append((at, new, base))

    def load(self) -> None:
        """Join what was added, on the device; `wait` before it is used."""
        device = self.flat.device
        joined = [torch.cat(pieces) for pieces in zip(*self.pieces, strict=True)]
        self.pieces = []
        if device.type == "cuda":
            joined = [t.pin_memory().to(device, non_blocking=True) for t in joined]
        else:
            joined = [t.to(device) for t in joined]
        self.at, self.new, self.base = joined

    def differing(self, words: torch.Tensor, expected: torch.Tensor) -> list[str]:
        """Names of the tensors of which ``words`` are not as expected."""
        wrong = (words != expected).nonzero().view(-1).tolist()
        ends = [end for _, end in self.tensors]
        return sorted({self.tensors[bisect_right(ends, i)][0] for i in wrong})


def wait(device: torch.device) -> None:
    """Until a device has done what it was given; one that is the host has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextlib.contextmanager
def _writing(flat: torch.Tensor) -> Iterator[None]:
    with torch.no_grad(), torch.inference_mode(flat.is_inference()):
        yield


class Staged:
    """An update of a model's memory that is ready to be written.

    Attributes:
        n_words: to be written, of all tensors.
        n_bytes: that it holds on the model's devices: positions, and new words and old.
        tensors: names of the tensors that change here, sorted.
        committed: whether the new words are the ones in place.
    """

    def __init__(self, parts: list[Part], check: Callable[[], None]) -> None:
        self._parts, self._check = parts, check
        self.committed = False
        self.n_words = sum(p.at.numel() for p in parts)
        self.n_bytes = sum(
            t.numel() * t.element_size() for p in parts for t in (p.at, p.new, p.base)
        )
        self.tensors = sorted({name for p in parts for name, _ in p.tensors})

    def commit(self) -> None:
        """Write the new words, after it is shown that the old ones are there.

        Nothing should compute with the weights meanwhile. If anything fails, what was written
        is taken back. When it returns, the devices have done it.

        Raises:
            UsageError: it is committed already.
            WrongBaseError: the model does not hold the base; nothing was written.
            UnsupportedError: the model's memory has moved; nothing was written.
        """
        if self.committed:
            raise UsageError("this update is committed already")
        self._swap(lambda p: p.base, lambda p: p.new, "the update's base")
        self.committed = True

    def undo(self) -> None:
        """Put the old words back, after it is shown that the new ones are there.

        Raises:
            UsageError: it is not committed.
            WrongBaseError: something else was written meanwhile; nothing is changed.
            UnsupportedError: the model's memory has moved.
        """
        if not self.committed:
            raise UsageError("this update is not committed")
        self._swap(lambda p: p.new, lambda p: p.base, "what was committed")
        self.committed = False

    def _swap(
        self,
        old: Callable[[Part], torch.Tensor],
        new: Callable[[Part], torch.Tensor],
        what: str,
    ) -> None:
        self._check()
        bad: set[str] = set()
        for part in self._parts:
            there = part.flat.index_select(0, part.at)
            if not torch.equal(there, old(part)):
                bad.update(part.differing(there, old(part)))
        if bad:
            raise WrongBaseError(f"the model does not hold {what}: {listed(sorted(bad))}")
        written: list[Part] = []
        try:
            for part in self._parts:
                written.append(part)
                self._put(part, new(part))
            for device in {p.flat.device for p in self._parts}:
                wait(device)
        except BaseException as e:
            failed = 0
            for part in reversed(written):
                try:
                    self._put(part, old(part))
                except Exception:  # a dead device, say: the rest may still be saved
                    failed += 1
            if failed:
                e.add_note(f"{failed} of {len(written)} parts could not be taken back")
            raise

    @staticmethod
    def _put(part: Part, words: torch.Tensor) -> None:
        with _writing(part.flat):
            part.flat.index_copy_(0, part.at, words)
