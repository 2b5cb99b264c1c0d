"""FIGA's loss, "Beyond Imitation" (arXiv 2311.04072): which tokens were revised, and what follows.

Enters: an initial and a revised response, as tokens. Leaves: a weight for each token of both,
from the edit operations between them, and the loss: −Σ r·log p over the revised response and
over the initial one. The defaults are the paper's formula; what the published code does
besides is a switch each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from rapidfuzz.distance import Levenshtein
from torch import Tensor


@dataclass(frozen=True)
class Rules:
    """Of the weights and the loss.

    Attributes:
        alpha: weight of tokens that were added or substituted in the revised response.
        beta: minus the weight of tokens of the initial response that were deleted or
            substituted; 0 leaves the bad tokens out.
        gamma: weight of the other tokens of the revised response.
        enough: of the published code (0.6 there): a bad token whose loss, −log p, is above
            this is not pushed further. None: the paper's form.
        end_counts: of the published code: the last token of the revised response always
            has the weight alpha.
        per_token: of the published code: divide by the number of weighted tokens.
    """

    alpha: float = 1.0
    beta: float = 0.5
    gamma: float = 0.0
    enough: float | None = None
    end_counts: bool = False
    per_token: bool = False


@dataclass(frozen=True)
class Edits:
    """Marks on two responses.

    Attributes:
        good: of each revised token, whether it was added or substituted.
        bad: of each initial token, whether it was deleted or substituted.
    """

    good: list[bool]
    bad: list[bool]


def edits(initial: Sequence[int], revised: Sequence[int]) -> Edits:
    """Marks by the fewest edit operations that lead from ``initial`` to ``revised``."""
    good, bad = [False] * len(revised), [False] * len(initial)
    for edit in Levenshtein.editops(initial, revised):
        if edit.tag in ("insert", "replace"):
            good[edit.dest_pos] = True
        if edit.tag in ("delete", "replace"):
            bad[edit.src_pos] = True
    return Edits(good, bad)


def weights(initial: Sequence[int], revised: Sequence[int], rules: Rules) -> tuple[Tensor, Tensor]:
    """The r of each token of the initial response and of the revised one, float32."""
    marks = edits(initial, revised)
    of_initial = torch.tensor([-rules.beta if bad else 0.0 for bad in marks.bad])
    of_revised = torch.tensor([rules.alpha if good else rules.gamma for good in marks.good])
    if rules.end_counts and len(of_revised):
        of_revised[-1] = rules.alpha
    return of_initial, of_revised


def loss(
    initial_log_p: Tensor,
    initial_r: Tensor,
    revised_log_p: Tensor,
    revised_r: Tensor,
    rules: Rules,
) -> Tensor:
    """The loss of pairs of responses, averaged over the pairs; see `Rules`.

    Args:
        initial_log_p: of the initial responses' tokens, (n_pairs, length).
        initial_r: their weights; 0 where there is no token.
        revised_log_p: of the revised responses' tokens, (n_pairs, another length).
        revised_r: their weights.
        rules: switches.
    """
    if rules.enough is not None:
        initial_r = initial_r * (-initial_log_p.detach() <= rules.enough)
    total = -(initial_r * initial_log_p).sum() - (revised_r * revised_log_p).sum()
    if rules.per_token:
        weighted = torch.count_nonzero(initial_r) + torch.count_nonzero(revised_r)
        return total / weighted.clamp(min=1)
    return total / len(initial_log_p)
