"""Where each word of a checkpoint lands in a model whose loader fuses, splits or renames.

Enters: a model with the engine's own ``load_weights``; names, shapes and dtypes of a
checkpoint; later checkpoints and updates. Leaves: `Routes`, learned from one call of that
loader with tensors that hold no data; updates staged as positions in the model's own
memory; and a commit that does nothing but write them. Whatever the loader does that is
not a plain copy leaves that tensor without a route: nothing is ever guessed.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from sparsediff.checkpoint import open_checkpoint
from sparsediff.errors import UnsupportedError, UsageError, WrongBaseError, printable
from sparsediff.torch.iterate import TensorUpdate
from sparsediff.torch.recording import Described, Held, Recorder, Route
from sparsediff.torch.staged import Part, Staged, wait
from sparsediff.torch.tensors import (
    dtype_in_torch,
    extent,
    listed,
    words_of,
)

Load = Callable[[Iterable[tuple[str, torch.Tensor]]], object]
"""The engine's loader: takes names and tensors of a checkpoint."""

_PROVED_AT_ONCE = 1 << 26  # bytes


def describe(checkpoint: Path | str) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Shapes and dtypes of a checkpoint's tensors as PyTorch counts them, for `record`.

    Raises:
        UsageError: there is no checkpoint.
        CorruptError: it violates its format.
        UnsupportedError: PyTorch has no such dtype, or two files hold tensors of one name.
    """
    found: dict[str, tuple[tuple[int, ...], torch.dtype]] = {}
    for file in open_checkpoint(checkpoint).files:
        for span in file.spans:
            if span.is_all_of(file.source.size):
                continue
            if span.name in found:
                raise UnsupportedError("two files hold a tensor of this name", tensor=span.name)
            dtype = dtype_in_torch(span.dtype.name, span.name)
            shape = span.shape
            if span.dtype.bits == 4 and shape:  # PyTorch counts pairs
                shape = (*shape[:-1], shape[-1] // 2)
            found[span.name] = shape, dtype
    return found


def record(model: torch.nn.Module, tensors: Described, *, load: Load | None = None) -> Routes:
    """Call the model's own loader once, without data, and note what it copies where.

    The loader gets tensors of the device ``meta``. No word of the model is written: what the
    loader would write is noted and left undone, whatever operation it uses. The weights
    should be those of a checkpoint with these tensors, as `Routes.prove` can show.

    Args:
        model: as the engine holds it; everything that this process has of it.
        tensors: shapes and dtypes of the checkpoint's tensors by name, as `describe` gives.
        load: the loader; default the model's ``load_weights``.

    Returns:
        The routes, and which tensors have none. `Routes.unrouted` says why.

    Raises:
        UsageError: there is no loader.
        UnsupportedError: the loader cannot be called without data, or replaces the
            parameters instead of writing to them.
    """
    load = load or getattr(model, "load_weights", None)
    if load is None:
        raise UsageError("the model has no load_weights; name its loader with `load`")
    held = Held(model)
    recorder = Recorder(tensors)
    try:
        inference = any(t.is_inference() for t in model.parameters())
        with torch.no_grad(), torch.inference_mode(inference), recorder:
            load(recorder.weights())
    except Exception as e:
        raise UnsupportedError(
            f"the model's loader cannot be followed: {type(e).__name__}: {printable(str(e))}"
        ) from e
    finally:
        moved = held.put_back()
    if moved:
        raise UnsupportedError(f"the model's loader replaces parameters: {listed(moved)}")
    return Routes(model, dict(tensors), *recorder.result(), held)


class Routes:
    """Where the words of a checkpoint's tensors are in a model.

    Attributes:
        found: routes by the tensor's name, for tensors that have some here.
        unrouted: names of tensors that the loader does more with than copying, and what.
        elsewhere: names of tensors that the loader leaves alone: of another rank, or a copy
            of a tied one. A fresh start leaves them alone as well.
        unreached: names of parameters to which no tensor goes. They stay what they are; if
            they were made from the checkpoint by other means, such as an untied copy of a
            head, they get stale.
        partly: words that tensors go to, by name of the parameter, where that is not all: the
            rest is padding as a rule.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        tensors: Described,
        found: dict[str, list[Route]],
        unrouted: dict[str, str],
        held: Held,
    ) -> None:
        self._tensors, self._held = tensors, held
        self.found = found
        self.unrouted = dict(sorted(unrouted.items()))
        self.elsewhere = sorted(tensors.keys() - found.keys() - unrouted.keys())
        self.unreached: list[str] = []
        self.partly: dict[str, int] = {}
        self._cover(model)

    def _cover(self, model: torch.nn.Module) -> None:
        extents = [(*extent(r.into), r.into.numel()) for rs in self.found.values() for r in rs]
        starts = sorted(extents)
        for name, tensor in model.named_parameters():
            if not tensor.numel() or tensor.is_meta or tensor.layout is not torch.strided:
                continue
            device, begin, end = extent(tensor)
            at = bisect_left(starts, (device, begin))
            n_words = 0
            while at < len(starts) and starts[at][0] == device and starts[at][1] < end:
                n_words += starts[at][3]
                at += 1
            if n_words == 0:
                self.unreached.append(name)
            elif n_words < tensor.numel():
                self.partly[name] = n_words

    @property
    def complete(self) -> bool:
        """Whether every tensor that goes here has a route and no parameter is without one."""
        return not self.unrouted and not self.unreached

    def check(self) -> None:
        """See whether parameters and buffers are where they were.

        Raises:
            UnsupportedError: some are not, after a reload for one; record again.
        """
        if moved := self._held.moved():
            raise UnsupportedError(
                f"the model's memory has moved since its routes were recorded: {listed(moved)}"
            )

    def prove(self, checkpoint: Path | str) -> int:
        """Compare every word that has a route with a checkpoint's; returns how many.

        Words are compared, not values: NaN equals itself. It finds parameters that an engine
        repacked after loading them, even where their shape is the same.

        Raises:
            WrongBaseError: words differ, or tensors of the checkpoint are missing or others;
                names the tensors.
            UnsupportedError: the model's memory has moved.
            SparsediffError: as `open_checkpoint` does.
        """
        self.check()
        there = describe(checkpoint)
        odd = sorted(n for n in self.found if there.get(n) != self._tensors[n])
        if odd:
            raise WrongBaseError(
                f"tensors are missing or not those the routes are of: {listed(odd)}",
                file=checkpoint,
            )
        n_words, bad = 0, []
        for file in open_checkpoint(checkpoint).files:
            for span in file.spans:
                if span.name not in self.found or not span.nbytes:
                    continue
                data = torch.empty(span.nbytes, dtype=torch.uint8)
                file.source.read_into(span.offset, data.numpy())
                found = self.found[span.name]
                if not all(_holds(route, data) for route in found):
                    bad.append(span.name)
                n_words += sum(route.into.numel() for route in found)
        if bad:
            raise WrongBaseError(
                f"the model holds other words than the checkpoint, of {listed(bad)}",
                file=checkpoint,
            )
        return n_words

    def stage(self, updates: Iterable[TensorUpdate]) -> Staged:
        """Make updates ready to be written: everything that needs no pause.

        Args:
            updates: from the checkpoint that the model holds, as `iter_updates` gives them.

        Raises:
            UnsupportedError: a tensor has no route, is new or grows, or the model's memory
                has moved.
            WrongBaseError: a tensor has another shape or dtype here.
            SparsediffError: as taking the updates does.
        """
        self.check()
        parts: dict[tuple[object, ...], Part] = {}
        for update in updates:
            self._check_update(update)
            for route in self.found.get(update.name, ()):
                taken, at = _local(route, update.indices)
                if at.numel():
                    flat = _flat(route.into)
                    key = (str(flat.device), flat.data_ptr(), flat.element_size())
                    part = parts.setdefault(key, Part(flat))
                    # Copies: a view would keep all words of the tensor until the last is staged.
                    words, base = update.words[taken].clone(), update.base_words[taken].clone()
                    part.add(update.name, at, words, base)
        for part in parts.values():
            part.load()
        for device in {p.flat.device for p in parts.values()}:
            wait(device)
        return Staged(list(parts.values()), self.check)

    def _check_update(self, update: TensorUpdate) -> None:
        if update.name not in self._tensors:
            raise UnsupportedError("the model was loaded without it", tensor=update.name)
        if update.name in self.unrouted:
            raise UnsupportedError(
                f"has no route: {self.unrouted[update.name]}", tensor=update.name
            )
        shape, dtype = self._tensors[update.name]
        if update.dtype != dtype or update.n_words != _numel(shape):
            raise WrongBaseError(
                "has another shape or dtype",
                tensor=update.name,
                expected=f"{dtype} {list(shape)}",
                found=f"{update.dtype} {list(update.shape)}",
            )
        if update.n_based != update.n_words:
            raise UnsupportedError("is new or grows", tensor=update.name)


def _numel(shape: tuple[int, ...]) -> int:
    n = 1
    for side in shape:
        n *= side
    return n


def _flat(view: torch.Tensor) -> torch.Tensor:
    """All words of the memory that a view is of; in-place changes are noticed by autograd."""
    words = words_of(view)
    n_words = words.untyped_storage().nbytes() // words.element_size()
    return words.as_strided((n_words,), (1,), 0)


def _holds(route: Route, data: torch.Tensor) -> bool:
    """Whether the model has these words of the checkpoint's tensor."""
    live = words_of(route.into)
    there = data.view(live.dtype).as_strided(route.shape, route.stride, route.offset)
    if not route.shape:
        return torch.equal(live.cpu(), there)
    rows = max(1, _PROVED_AT_ONCE * route.shape[0] // max(live.numel() * live.element_size(), 1))
    return all(
        torch.equal(live[at : at + rows], there[at : at + rows].to(live.device))
        for at in range(0, route.shape[0], rows)
    )


def _local(route: Route, indices: torch.Tensor) -> tuple[torch.Tensor | slice, torch.Tensor]:
    """Which of the positions in the checkpoint's tensor a route takes, and to where in memory.

    Returns:
        Positions in ``indices``, perhaps as a slice; and for each the position in the storage, in
        words.
    """
    dims = _joined(zip(route.shape, route.stride, route.into.stride(), strict=True))
    last = route.offset + sum((size - 1) * stride for size, stride, _ in dims)
    begin, end = torch.searchsorted(indices, torch.tensor([route.offset, last + 1])).tolist()
    left = indices[begin:end] - route.offset
    first = int(route.into.storage_offset())
    if len(dims) == 1 and dims[0][1:] == (1, 1):  # no word between the others: nothing to divide
        return slice(begin, end), left + first
    at = torch.full_like(left, first)
    here = torch.ones_like(left, dtype=torch.bool)
    for size, stride, into in dims:
        step = torch.div(left, stride, rounding_mode="floor")
        here &= step < size
        left -= step * stride
        at += step * into
    here &= left == 0
    return begin + here.nonzero().view(-1), at[here]


def _joined(dims: Iterable[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Dimensions (size, stride there, stride here), the widest stride first, as few as will do."""
    found: list[tuple[int, int, int]] = []
    for size, there, here in sorted(dims, key=lambda d: -d[1]):
        if size == 1:
            continue
        if found and found[-1][1:] == (size * there, size * here):
            size *= found.pop()[0]
        found.append((size, there, here))
    return found
