"""The toy task: write a word in capitals. Whether it was done can be verified, letter by letter.

Enters: words from the text of Python's library. Leaves: prompts of one length, answers,
rewards, and a model that half knows the task. Python's sources teach it what a word is; a
short supervised warm start on some of the words shows it the task; the reward then has
something to raise.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from functools import cache
from pathlib import Path

import torch
from small_lm import Config, Say, SmallLM, cached, decode, encode, library, pretrained, train
from torch import Tensor

LONGEST = 8  # letters
PROMPT = LONGEST + 3  # tokens of a prompt
ANSWER = LONGEST + 2  # tokens of an answer, at most
END = ord("\n")


@cache
def words(held_out: bool = False) -> list[str]:
    """Two thousand lower-case words of the library, the commonest first, in two parts.

    Args:
        held_out: those that are kept for tests, one in five by their digests, or the others.
    """
    found = re.findall(rb"\b[a-z]{4,8}\b", library().numpy().tobytes())
    counts = Counter(word.decode() for word in found)
    common = sorted(counts, key=lambda w: (-counts[w], w))[:2000]
    return [w for w in common if (hashlib.sha256(w.encode()).digest()[0] % 5 == 0) == held_out]


def prompt(word: str) -> str:
    """``"    word > "``: right-aligned, so that all prompts have one length."""
    return f"{word:>{LONGEST}} > "


def prompts(some: list[str]) -> Tensor:
    """int64, (n, PROMPT)."""
    return torch.tensor([encode(prompt(word)) for word in some])


def answer(word: str) -> str:
    """What should follow the prompt."""
    return word.upper() + "\n"


def reward(word: str, tokens: Tensor) -> float:
    """Share of positions, of the right answer or the given one, that are right; 1 if all are."""
    right, given = answer(word), decode(tokens).partition("\n")[0] + "\n"
    same = sum(a == b for a, b in zip(right, given, strict=False))
    return same / max(len(right), len(given))


def examples(some: list[str], answers: list[str]) -> tuple[Tensor, Tensor]:
    """Prompts with answers: int64 (n, PROMPT + ANSWER), and 1 where a token of an answer is."""
    pairs = zip(some, answers, strict=True)
    rows = [encode((prompt(w) + a).ljust(PROMPT + ANSWER, "\n")) for w, a in pairs]
    counts = torch.zeros(len(rows), PROMPT + ANSWER)
    for row, text in zip(counts, answers, strict=True):
        row[PROMPT : PROMPT + len(text)] = 1
    return torch.tensor(rows), counts


def starting_model(
    seed: int, say: Say, *, config: Config, reading: int, warm: int, kept: Path | None = None
) -> SmallLM:
    """A language model after ``warm`` supervised steps on the task, float32; see `cached`."""

    def make() -> SmallLM:
        model = pretrained(config, reading, seed, say)
        known = words()
        generator = torch.Generator().manual_seed(seed + 1)

        def batches(step: int) -> tuple[Tensor, Tensor]:
            some = [known[i] for i in torch.randint(len(known), (32,), generator=generator)]
            return examples(some, [answer(w) for w in some])

        say(f"and sees {32 * warm:,} examples of the task")
        train(model, batches, warm, 1e-3, say)
        return model

    return cached(config, (seed, reading, warm, len(library())), make, say, kept)
