"""Live tensors: changed in place bit for bit or not at all; patches made where tensors are."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save, save_file

import sparsediff
from sparsediff import CorruptError, UnsupportedError, UsageError, WrongBaseError
from sparsediff import torch as live
from sparsediff.checkpoint import open_checkpoint
from sparsediff.checkpoint.memory import memory_checkpoint
from tests.support.pairs import tree

State = dict[str, torch.Tensor]
apply_live = live.apply_to_state_dict

NAMES = (
    "bool uint8 int8 int16 uint16 int32 uint32 int64 uint64 float16 bfloat16 float32 float64 "
    "complex64 float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz float8_e8m0fnu "
    "float4_e2m1fn_x2"
)
DTYPES = [getattr(torch, name) for name in NAMES.split() if hasattr(torch, name)]


def bits(tensor: torch.Tensor) -> bytes:
    """Every byte of a tensor, C order."""
    return bytes(live.tensors.words_of(tensor).numpy().tobytes())


def content(state: State) -> dict[str, bytes]:
    return {name: bits(t) for name, t in state.items()}


def random_bits(dtype: torch.dtype, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """Any bit pattern at all: NaN payloads, infinities, both zeros."""
    n = torch.empty(shape, dtype=dtype).numel() * torch.empty((), dtype=dtype).element_size()
    data = np.random.default_rng(seed).integers(0, 256, n, dtype=np.uint8)
    if dtype == torch.bool:
        data &= 1
    return (
        torch.from_numpy(data).view(dtype).reshape(shape) if n else torch.empty(shape, dtype=dtype)
    )


def changed(tensor: torch.Tensor, share: float, seed: int) -> torch.Tensor:
    """A copy in which about this share of the words is different."""
    result = tensor.clone()
    words = live.tensors.words_of(result).view(-1)
    at = torch.from_numpy(np.flatnonzero(np.random.default_rng(seed).random(words.numel()) < share))
    words[at] ^= 1
    return result


def clones(state: State) -> State:
    return {name: t.clone() for name, t in state.items()}


@pytest.fixture
def pair() -> tuple[State, State]:
    """Tensors of every dtype before and after; a float with NaN payloads and signed zeros."""
    before = {str(d): random_bits(d, (64, 48), i) for i, d in enumerate(DTYPES)}
    before["scalar"] = torch.tensor(1.5)
    before["empty"] = torch.zeros(0, 3)
    zeros = torch.zeros(100)
    before["zeros"] = zeros
    after = {name: changed(t, 0.03, i) for i, (name, t) in enumerate(before.items())}
    after["scalar"] = torch.tensor(-1.5)
    after["zeros"] = -zeros
    return before, after


@pytest.fixture
def patch(pair: tuple[State, State], tmp_path: Path) -> Path:
    live.make_patch(*pair, tmp_path / "p.sdiff")
    return tmp_path / "p.sdiff"


def test_a_state_dict_is_the_file_that_save_file_writes(
    pair: tuple[State, State], tmp_path: Path
) -> None:
    odd = {'ünï\n"\\\x1f': torch.ones(3), "z": torch.ones(1, dtype=torch.uint8)}
    none: State = {}
    for state in (*pair, odd, {"x": torch.ones(2)}, none):
        # Metadata without tensors: what the library writes then is no JSON.
        for metadata in (None, {"format": "pt"}, {}) if state else (None,):
            save_file(state, tmp_path / "f.safetensors", metadata=metadata)
            checkpoint = memory_checkpoint(live.in_memory(state), metadata)
            (file,) = checkpoint.files
            written = (tmp_path / "f.safetensors").read_bytes()
            assert file.source.read(0, file.source.size) == written
            assert file.spans == open_checkpoint(tmp_path / "f.safetensors").files[0].spans


def test_a_patch_from_memory_is_the_patch_from_files(
    pair: tuple[State, State], patch: Path, tmp_path: Path
) -> None:
    a, b = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_file(pair[0], a)
    save_file(pair[1], b)
    sparsediff.make_patch(a, b, tmp_path / "files.sdiff")
    assert (tmp_path / "files.sdiff").read_bytes() == patch.read_bytes()
    live.make_patch(a, pair[1], tmp_path / "mixed.sdiff")
    assert (tmp_path / "mixed.sdiff").read_bytes() == patch.read_bytes()
    sparsediff.apply_patch(a, patch, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == b.read_bytes()


def test_every_dtype_changes_in_place(pair: tuple[State, State], patch: Path) -> None:
    state = clones(pair[0])
    places = {name: (t, t.data_ptr()) for name, t in state.items()}
    result = apply_live(patch, state, verify_result=True)
    assert content(state) == content(pair[1])
    assert all(state[n] is t and t.data_ptr() == p for n, (t, p) in places.items())
    assert set(result.changed) == {n for n in state if bits(pair[0][n]) != bits(pair[1][n])}


def test_tensors_that_numpy_cannot_read(
    pair: tuple[State, State], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way of other devices, walked on this one."""
    monkeypatch.setattr(live.tensors, "_on_host", lambda tensor: False)
    live.make_patch(*pair, tmp_path / "p.sdiff")
    state = clones(pair[0])
    apply_live(tmp_path / "p.sdiff", state, verify_result=True)
    assert content(state) == content(pair[1])


@given(
    dtype=st.sampled_from(DTYPES),
    sizes=st.lists(st.integers(0, 40), max_size=3),
    share=st.sampled_from([0.0, 0.01, 0.3, 1.0]),
    strided=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_shape_density_and_layout(
    dtype: torch.dtype,
    sizes: list[int],
    share: float,
    strided: bool,
    seed: int,
    tmp_path_factory: Any,
) -> None:
    shape = tuple(sizes) or (1,)
    before = random_bits(dtype, shape, seed)
    after = changed(before, share, seed + 1)
    path = tmp_path_factory.mktemp("p") / "p.sdiff"
    live.make_patch({"x": before}, {"x": after}, path)
    tensor = before.clone()
    if strided:  # the same values, laid out backwards and with holes
        room = random_bits(dtype, (*shape[::-1], 2), seed)
        tensor = room[..., 1].permute(*range(len(shape) - 1, -1, -1))
        live.tensors.words_of(tensor).copy_(live.tensors.words_of(before))
        assert bits(tensor) == bits(before)
    apply_live(path, {"x": tensor})
    assert bits(tensor) == bits(after)


def test_neighbours_of_a_view_stay(tmp_path: Path) -> None:
    storage = torch.arange(100.0)
    view = storage[10:90:2]
    after = view.clone()
    after[3] = -0.0
    live.make_patch({"x": view}, {"x": after}, tmp_path / "p.sdiff")
    apply_live(tmp_path / "p.sdiff", {"x": view})
    expected = torch.arange(100.0)
    expected[16] = -0.0
    assert bits(storage) == bits(expected)


def test_parameters_keep_their_gradient_and_autograd_notices(tmp_path: Path) -> None:
    module = torch.nn.Linear(8, 8)
    after = {n: t.detach() + 1 for n, t in module.state_dict().items()}
    live.make_patch(module.state_dict(), after, tmp_path / "p.sdiff")
    x = torch.ones(1, 8, requires_grad=True)
    loss = (module(x) ** 2).sum()
    module.weight.grad = torch.ones(8, 8)
    version = module.weight._version
    live.apply_to_module(tmp_path / "p.sdiff", module)
    assert content(dict(module.state_dict())) == content(after)
    assert module.weight.requires_grad
    assert module.weight.grad is not None
    assert module.weight._version > version
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_inference_tensors(tmp_path: Path) -> None:
    with torch.inference_mode():
        state = {"x": torch.arange(10.0)}
    live.make_patch(state, {"x": torch.arange(10.0) + 1}, tmp_path / "p.sdiff")
    apply_live(tmp_path / "p.sdiff", state)
    assert state["x"].tolist() == (torch.arange(10.0) + 1).tolist()
    plain = {"x": torch.arange(10.0)}
    with torch.inference_mode():
        apply_live(tmp_path / "p.sdiff", plain)
    assert plain["x"].tolist() == state["x"].tolist()


def test_tied_weights(tmp_path: Path) -> None:
    """Both names in the patch or one of them; conflicting words are refused."""
    before = {"embed": torch.randn(50, 20), "other": torch.randn(50)}
    before["head"] = before["embed"]
    after = {n: changed(t, 0.1, 5) for n, t in before.items()}
    after["head"] = after["embed"]
    for untie in (False, True):
        a, b = (clones(before), clones(after)) if untie else (before, after)
        live.make_patch(a, b, tmp_path / "p.sdiff", force=True)
        with sparsediff.open_patch(tmp_path / "p.sdiff") as opened:
            assert len(opened.manifest.tensors) == (3 if untie else 2)
        state = copy.deepcopy(before)
        assert state["head"] is state["embed"]
        apply_live(tmp_path / "p.sdiff", state)
        assert content(state) == content(after)
    for conflict in (after["head"] + 1, before["head"]):
        b = clones(after) | {"head": conflict}
        live.make_patch(clones(before), b, tmp_path / "p.sdiff", force=True)
        state = copy.deepcopy(before)
        with pytest.raises(UnsupportedError, match="names that share memory"):
            apply_live(tmp_path / "p.sdiff", state)
        assert content(state) == content(before)


def test_a_transposed_tie(tmp_path: Path) -> None:
    before = torch.randn(30, 20)
    after = changed(before, 0.1, 1)
    live.make_patch({"w": before, "t": before.T}, {"w": after, "t": after.T}, tmp_path / "p.sdiff")
    apply_live(tmp_path / "p.sdiff", {"w": before, "t": before.T})
    assert bits(before) == bits(after)


def test_a_sharded_directory_and_names_of_ones_own(tmp_path: Path) -> None:
    from tests.support.pairs import model_directory

    a, b = model_directory(tmp_path / "a"), model_directory(tmp_path / "b", lr=1e-4)
    sparsediff.make_patch(a, b, tmp_path / "p.sdiff")
    state = {
        f"engine.{name}": t for f in a.glob("*.safetensors") for name, t in load_file(f).items()
    }
    extra = state["buffer"] = torch.ones(3)
    with pytest.warns(UserWarning, match="'buffer'"):
        apply_live(tmp_path / "p.sdiff", state, rename=lambda name: f"engine.{name}")
    target = {n: t for f in b.glob("*.safetensors") for n, t in load_file(f).items()}
    assert content({n: state[f"engine.{n}"] for n in target}) == content(target)
    assert extra.tolist() == [1, 1, 1]
    live.make_patch(a, target, tmp_path / "to_state.sdiff", metadata={"format": "pt"})
    sparsediff.apply_patch(a, tmp_path / "to_state.sdiff", tmp_path / "out.safetensors")
    assert (tmp_path / "out.safetensors").read_bytes() == save(target, {"format": "pt"})


Damage = Callable[[State, Path], Any]


def _flip(state: State, patch: Path) -> None:
    live.tensors.words_of(state["torch.bfloat16"]).view(-1)[7] ^= 1


def _truncate(state: State, patch: Path) -> None:
    patch.write_bytes(patch.read_bytes()[:-10])


def _damage(state: State, patch: Path) -> None:
    data = bytearray(patch.read_bytes())
    data[-5] ^= 1
    patch.write_bytes(data)


def _take(state: State, patch: Path) -> None:
    del state["torch.int8"]


def _widen(state: State, patch: Path) -> None:
    state["torch.bfloat16"] = state["torch.bfloat16"].float()


def _reshape(state: State, patch: Path) -> None:
    state["torch.int8"] = state["torch.int8"].reshape(48, 64)


def _meta(state: State, patch: Path) -> None:
    state["torch.int8"] = state["torch.int8"].to("meta")


def _sparse(state: State, patch: Path) -> None:
    state["torch.float32"] = torch.eye(64, 48).to_sparse()


def _expand(state: State, patch: Path) -> None:
    state["torch.float32"] = torch.zeros(1, 48).expand(64, 48)


def _quantise(state: State, patch: Path) -> None:
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode():
        state["torch.float32"] = torch.zeros(64, 48)


def _object(state: Any, patch: Path) -> None:
    state["torch.int8"] = b"extra state"


@pytest.mark.parametrize(
    ("harm", "error", "named"),
    [
        (_flip, WrongBaseError, "torch.bfloat16"),
        (_truncate, CorruptError, None),
        (_damage, CorruptError, None),
        (_take, WrongBaseError, "torch.int8"),
        (_widen, WrongBaseError, "torch.bfloat16"),
        (_reshape, WrongBaseError, "torch.int8"),
        (_meta, UnsupportedError, "torch.int8"),
        (_sparse, UnsupportedError, "torch.float32"),
        (_expand, UnsupportedError, "torch.float32"),
        (_quantise, UnsupportedError, "torch.float32"),
        (_object, UnsupportedError, "torch.int8"),
    ],
)
@pytest.mark.parametrize("verify_base", [True, False])
def test_refusals_leave_everything_as_it_was(
    harm: Damage,
    error: type[sparsediff.SparsediffError],
    named: str | None,
    verify_base: bool,
    pair: tuple[State, State],
    patch: Path,
) -> None:
    state = clones(pair[0])
    harm(state, patch)
    ordinary = {
        n: t
        for n, t in state.items()
        if type(t) is torch.Tensor and t.layout is torch.strided and not t.is_meta
    }
    before = content(ordinary)
    with pytest.raises(error) as caught:
        apply_live(patch, state, verify_base=verify_base)
    assert caught.value.tensor == named
    assert "\n" not in str(caught.value)
    assert content(ordinary) == before


def test_what_is_left_alone_is_checked_on_request(tmp_path: Path) -> None:
    before = {"a": torch.zeros(10), "b": torch.zeros(10, dtype=torch.bfloat16)}
    live.make_patch(before, before | {"b": before["b"] + 1}, tmp_path / "p.sdiff")
    other = clones(before)
    other["a"][0] = 1
    with pytest.raises(WrongBaseError, match="'a'"):
        apply_live(tmp_path / "p.sdiff", other)
    apply_live(tmp_path / "p.sdiff", other, verify_base=False)
    assert other["b"].tolist() == [1] * 10


def test_new_and_grown_tensors_and_doubled_names_are_refused(tmp_path: Path) -> None:
    before = {"a": torch.zeros(10, 4)}
    for after in ({"a": torch.zeros(12, 4)}, before | {"new": torch.ones(1)}):
        live.make_patch(before, after, tmp_path / "p.sdiff", force=True)
        with pytest.raises(UnsupportedError, match="new or larger"):
            apply_live(tmp_path / "p.sdiff", clones(before))
    for side, value in (("a", 0.0), ("b", 1.0)):
        (tmp_path / side).mkdir()
        save_file({"x": torch.full((9,), value)}, tmp_path / side / "1.safetensors")
        save_file({"x": torch.full((9,), value)}, tmp_path / side / "2.safetensors")
    sparsediff.make_patch(tmp_path / "a", tmp_path / "b", tmp_path / "p.sdiff", force=True)
    with pytest.raises(UnsupportedError, match="several files"):
        apply_live(tmp_path / "p.sdiff", {"x": torch.zeros(9)})


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("fail_at", [1, 2, 10])
def test_a_failure_in_the_middle_of_writing_is_taken_back(
    pair: tuple[State, State],
    patch: Path,
    monkeypatch: pytest.MonkeyPatch,
    fail_at: int,
    error: type[BaseException],
) -> None:
    state = clones(pair[0])
    real, calls = live.live._put, 0

    def put(write: Any, old: torch.Tensor, new: torch.Tensor, undo: Any) -> None:
        nonlocal calls
        calls += 1
        if calls < fail_at:
            real(write, old, new, undo)
        else:  # half of it is written

            def half_write(values: torch.Tensor) -> None:
                write(values)
                if values is new:
                    raise error("device lost")

            real(half_write, old, new, undo)

    monkeypatch.setattr(live.live, "_put", put)
    with pytest.raises(error):
        apply_live(patch, state)
    assert calls == fail_at
    assert content(state) == content(pair[0])
    monkeypatch.undo()
    apply_live(patch, state)
    assert content(state) == content(pair[1])


def test_a_wrong_result_is_taken_back(
    pair: tuple[State, State], patch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if memory were faulty: what was written is not what is read."""
    state = clones(pair[0])
    real = live.live._write

    def write(tensor: torch.Tensor, change: Any, undo: Any) -> None:
        real(tensor, change, undo)
        if tensor is state["torch.int16"]:
            tensor.view(-1)[int(change.indices(np.int64)[0])] ^= 2

    monkeypatch.setattr(live.live, "_write", write)
    with pytest.raises(CorruptError):
        apply_live(patch, state, verify_result=True)
    assert content(state) == content(pair[0])


def test_cast_and_snapshot() -> None:
    weight = torch.randn(10, 10)
    state = {"a": weight, "b": weight, "n": torch.arange(3), "view": weight.T}
    stored = live.cast(state, torch.bfloat16)
    assert stored["a"] is stored["b"]
    assert stored["a"].dtype == torch.bfloat16
    assert stored["n"].dtype == torch.int64
    copied = live.snapshot(state)
    assert set(copied) == {"a", "n", "view"}
    assert content(copied) == content({n: state[n] for n in copied})
    place = copied["a"].data_ptr()
    weight += 1
    state["n"] = torch.arange(4)
    del state["view"]
    copied.update_(state)
    assert set(copied) == {"a", "n"}
    assert copied["a"].data_ptr() == place
    assert content(copied) == content({n: state[n] for n in copied})


def test_a_tensor_that_changes_meanwhile_is_noticed(tmp_path: Path) -> None:
    state = {"x": torch.zeros(1000)}
    checkpoint = memory_checkpoint(live.in_memory(state))
    state["x"] += 1
    with pytest.raises(sparsediff.UnavailableError, match="changed while"):
        sparsediff.make_patch(checkpoint, checkpoint, tmp_path / "p.sdiff")
    assert list(tmp_path.iterdir()) == []


def test_patch_writer(tmp_path: Path) -> None:
    model = torch.nn.Linear(30, 30)
    writer = live.PatchWriter(tmp_path / "out", metadata={"format": "pt"})
    patches, states = [], []
    for step in (3, 4, 7):
        with torch.no_grad():
            model.weight += 1
        states.append(copy.deepcopy(model.state_dict()))
        patches.append(writer.step(model.state_dict(), step))
        if step == 3:
            with pytest.raises(UsageError, match="increase"):
                writer.step(model.state_dict(), 3)
            (tmp_path / "out" / "000000005.sdiff").write_bytes(b"")
            with pytest.raises(UsageError, match="exists"):
                writer.step(model.state_dict(), 5)
    assert [p.name for p in patches] == [
        "000000003.anchor.sdiff",
        "000000004.sdiff",
        "000000007.sdiff",
    ]
    (tmp_path / "nothing").mkdir()
    sparsediff.apply_patch(tmp_path / "nothing", patches, tmp_path / "last.safetensors")
    assert (tmp_path / "last.safetensors").read_bytes() == save(states[-1], {"format": "pt"})
    state = clones(states[0])
    for path, expected in zip(patches[1:], states[1:], strict=True):
        apply_live(path, state)
        assert content(state) == content(expected)


def test_trainer_callback(tmp_path: Path) -> None:
    from transformers import TrainerControl, TrainerState

    model = torch.nn.Linear(30, 30)
    callback = live.PatchWriterCallback(tmp_path / "out", every=2, dtype=torch.bfloat16)
    state, control = TrainerState(), TrainerControl()
    callback.on_train_begin(None, state, control, model=model)
    for state.global_step in range(1, 4):
        with torch.no_grad():
            model.weight += 1
        callback.on_step_end(None, state, control, model=model)
    callback.on_train_end(None, state, control, model=model)
    assert sorted(tree(tmp_path / "out")) == [
        "000000000.anchor.sdiff",
        "000000002.sdiff",
        "000000003.sdiff",
    ]
    (tmp_path / "nothing").mkdir()
    patches = sorted((tmp_path / "out").iterdir())
    sparsediff.apply_patch(tmp_path / "nothing", patches, tmp_path / "x.safetensors")
    expected = live.cast(model.state_dict(), torch.bfloat16)
    assert content(load_file(tmp_path / "x.safetensors")) == content(expected)
    state.is_world_process_zero = False
    other = live.PatchWriterCallback(tmp_path / "none")
    other.on_train_begin(None, state, control, model=model)
    assert not (tmp_path / "none").exists()


def test_nothing_else_imports_torch(pair: tuple[State, State], tmp_path: Path) -> None:
    a, b = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_file(pair[0], a)
    save_file(pair[1], b)
    code = """
import sys, sparsediff
from sparsediff.cli import run
for name in sparsediff.__all__:
    getattr(sparsediff, name)
a, b, p = "a.safetensors", "b.safetensors", "p.sdiff"
assert run(["make", a, b, "-o", p]) == 0
assert run(["apply", a, p, "-o", "c.safetensors"]) == 0
assert run(["export", p, a, "-o", "e.safetensors"]) == 0
assert run(["stats", p]) == 0
assert list(sparsediff.iter_updates(p, a))
assert not {"torch", "safetensors", "transformers"} & set(sys.modules), sys.modules
import sparsediff.torch
assert "torch" in sys.modules and "transformers" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)
