"""What a model's loader does with a checkpoint, seen without any data moving.

Enters: shapes and dtypes; operations of PyTorch that a loader runs on tensors without
data. Leaves: which view of which tensor goes to which view of the model's memory, for
copies that are nothing else, and why the others are not. Never lets an operation change
memory that was there before.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from sparsediff.torch.tensors import extent, overlaps_itself


@dataclass(frozen=True, slots=True)
class Route:
    """One copy that the loader makes.

    Attributes:
        shape: of both views.
        stride: of the view of the checkpoint's tensor, in words.
        offset: where that view begins in the tensor, in words.
        into: the view of the model's memory that it is copied to.
    """

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    into: torch.Tensor


Described = Mapping[str, tuple[tuple[int, ...], torch.dtype]]
"""Shapes and dtypes of a checkpoint's tensors, by name."""


class Held:
    """Where the parameters and buffers of a model are."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._model = model
        self._places = {n: (t, t.data, _place(t)) for n, t in _tensors(model)}

    def moved(self) -> list[str]:
        """Names of those that are not what and where they were."""
        now = dict(_tensors(self._model))
        return sorted(
            name
            for name in now.keys() | self._places.keys()
            if name not in now
            or name not in self._places
            or now[name] is not self._places[name][0]
            or _place(now[name]) != self._places[name][2]
        )

    def put_back(self) -> list[str]:
        """As `moved`; gives those that are the same objects the memory that they had."""
        moved = self.moved()
        now = dict(_tensors(self._model))
        for name in moved:
            if name in self._places and now.get(name) is self._places[name][0]:
                now[name].data = self._places[name][1]
        return moved


def _tensors(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def _place(tensor: torch.Tensor) -> tuple[object, ...]:
    if tensor.layout is not torch.strided or tensor.is_meta:
        return (tensor.layout, tensor.shape)
    return (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())


def _key(tensor: torch.Tensor) -> int:
    """Identifies the memory of a tensor while it lives."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except NotImplementedError:  # a kind without any
        return -id(tensor)


def _tensors_in(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def _written(func: Any, args: Any, kwargs: Any) -> list[torch.Tensor]:
    """Tensors among the arguments that the operation writes to."""
    found = []
    for i, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            found += _tensors_in(args[i] if i < len(args) else kwargs.get(argument.name))
    return found


def _returned(func: Any, written: list[torch.Tensor]) -> Any:
    """What an operation gives that writes to these tensors, had it been run."""
    returns = func._schema.returns
    return None if not returns else written[0] if len(returns) == 1 else tuple(written)


def _on_meta(leaf: Any) -> Any:
    """A tensor without data in place of one that has some."""
    return leaf.to("meta") if isinstance(leaf, torch.Tensor) and not leaf.is_meta else leaf


_SAME = (torch.ops.aten._to_copy.default, torch.ops.aten.clone.default)
"""Operations that may give the same words again."""


@dataclass(frozen=True, slots=True)
class _Origin:
    """What a storage without data stands for: tensors, and what was done to them."""

    names: frozenset[str]
    done: str | None  # None for the tensor itself


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operation of the loader; lets only those happen that change nothing."""

    def __init__(self, tensors: Described) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._tensors = tensors
        self._origins: dict[int, _Origin] = {}
        self._created: set[int] = set()  # storages that did not exist before
        self._kept: list[torch.Tensor] = []  # so that no storage takes the identity of another
        self._routes: dict[str, list[Route]] = defaultdict(list)
        self._why: dict[str, str] = {}
        self._besides: list[torch.Tensor] = []  # views written with something else

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The checkpoint, without data."""
        for name, (shape, dtype) in self._tensors.items():
            tensor = torch.empty(shape, dtype=dtype, device="meta")
            self._origins[_key(tensor)] = _Origin(frozenset([name]), None)
            self._kept.append(tensor)
            yield name, tensor

    def result(self) -> tuple[dict[str, list[Route]], dict[str, str]]:
        """Routes by name, and why others have none."""
        routes = {n: found for n, found in self._routes.items() if n not in self._why}
        for name in _overlapping(routes, self._besides):
            del routes[name]
            self._why[name] = "where it goes, something else is written as well"
        return routes, self._why

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """One operation: what comes of it, without anything that was there being changed."""
        kwargs = kwargs or {}
        tensors = _tensors_in((args, kwargs))
        origins = [o for t in tensors if (o := self._origins.get(_key(t))) is not None]
        written = _written(func, args, kwargs)
        outside = [t for t in written if not t.is_meta and _key(t) not in self._created]
        name = str(func).removeprefix("aten.").split(".")[0]
        if outside:
            if func is torch.ops.aten.copy_.default:
                self._note(args[0], args[1])
            else:
                self._refuse(origins, name)
                self._besides += outside
            return _returned(func, written)
        if not origins:
            return self._keep(func(*args, **kwargs), tensors)
        if func is torch.ops.aten._local_scalar_dense.default:
            self._refuse(origins, "item")
            return 0.0 if tensors[0].is_floating_point() else 0
        if any(not t.is_meta for t in written):  # memory of the loader's own, which stays as it is
            result = _returned(func, written)
        else:
            to_meta = {"device": torch.device("meta")} if "device" in kwargs else {}
            result = func(*tree_map(_on_meta, args), **(tree_map(_on_meta, kwargs) | to_meta))
            if func in _SAME and (tensors[0].dtype, tensors[0].stride()) == (
                result.dtype,
                result.stride(),
            ):
                return tensors[0].detach()  # at most on another device
        names = frozenset(n for o in origins for n in o.names)
        for tensor in [*_tensors_in(result), *written]:
            if _key(tensor) not in self._origins or any(tensor is w for w in written):
                self._origins[_key(tensor)] = _Origin(names, name)
                self._kept.append(tensor)
        return result

    def _keep(self, result: Any, tensors: list[torch.Tensor]) -> Any:
        """A result without words of the checkpoint; memory that is new may be written to."""
        known = {_key(t) for t in tensors}
        for tensor in _tensors_in(result):
            if _key(tensor) not in known:
                self._created.add(_key(tensor))
                self._kept.append(tensor)
        return result

    def _refuse(self, origins: Iterable[_Origin], done: str) -> None:
        for origin in origins:
            for name in origin.names:
                self._why.setdefault(name, f"the loader does more than copy it: {done}")

    def _note(self, into: torch.Tensor, source: torch.Tensor) -> None:
        """A copy to the model's memory."""
        if not into.numel():
            return  # as where a rank has no rows
        origin = self._origins.get(_key(source))
        if origin is None:
            self._besides.append(into)
            return
        if origin.done is not None:
            self._refuse([origin], origin.done)
            self._besides.append(into)
            return
        (name,) = origin.names
        why = _not_plain(into, source, self._tensors[name][1])
        if why is not None:
            self._why.setdefault(name, f"the loader does more than copy it: {why}")
            self._besides.append(into)
            return
        shape, stride = tuple(source.shape), tuple(source.stride())
        route = Route(shape, stride, int(source.storage_offset()), into.detach())
        if not any(_same(route, other) for other in self._routes[name]):
            self._routes[name].append(route)


def _same(a: Route, b: Route) -> bool:
    return (a.shape, a.stride, a.offset, _place(a.into)) == (
        b.shape,
        b.stride,
        b.offset,
        _place(b.into),
    )


def _not_plain(into: torch.Tensor, source: torch.Tensor, dtype: torch.dtype) -> str | None:
    """Why a copy is more than one word here for one word there; None if it is not."""
    if into.dtype != source.dtype or source.element_size() != dtype.itemsize:
        return f"from {source.dtype!s} to {into.dtype!s}".replace("torch.", "")
    if into.shape != source.shape:
        return f"from {list(source.shape)} to {list(into.shape)}"
    if into.is_complex() or into.layout is not torch.strided or into.is_quantized:
        return "to a tensor of a kind that is not words"
    if overlaps_itself(into) or not _nested(source):
        return "a word goes to several places"
    return None


def _nested(view: torch.Tensor) -> bool:
    """Whether position in a view and position in memory follow from each other by division."""
    reach = 1
    for stride, size in sorted(zip(view.stride(), view.shape, strict=True)):
        if size > 1:
            if stride < reach:
                return False
            reach = stride * size
    return True


def _overlapping(routes: dict[str, list[Route]], besides: list[torch.Tensor]) -> set[str]:
    """Names of tensors with a route whose memory, first to last byte, another one has as well."""
    extents = [(*extent(r.into), name) for name, found in routes.items() for r in found]
    extents += [(*extent(t), "") for t in besides if t.numel() and t.layout is torch.strided]
    found: set[str] = set()
    reach = ("", -1, "")  # device, end and name of what reaches furthest so far
    for device, begin, end, name in sorted(extents):
        if device == reach[0] and begin < reach[1]:
            found |= {name, reach[2]}
        if device != reach[0] or end > reach[1]:
            reach = device, end, name
    return found - {""}
