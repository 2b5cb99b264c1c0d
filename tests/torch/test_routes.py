"""Updates through the routes of a loader: what a fresh load of the new checkpoint gives."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsediff import UnsupportedError, UsageError, WrongBaseError, make_patch
from sparsediff.torch import iter_updates
from sparsediff.torch.recording import Route, _not_plain
from sparsediff.torch.routes import Routes, _local, describe, record
from sparsediff.torch.staged import Part
from tests.support.engine import PADDED, VOCAB, Engine, checkpoint, fresh, same, save, step

DTYPES = [
    torch.bfloat16,
    torch.float16,
    torch.float32,
    torch.float64,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.uint16,
    torch.int32,
    torch.int64,
    torch.bool,
]


def started(tensors: dict[str, torch.Tensor], path: Path, **kind: Any) -> tuple[Engine, Routes]:
    """An engine that has loaded a checkpoint, and its routes, proved."""
    save(tensors, path)
    engine = fresh(tensors, Engine(**kind))
    routes = record(engine, describe(path))
    assert routes.prove(path) > 0
    return engine, routes


@given(
    dtype=st.sampled_from(DTYPES),
    ranks=st.sampled_from([1, 2, 4]),
    tied=st.booleans(),
    shares=st.lists(st.sampled_from([0.0, 0.01, 0.3, 1.0]), min_size=1, max_size=3),
    seed=st.integers(0, 20),
)
def test_every_rank_becomes_what_a_fresh_load_gives(
    dtype: torch.dtype,
    ranks: int,
    tied: bool,
    shares: list[float],
    seed: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    place = tmp_path_factory.mktemp("routes")
    steps = [checkpoint(dtype, seed)]
    patches = []
    save(steps[0], place / "0")
    for i, share in enumerate(shares):
        steps.append(step(steps[-1], share, seed + i))
        save(steps[-1], place / str(i + 1))
        patches.append(place / f"{i}.sdiff")
        make_patch(place / str(i), place / str(i + 1), patches[-1], jobs=1)
    for rank in range(ranks):
        engine, routes = started(steps[0], place / "0", dtype=dtype, rank=rank, size=ranks)
        assert routes.unrouted == {}
        before = copy.deepcopy(engine)
        places = [p.data_ptr() for p in engine.parameters()]
        staged = routes.stage(iter_updates(patches, place / "0", jobs=1))
        assert same(engine, before)  # until it is committed
        staged.commit()
        assert same(engine, fresh(steps[-1], engine))
        routes.prove(place / str(len(shares)))
        staged.undo()
        assert same(engine, before)
        staged.commit()
        assert same(engine, fresh(steps[-1], engine))
        assert [p.data_ptr() for p in engine.parameters()] == places


@st.composite
def views(draw: st.DrawFn, sizes: list[int]) -> torch.Tensor:
    """A view of numbered words with these sizes: permuted, with gaps, not from the first on."""
    wide = [n + draw(st.sampled_from([0, 0, 2])) for n in sizes]
    order = draw(st.permutations(range(len(sizes))))
    memory = torch.arange(draw(st.integers(0, 3)) + math.prod(wide) * 2)
    steps = draw(st.sampled_from([1, 2]))
    start = draw(st.integers(0, memory.numel() - 2 * math.prod(wide)))
    laid = memory[start:][: steps * math.prod(wide) : steps].view([wide[d] for d in order])
    view = laid.permute([order.index(d) for d in range(len(sizes))])
    for d, n in enumerate(sizes):
        view = view.narrow(d, draw(st.integers(0, wide[d] - n)), n)
    return view


@pytest.mark.parametrize("sizes", [[], [4], [3, 4], [2, 1, 3, 2]], ids=str)
@given(data=st.data(), share=st.sampled_from([0.3, 1.0]), seed=st.integers(0, 99))
def test_words_go_where_a_copy_takes_them(
    sizes: list[int], data: st.DataObject, share: float, seed: int
) -> None:
    source, into = data.draw(views(sizes)), data.draw(views(sizes))
    n_words = source.untyped_storage().nbytes() // source.element_size()
    indices = torch.arange(n_words)
    memory = torch.full((into.untyped_storage().nbytes() // into.element_size(),), -1)
    memory.as_strided(into.shape, into.stride(), into.storage_offset()).copy_(source)
    assert _not_plain(into, source, source.dtype) is None
    indices = indices[torch.rand(n_words, generator=torch.manual_seed(seed)) < share]
    shape, stride = tuple(source.shape), tuple(source.stride())
    taken, at = _local(Route(shape, stride, int(source.storage_offset()), into), indices)
    expected = [(w, i) for i, w in enumerate(memory.tolist()) if w in indices]
    assert sorted(zip(indices[taken].tolist(), at.tolist(), strict=True)) == sorted(expected)


def test_copies_of_no_words_are_no_routes(tmp_path: Path) -> None:
    class Empty(Engine):
        def load_one(self, name: str, tensor: torch.Tensor) -> None:
            self.norm.data[:0].copy_(tensor.view(-1)[:0])
            self.norm.data[:0].copy_(tensor.view(-1)[:1].expand(0))
            super().load_one(name, tensor)

    before, path = checkpoint(), save(checkpoint(), tmp_path / "c")
    engine = fresh(before, Empty())
    routes = record(engine, describe(path))
    assert routes.unrouted == {}
    assert all(route.into.numel() for found in routes.found.values() for route in found)
    after = step(before, 0.3, 1)
    make_patch(path, save(after, tmp_path / "d"), tmp_path / "p")
    routes.stage(iter_updates(tmp_path / "p", path)).commit()
    assert same(engine, fresh(after, Engine()))


def test_what_is_staged_keeps_no_words_of_others(tmp_path: Path) -> None:
    path = save(checkpoint(), tmp_path / "c")
    engine = fresh(checkpoint(), Engine(rank=1, size=2))
    make_patch(path, save(step(checkpoint(), 0.3, 1), tmp_path / "d"), tmp_path / "p")
    kept: list[torch.Tensor] = []
    add = Part.add

    def added(self: Part, name: str, *words: torch.Tensor) -> None:
        kept.extend(words)
        add(self, name, *words)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Part, "add", added)
        record(engine, describe(path)).stage(iter_updates(tmp_path / "p", path))
    assert kept
    assert all(t.untyped_storage().nbytes() == t.numel() * t.element_size() for t in kept)


def test_what_the_routes_say(tmp_path: Path) -> None:
    engine, routes = started(checkpoint(), tmp_path / "c", rank=1, size=2, tied=False)
    assert routes.elsewhere == ["unused"]
    assert routes.unreached == ["head"]  # an untied copy, which the loader does not fill
    assert routes.partly == {"embed": VOCAB * 16}
    assert engine.embed.shape[0] == PADDED
    assert not routes.complete
    assert started(checkpoint(), tmp_path / "c")[1].complete
    assert len(routes.found["q_proj.weight"]) == 1
    route = routes.found["q_proj.weight"][0]
    assert (route.shape, route.offset) == ((8, 16), 8 * 16)
    assert route.into.data_ptr() == engine.qkv.data_ptr()


def test_recording_writes_nothing(tmp_path: Path) -> None:
    tensors = checkpoint()
    engine = fresh(tensors, Engine())
    engine.embed.data[VOCAB:] = 7  # which the loader would fill with 0
    before = copy.deepcopy(engine)
    record(engine, describe(save(tensors, tmp_path / "c")))
    assert same(engine, before)


Odd = Callable[[Engine, torch.Tensor], None]


def cast(engine: Engine, tensor: torch.Tensor) -> None:
    engine.norm.data.copy_(tensor.float())


def cast_before(engine: Engine, tensor: torch.Tensor) -> None:
    engine.norm.data.copy_(tensor.float().to(engine.norm.dtype))


def scaled(engine: Engine, tensor: torch.Tensor) -> None:
    engine.norm.data.copy_(tensor * 2)


def plus_one_there(engine: Engine, tensor: torch.Tensor) -> None:
    engine.norm.data.copy_(tensor)
    engine.norm.data.add_(1)


def plus_one_here(engine: Engine, tensor: torch.Tensor) -> None:
    tensor.add_(1)
    engine.norm.data.copy_(tensor)


def by_a_real_tensor(engine: Engine, tensor: torch.Tensor) -> None:
    engine.norm.data.copy_(tensor * torch.arange(16))


def by_an_own_buffer(engine: Engine, tensor: torch.Tensor) -> None:
    padded = torch.zeros(16, dtype=tensor.dtype)
    padded[:16].copy_(tensor)
    engine.norm.data.copy_(padded)


def by_item(engine: Engine, tensor: torch.Tensor) -> None:
    for i in range(16):
        engine.norm.data[i].fill_(tensor[i].item())


def by_lerp(engine: Engine, tensor: torch.Tensor) -> None:
    engine.norm.data.lerp_(tensor, 1.0)


def by_index(engine: Engine, tensor: torch.Tensor) -> None:
    engine.norm.data[torch.arange(16)] = tensor


def flipped(engine: Engine, tensor: torch.Tensor) -> None:
    engine.norm.data.copy_(tensor.flip(0))


def spread(engine: Engine, tensor: torch.Tensor) -> None:
    engine.norm.data.copy_(tensor[:1].expand(16))


def spread_by_copying(engine: Engine, tensor: torch.Tensor) -> None:
    engine.norm.data.copy_(tensor[:1])


def two_into_one(engine: Engine, tensor: torch.Tensor) -> None:
    engine.norm.data.copy_(tensor)
    engine.norm.data[3:5].copy_(tensor[:2])


def foreach(engine: Engine, tensor: torch.Tensor) -> None:
    torch._foreach_copy_([engine.norm.data], [tensor])


ODD: list[Odd] = [
    cast,
    cast_before,
    scaled,
    plus_one_there,
    plus_one_here,
    by_a_real_tensor,
    by_an_own_buffer,
    by_item,
    by_lerp,
    by_index,
    flipped,
    spread,
    spread_by_copying,
    two_into_one,
    foreach,
]


@pytest.mark.parametrize("odd", ODD, ids=lambda f: f.__name__)
def test_whatever_is_no_plain_copy_has_no_route(odd: Odd, tmp_path: Path) -> None:
    class Strange(Engine):
        def load_one(self, name: str, tensor: torch.Tensor) -> None:
            if name == "norm.weight":
                odd(self, tensor)
            else:
                super().load_one(name, tensor)

    before, path = checkpoint(), tmp_path / "c"
    save(before, path)
    engine = fresh(before, Strange())
    kept = copy.deepcopy(engine)
    routes = record(engine, describe(path))
    assert list(routes.unrouted) == ["norm.weight"]
    assert "the loader does more" in routes.unrouted["norm.weight"] or odd in (
        plus_one_there,
        two_into_one,
    )
    assert not routes.complete
    assert same(engine, kept)
    routes.prove(path)  # all the others
    after = step(before, 0.3, 1)
    make_patch(path, save(after, tmp_path / "d"), tmp_path / "p")
    with pytest.raises(UnsupportedError, match="no route") as caught:
        routes.stage(iter_updates(tmp_path / "p", path))
    assert caught.value.tensor == "norm.weight"
    assert same(engine, kept)
    fine = [u for u in iter_updates(tmp_path / "p", path) if u.name != "norm.weight"]
    routes.stage(fine).commit()
    kept.load_weights((n, t) for n, t in after.items() if n != "norm.weight")
    assert same(engine, kept)


def test_two_tensors_at_one_place_have_no_route(tmp_path: Path) -> None:
    class Twice(Engine):
        def load_one(self, name: str, tensor: torch.Tensor) -> None:
            super().load_one("k_proj.weight" if name == "v_proj.weight" else name, tensor)

    tensors = checkpoint()
    routes = record(fresh(tensors, Twice()), describe(save(tensors, tmp_path / "c")))
    assert list(routes.unrouted) == ["k_proj.weight", "v_proj.weight"]
    assert routes.partly["qkv"] == 16 * 16
    assert routes.found["q_proj.weight"]


def test_loaders_that_cannot_be_followed(tmp_path: Path) -> None:
    tensors = checkpoint()
    path = save(tensors, tmp_path / "c")

    class Replaces(Engine):
        def load_one(self, name: str, tensor: torch.Tensor) -> None:
            if name == "norm.weight":
                self.norm.data = torch.zeros(16, dtype=self.norm.dtype)
            super().load_one(name, tensor)

    class Looks(Engine):
        def load_one(self, name: str, tensor: torch.Tensor) -> None:
            tensor.float().numpy()

    engine = Replaces()
    before = engine.norm.data_ptr()
    with pytest.raises(UnsupportedError, match="replaces parameters: 'norm'"):
        record(engine, describe(path))
    assert engine.norm.data_ptr() == before
    with pytest.raises(UnsupportedError, match="cannot be followed"):
        record(Looks(), describe(path))
    with pytest.raises(UsageError, match="load_weights"):
        record(torch.nn.Linear(2, 2), describe(path))
    routes = record(torch.nn.Linear(2, 2), describe(path), load=list)
    assert routes.elsewhere == sorted(tensors)
    assert routes.unreached == ["weight", "bias"]


def test_a_parameter_repacked_with_its_shape_kept_is_found(tmp_path: Path) -> None:
    tensors, path = checkpoint(), tmp_path / "c"
    engine, routes = started(tensors, path)
    engine.experts.data[1] = engine.experts.data[1].flip(0)
    with pytest.raises(WrongBaseError, match=r"other words.*'experts\.1\.w1'$"):
        routes.prove(path)
    with pytest.raises(WrongBaseError, match="missing or not those"):
        routes.prove(save({"norm.weight": tensors["norm.weight"]}, tmp_path / "d"))


def test_nothing_is_written_over_other_words(tmp_path: Path) -> None:
    before, path = checkpoint(), tmp_path / "c"
    engine, routes = started(before, path)
    after = step(before, 0.3, 1)
    make_patch(path, save(after, tmp_path / "d"), tmp_path / "p")
    staged = routes.stage(iter_updates(tmp_path / "p", path))
    assert staged.n_words > 0
    assert set(staged.tensors) - {"scalar"} == before.keys() - {"unused", "scalar"}
    with pytest.raises(UsageError, match="not committed"):
        staged.undo()
    at = next(u for u in iter_updates(tmp_path / "p", path) if u.name == "k_proj.weight")
    engine.qkv.data.view(torch.int16).view(-1)[16 * 16 + at.indices[0]] ^= 1
    kept = copy.deepcopy(engine)
    with pytest.raises(WrongBaseError, match=r"does not hold the update's base: 'k_proj\.weight'"):
        staged.commit()
    assert same(engine, kept)
    engine.qkv.data.view(torch.int16).view(-1)[16 * 16 + at.indices[0]] ^= 1
    staged.commit()
    with pytest.raises(UsageError, match="already"):
        staged.commit()
    engine.norm.data.view(torch.int16)[:] ^= 1
    kept = copy.deepcopy(engine)
    with pytest.raises(WrongBaseError, match="what was committed"):
        staged.undo()
    assert same(engine, kept)


@pytest.mark.parametrize("fails", [0, 3])
def test_a_commit_that_fails_half_way_is_taken_back(
    fails: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sparsediff.torch import staged as module

    before, path = checkpoint(), tmp_path / "c"
    engine, routes = started(before, path)
    kept = copy.deepcopy(engine)
    make_patch(path, save(step(before, 0.3, 1), tmp_path / "d"), tmp_path / "p")
    staged = routes.stage(iter_updates(tmp_path / "p", path))
    calls, put = [0], module.Staged._put

    def failing(part: Any, words: torch.Tensor) -> None:
        put(part, words)
        calls[0] += 1
        if calls[0] == fails + 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(module.Staged, "_put", staticmethod(failing))
    with pytest.raises(KeyboardInterrupt):
        staged.commit()
    assert same(engine, kept)
    staged.commit()
    routes.prove(tmp_path / "d")


def test_routes_of_memory_that_moved_are_refused(tmp_path: Path) -> None:
    before, path = checkpoint(), tmp_path / "c"
    engine, routes = started(before, path)
    make_patch(path, save(step(before, 0.3, 1), tmp_path / "d"), tmp_path / "p")
    staged = routes.stage(iter_updates(tmp_path / "p", path))
    engine.norm.data = engine.norm.data.clone()
    for use in (
        staged.commit,
        lambda: routes.prove(path),
        lambda: routes.stage(iter_updates(tmp_path / "p", path)),
    ):
        with pytest.raises(UnsupportedError, match=r"moved since.*'norm'"):
            use()


def test_what_is_new_grows_or_is_another_tensor_is_refused(tmp_path: Path) -> None:
    before, path = checkpoint(), tmp_path / "c"
    _, routes = started(before, path)
    for change, error, words in (
        ({"more": torch.ones(3)}, UnsupportedError, "loaded without it"),
        ({"norm.weight": torch.ones(16)}, WrongBaseError, "another shape or dtype"),
        (
            {"embed.weight": torch.ones(VOCAB + 1, 16).bfloat16()},
            WrongBaseError,
            "another shape or dtype",
        ),
    ):
        make_patch(path, save(before | change, tmp_path / "d"), tmp_path / "p", force=True)
        with pytest.raises(error, match=words) as caught:
            routes.stage(iter_updates(tmp_path / "p", path))
        assert caught.value.tensor == next(iter(change))
        (tmp_path / "d").unlink()


def test_weights_of_inference_mode(tmp_path: Path) -> None:
    before, path = checkpoint(), tmp_path / "c"
    save(before, path)
    with torch.inference_mode():
        engine = fresh(before, Engine())
    make_patch(path, save(step(before, 0.3, 1), tmp_path / "d"), tmp_path / "p")
    for mode in (True, False):
        with torch.inference_mode(mode):
            routes = record(engine, describe(path))
            staged = routes.stage(iter_updates(tmp_path / "p", path))
            staged.commit()
            routes.prove(tmp_path / "d")
            staged.undo()


@pytest.mark.cuda
def test_on_a_gpu(tmp_path: Path) -> None:
    for dtype in DTYPES:
        before, path = checkpoint(dtype), tmp_path / f"{dtype}"
        after = step(before, 0.2, 1)
        save(before, path)
        engine = fresh(before, Engine(dtype)).cuda()
        routes = record(engine, describe(path))
        assert routes.complete
        routes.prove(path)
        kept = copy.deepcopy(engine)
        make_patch(path, save(after, tmp_path / f"{dtype}2"), tmp_path / "p", force=True)
        staged = routes.stage(iter_updates(tmp_path / "p", path))
        assert all(p.new.is_cuda for p in staged._parts)
        staged.commit()
        routes.prove(tmp_path / f"{dtype}2")
        assert same(engine, fresh(after, engine))
        staged.undo()
        assert same(engine, kept)
