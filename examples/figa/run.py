"""The command: make pairs, tune a model five ways, measure marked tokens, ship checkpoints.

Enters: options. Leaves: a table of what happened to good and bad tokens of pairs that no
training saw, and a store with FIGA's checkpoints and their figures.

What to expect of the table: bad tokens fall twice as far under FIGA as under supervised tuning,
which never sees them. Good ones rise, but by less. The push away from bad tokens is one reason:
it takes good ones along, which are capitals like them, so that without bad tokens good ones rise
five times as far, and in the first 80 steps they do not rise at all. The other is the task:
FIGA weights a fifth of an answer, the revised tokens, while here all tokens of an answer follow
one rule, and supervised tuning learns what is good at one place from all others too.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from rl import policy, task
from safetensors.torch import save_file
from small_lm import Config, SmallLM, decode
from torch import Tensor

from figa.loss import Rules, edits, loss, weights

WAYS = {
    "FIGA": Rules(),
    "FIGA, as published code": Rules(enough=0.6, end_counts=True, per_token=True),
    "without bad tokens": Rules(beta=0.0),
    "without weights": Rules(beta=1.0, gamma=1.0),
    "SFT": Rules(beta=0.0, gamma=1.0),
}


@dataclass(frozen=True)
class Pair:
    """Two answers to a prompt.

    Attributes:
        word: of the prompt.
        initial: what the model answered, tokens with the end.
        revised: the right answer.
    """

    word: str
    initial: list[int]
    revised: list[int]

    def reasons(self) -> list[str]:
        """Why each token was changed."""
        marks = edits(self.initial, self.revised)
        bad = [decode([t]) for t, b in zip(self.initial, marks.bad, strict=True) if b]
        good = [decode([t]) for t, g in zip(self.revised, marks.good, strict=True) if g]
        return [f"{c!r} is not the capital of the letter here" for c in bad] + [
            f"{c!r} is the capital that is due" for c in good
        ]


def pairs(model: SmallLM, words: list[str], seed: int) -> list[Pair]:
    """Answers of the model with an error, and the right ones, by rule; the same for a seed."""
    generator = torch.Generator().manual_seed(seed)
    samples = model.sample(task.prompts(words), task.ANSWER, task.END, generator)
    found = []
    for word, tokens in zip(words, samples.answers, strict=True):
        given = [int(t) for t in tokens]
        if task.END in given:
            given = given[: given.index(task.END) + 1]
        right = [ord(c) for c in task.answer(word)]
        if given != right:
            found.append(Pair(word, given, right))
    return found


def padded(some: list[Pair], answers: list[list[int]], rows: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Prompts with answers, (n, PROMPT + ANSWER), and weights of the answers, (n, ANSWER)."""
    tokens, _ = task.examples([p.word for p in some], [decode(a) for a in answers])
    weight = torch.zeros(len(some), task.ANSWER)
    for row, values in zip(weight, rows, strict=True):
        row[: len(values)] = values
    return tokens, weight


def losses(model: SmallLM, some: list[Pair], rules: Rules) -> Tensor:
    """Of a batch."""
    r = [weights(p.initial, p.revised, rules) for p in some]
    initial, initial_r = padded(some, [p.initial for p in some], [a for a, _ in r])
    revised, revised_r = padded(some, [p.revised for p in some], [b for _, b in r])
    both = model.log_probabilities(torch.cat([initial, revised]), task.PROMPT)
    return loss(both[: len(some)], initial_r, both[len(some) :], revised_r, rules)


@torch.no_grad()
def probabilities(model: SmallLM, some: list[Pair]) -> tuple[float, float]:
    """Mean probability of good and of bad tokens, each given what precedes it in its answer."""
    marked = Rules(alpha=1.0, beta=-1.0, gamma=0.0)
    r = [weights(p.initial, p.revised, marked) for p in some]
    means = []
    for answers, rows in (
        ([p.revised for p in some], [b for _, b in r]),
        ([p.initial for p in some], [a for a, _ in r]),
    ):
        tokens, weight = padded(some, answers, rows)
        p = model.log_probabilities(tokens, task.PROMPT).exp()
        means.append(float((p * weight).sum() / weight.sum()))
    return means[0], means[1]


def tune(
    start: dict[str, Tensor],
    known: list[Pair],
    rules: Rules,
    steps: int,
    lr: float,
    run: Path,
    kept: int = 10,
) -> SmallLM:
    """A model tuned on pairs; checkpoints of its last ``kept`` steps lie in ``run``."""
    model = SmallLM(Config())
    model.load_state_dict(start)
    optimizer = policy.Optimizer(model, lr)
    generator = torch.Generator().manual_seed(3)
    for step in range(steps + 1):
        if step >= steps - kept:
            path = run / f"step_{step:06}"
            path.mkdir(parents=True)
            save_file(model.state_dict(), path / "model.safetensors", {"format": "pt"})
        if step < steps:
            chosen = torch.randint(len(known), (16,), generator=generator)
            optimizer.step(losses(model, [known[int(i)] for i in chosen], rules))
    return model


def sparsediff(*args: object) -> None:
    """Show a command, then run it."""
    print("\n$ sparsediff", *args, flush=True)
    subprocess.run([sys.executable, "-m", "sparsediff", *map(str, args)], check=True)


def compare(place: Path, steps: int, lr: float, reading: int, warm: int, n_words: int) -> None:
    """The whole story."""
    model = task.starting_model(0, print, config=Config(), reading=reading, warm=warm)
    start = {n: t.clone() for n, t in model.state_dict().items()}
    model.bfloat16()
    known = pairs(model, task.words()[:n_words], 1)
    unseen = pairs(model, task.words(held_out=True)[:n_words], 2)
    print(f"{len(known)} pairs to learn from, {len(unseen)} held out; the first:")
    print(f"  {decode(known[0].initial)!r} → {decode(known[0].revised)!r}")
    print("".join(f"    {reason}\n" for reason in known[0].reasons()))

    before = good, bad = probabilities(model, unseen)
    moved = {}
    print(f"{'held-out pairs':26}{'p of good':>12}{'p of bad':>12}{'good ÷ bad':>12}")
    print(f"{'before':26}{good:>12.4f}{bad:>12.4f}{good / bad:>12.2f}", flush=True)
    for name, rules in WAYS.items():
        run = place / name.replace(",", "").replace(" ", "-").lower()
        tuned = tune(start, known, rules, steps, lr, run)
        good, bad = probabilities(tuned, unseen)
        print(f"{name:26}{good:>12.4f}{bad:>12.4f}{good / bad:>12.2f}", flush=True)
        moved[name] = good - before[0], bad - before[1]
    print()
    for name in ("FIGA", "SFT"):
        good, bad = moved[name]
        print(f"under {name} good tokens moved by {good:+.4f}, bad ones by {bad:+.4f}")

    sparsediff("ship", place / "figa", place / "store")
    sparsediff("log", place / "store")
    for name in ("figa", "sft"):
        sparsediff("stats", *sorted((place / name).iterdir()))


def main() -> None:
    """Parse options."""
    parser = argparse.ArgumentParser(
        prog="python examples/figa", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--steps", type=int, default=160, help="of AdamW, for each way")
    parser.add_argument("--lr", type=float, default=1e-5)
    parser.add_argument("--short", action="store_true", help="few steps of an untrained model")
    parser.add_argument("--place", type=Path, help="keep everything in this new directory")
    args = parser.parse_args()
    torch.set_num_threads(min(2, torch.get_num_threads()))
    sizes = (10, args.lr, 2, 5, 8) if args.short else (args.steps, args.lr, 100, 80, 1000)
    if args.place is not None:
        args.place.mkdir(parents=True)
        compare(args.place, *sizes)
        return
    with tempfile.TemporaryDirectory() as directory:
        compare(Path(directory), *sizes)
