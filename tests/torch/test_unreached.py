"""No tensor of a live model stays stale in silence."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from sparsediff import WrongBaseError
from sparsediff.torch import apply_to_module, apply_to_state_dict, make_patch


class Tied(torch.nn.Module):
    """An embedding and a head of one weight, a persistent buffer and one that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(16, 8)
        self.head = torch.nn.Linear(8, 16, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("scale", torch.ones(4))
        self.register_buffer("cache", torch.zeros(4), persistent=False)


@pytest.fixture
def model() -> Tied:
    torch.manual_seed(0)
    return Tied()


@pytest.fixture
def patch(model: Tied, tmp_path: Path) -> Path:
    """Of the model's state dict; its head has no entry of its own, being tied."""
    after = copy.deepcopy(model)
    with torch.no_grad():
        after.embed.weight[3] += 1
    make_patch(model.state_dict(), after.state_dict(), tmp_path / "p.sdiff")
    return tmp_path / "p.sdiff"


def test_a_model_that_is_reached_everywhere(model: Tied, patch: Path) -> None:
    result = apply_to_module(patch, model, unreached="refuse")
    assert (result.changed, result.unreached) == (["embed.weight"], [])


def test_an_untied_copy_is_named(model: Tied, patch: Path) -> None:
    model.head.weight = torch.nn.Parameter(model.embed.weight.detach().clone())
    before = model.embed.weight.detach().clone()
    with pytest.raises(WrongBaseError, match=r"no tensor of the patch reaches 'head\.weight'"):
        apply_to_module(patch, model, unreached="refuse")
    assert torch.equal(model.embed.weight, before)
    with pytest.warns(UserWarning, match=r"'head\.weight'") as caught:
        result = apply_to_module(patch, model)
    assert result.unreached == ["head.weight"]
    assert caught[0].filename == __file__
    assert not torch.equal(model.embed.weight, before)


def test_reporting_alone_makes_no_noise(model: Tied, patch: Path) -> None:
    model.register_buffer("scale2", torch.ones(4))
    model.register_parameter("empty", torch.nn.Parameter(torch.zeros(0)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert apply_to_module(patch, model, unreached="report").unreached == ["scale2"]


def test_a_state_dict(model: Tied, patch: Path) -> None:
    state: dict[str, Any] = dict(model.state_dict())  # the head shares memory with the embedding
    state["step"] = 3
    assert apply_to_state_dict(patch, state).unreached == []


def test_state_dicts_that_are_copies_reach_nothing(model: Tied, patch: Path) -> None:
    def copies(_: Any, state: dict[str, torch.Tensor], *__: Any) -> None:
        for name in state:
            state[name] = state[name].detach().clone()

    model._register_state_dict_hook(copies)  # type: ignore[no-untyped-call]
    with pytest.raises(WrongBaseError, match=r"embed\.weight.*head\.weight.*scale"):
        apply_to_module(patch, model, unreached="refuse")


def test_views_of_one_parameter_reach_it_together(tmp_path: Path) -> None:
    fused = torch.zeros(12, 4)
    parts = dict(zip("qkv", fused.chunk(3), strict=True))
    after = {name: t + 1 for name, t in parts.items()}
    make_patch({n: t.clone() for n, t in parts.items()}, after, tmp_path / "p.sdiff")
    whole = {**parts, "fused": fused}
    assert apply_to_state_dict(tmp_path / "p.sdiff", whole, unreached="refuse").unreached == []
    assert fused.tolist() == torch.ones(12, 4).tolist()
    fused = torch.zeros(16, 4)
    more = dict(zip("qkv", fused.chunk(4)[:3], strict=True), fused=fused)
    result = apply_to_state_dict(tmp_path / "p.sdiff", more, unreached="report")
    assert result.unreached == ["fused"]


def test_kinds_of_tensors_that_have_no_plain_memory(model: Tied, patch: Path) -> None:
    model.register_buffer("sparse", torch.eye(3).to_sparse())
    model.register_buffer("nowhere", torch.ones(3, device="meta"))
    assert apply_to_module(patch, model, unreached="report").unreached == ["sparse", "nowhere"]


def test_all_tensors_without_a_place_are_named(model: Tied, patch: Path) -> None:
    with pytest.raises(WrongBaseError, match=r"missing: 'embed\.weight', 'scale'"):
        apply_to_state_dict(patch, {})
