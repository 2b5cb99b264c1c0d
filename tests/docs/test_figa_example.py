"""FIGA's alignments, weights and losses, worked out by hand; gradients against differences."""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("rapidfuzz", reason="rapidfuzz is not installed")

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def figa(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module("figa.loss")


def tokens(text: str) -> list[int]:
    return [ord(c) for c in text]


@pytest.mark.parametrize(
    ("initial", "revised", "bad", "good"),
    [
        ("abc", "abc", "   ", "   "),
        ("abc", "axc", " b ", " x "),  # substituted
        ("abc", "abxc", "   ", "  x "),  # added
        ("abxc", "abc", "  x ", "   "),  # deleted
        ("", "ab", "", "ab"),
        ("ab", "", "ab", ""),
        ("xbcd", "bcyd", "x   ", "  y "),  # deleted in front, added behind
    ],
)
def test_marks(figa: Any, initial: str, revised: str, bad: str, good: str) -> None:
    marks = figa.edits(tokens(initial), tokens(revised))
    assert marks.bad == [c != " " for c in bad]
    assert marks.good == [c != " " for c in good]


def test_weights_of_the_paper(figa: Any) -> None:
    initial, revised = figa.weights(tokens("xbcd"), tokens("bcyd"), figa.Rules())
    assert initial.tolist() == [-0.5, 0, 0, 0]
    assert revised.tolist() == [0, 0, 1, 0]
    _, revised = figa.weights(tokens("ab"), tokens("xb"), figa.Rules(gamma=0.25))
    assert revised.tolist() == [1, 0.25]


def test_the_end_of_the_revised_answer_counts_where_asked(figa: Any) -> None:
    _, revised = figa.weights(tokens("ab"), tokens("xb"), figa.Rules(end_counts=True))
    assert revised.tolist() == [1, 1]


P_INITIAL, P_REVISED = [[0.5, 0.9]], [[0.25, 0.8]]
R_INITIAL, R_REVISED = [[-0.5, 0.0]], [[1.0, 0.0]]


def loss(figa: Any, rules: Any) -> float:
    values = (P_INITIAL, R_INITIAL, P_REVISED, R_REVISED)
    log_a, r_a, log_b, r_b = map(torch.tensor, values)
    return float(figa.loss(log_a.log(), r_a, log_b.log(), r_b, rules))


def test_losses(figa: Any) -> None:
    whole = 0.5 * math.log(0.5) - math.log(0.25)
    assert loss(figa, figa.Rules()) == pytest.approx(whole)
    assert loss(figa, figa.Rules(per_token=True)) == pytest.approx(whole / 2)
    # -log 0.5 is 0.69: above 0.6 it is pushed no further, and no longer counted.
    assert loss(figa, figa.Rules(enough=0.6)) == pytest.approx(-math.log(0.25))
    assert loss(figa, figa.Rules(enough=0.7)) == pytest.approx(whole)
    assert loss(figa, figa.Rules(enough=0.6, per_token=True)) == pytest.approx(-math.log(0.25))


@pytest.mark.parametrize("switches", [{}, {"per_token": True}, {"enough": 2.0}])
def test_gradients_are_those_of_differences(figa: Any, switches: dict[str, Any]) -> None:
    torch.manual_seed(0)
    rules = figa.Rules(**switches)
    r_a = torch.tensor([[-0.5, 0.0, -0.5]], dtype=torch.float64)
    r_b = torch.tensor([[1.0, 0.25]], dtype=torch.float64)
    answers = torch.tensor([[[0], [3], [1]]]), torch.tensor([[[2], [1]]])
    logits = [torch.randn(1, n, 4, dtype=torch.float64, requires_grad=True) for n in (3, 2)]

    def value(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        log_a, log_b = (
            x.log_softmax(-1).gather(-1, i)[..., 0] for x, i in zip((a, b), answers, strict=True)
        )
        result: torch.Tensor = figa.loss(log_a, r_a, log_b, r_b, rules)
        return result

    assert torch.autograd.gradcheck(value, logits)
    gradient = torch.autograd.grad(value(*logits), logits[0])[0]
    assert gradient[0, 0, 0] > 0  # going down makes the bad token rarer
    assert torch.equal(gradient[0, 1], torch.zeros(4, dtype=torch.float64))  # weight 0
