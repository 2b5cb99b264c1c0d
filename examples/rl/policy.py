"""Group-normalised policy gradients (GRPO) on the toy task.

Enters: a model with bf16 weights, words. Leaves: groups of samples with their rewards, and
the weights after one AdamW step. Masters are float32, the weights that are used and shipped
are those rounded to bf16. Knows nothing of processes: `trainer.py` and `rollout.py` do.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from small_lm import SmallLM
from torch import Tensor

from rl import task


@dataclass(frozen=True)
class Groups:
    """Samples, group after group.

    Attributes:
        tokens: prompts with answers, int64, (n_groups * size, PROMPT + ANSWER).
        log_p: of the answers' tokens when they were drawn, float32, (…, ANSWER).
        rewards: float32, (n_groups * size,).
        size: samples per prompt.
    """

    tokens: Tensor
    log_p: Tensor
    rewards: Tensor
    size: int

    def advantages(self) -> Tensor:
        """Rewards, normalised within each group; 0 where all of a group are alike."""
        groups = self.rewards.view(-1, self.size)
        centred = groups - groups.mean(1, keepdim=True)
        return (centred / (groups.std(1, keepdim=True) + 1e-4)).view(-1)


def joined(parts: list[Groups]) -> Groups:
    """Groups of several rollouts as one batch, in the order given."""
    return Groups(
        torch.cat([p.tokens for p in parts]),
        torch.cat([p.log_p for p in parts]),
        torch.cat([p.rewards for p in parts]),
        parts[0].size,
    )


def sample(
    model: SmallLM,
    seed: tuple[int, int, int],
    n_groups: int,
    size: int,
    n_known: int | None = None,
) -> Groups:
    """Draw words, and ``size`` answers to each; the same for the same seed and weights.

    Args:
        model: answers.
        seed: of the run, the step, the rollout.
        n_groups: words.
        size: answers to each.
        n_known: the words are drawn from this many of the commonest; by default from all.
    """
    run, step, rollout = seed
    generator = torch.Generator().manual_seed(run * 1_000_003 + step * 101 + rollout)
    known = task.words()[:n_known]
    chosen = [known[int(i)] for i in torch.randint(len(known), (n_groups,), generator=generator)]
    chosen = [word for word in chosen for _ in range(size)]
    prompts = task.prompts(chosen)
    samples = model.sample(prompts, task.ANSWER, task.END, generator)
    rewards = [task.reward(w, a) for w, a in zip(chosen, samples.answers, strict=True)]
    return Groups(
        torch.cat([prompts, samples.answers], 1), samples.log_p, torch.tensor(rewards), size
    )


def loss(model: SmallLM, batch: Groups, clip: float = 0.2) -> Tensor:
    """The clipped surrogate of PPO with the advantages of GRPO, averaged over tokens."""
    log_p = model.log_probabilities(batch.tokens, task.PROMPT)
    counts = answered(batch.tokens)
    ratio = (log_p - batch.log_p).exp()
    advantage = batch.advantages()[:, None]
    gain = torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)
    return -(gain * counts).sum() / counts.sum()


def answered(tokens: Tensor) -> Tensor:
    """1 for tokens of the answers up to and with their end, 0 after; (n, ANSWER)."""
    ended = (tokens[:, task.PROMPT :] == task.END).cumsum(1)
    before = torch.cat([torch.zeros_like(ended[:, :1]), ended[:, :-1]], 1)
    return (before == 0).float()


class Optimizer:
    """AdamW on float32 masters of a model whose weights are bf16.

    Args:
        model: its weights are rounded to bf16 now, and replaced at each step.
        lr: learning rate.
        weight_decay: of AdamW.
    """

    def __init__(self, model: SmallLM, lr: float, weight_decay: float = 0.01) -> None:
        self.masters = {n: p.detach().float().clone() for n, p in model.named_parameters()}
        self.model = model.bfloat16()
        self._adam = torch.optim.AdamW(
            self.masters.values(), lr=lr, betas=(0.9, 0.95), weight_decay=weight_decay
        )

    def step(self, loss: Tensor) -> None:
        """Follow the gradient of ``loss`` once."""
        self.model.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        parameters = dict(self.model.named_parameters())
        for name, master in self.masters.items():
            gradient = parameters[name].grad
            master.grad = None if gradient is None else gradient.float()
        torch.nn.utils.clip_grad_norm_(self.masters.values(), 1.0)
        self._adam.step()
        with torch.no_grad():
            for name, master in self.masters.items():
                parameters[name].copy_(master)
