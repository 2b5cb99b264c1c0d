"""The runs that the tables are of: real trainings, every step kept as a checkpoint.

Enters: sizes, a place. Leaves: run directories below it, `NAME/step_000000/model.safetensors`
and so on, as bf16 unless the name says otherwise. One process; what is sent where is no concern
here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from figa.run import WAYS, pairs, tune
from rl import policy, task
from safetensors.torch import load_file, save_file
from small_lm import Config, Say, SmallLM
from torch import Tensor

RATES = (3e-7, 1e-6, 3e-6, 1e-5)
RATE = 1e-6  # of the run that most tables look at
SAME_RATE = 1e-5  # of FIGA, and so of the policy gradient that it is compared with

DENSE = Config()
MIXTURE = Config(experts=16, inner=172)

E4M3_LARGEST = 448.0


@dataclass(frozen=True)
class Sizes:
    """How much is trained.

    Attributes:
        reading: batches of text that a model reads before.
        warm: batches of the task that it sees before.
        steps: of each run.
        groups: words per step.
        size: samples per word.
        words: words that FIGA's pairs are made of.
    """

    reading: int = 100
    warm: int = 80
    steps: int = 20
    groups: int = 16
    size: int = 8
    words: int = 1000


def rl_name(lr: float) -> str:
    """Of a run's directory."""
    return f"rl-{lr:.0e}".replace("e-0", "e-")


def step_path(run: Path, step: int) -> Path:
    """The checkpoint of a step."""
    return run / f"step_{step:06}"


def checkpoints(run: Path) -> list[Path]:
    """All of a run, in order."""
    return sorted(run.glob("step_*"))


def keep(state: dict[str, Tensor], run: Path, step: int) -> None:
    """Write a checkpoint."""
    path = step_path(run, step)
    path.mkdir(parents=True)
    save_file(state, path / "model.safetensors", {"format": "pt"})


def is_done(run: Path, sizes: Sizes) -> bool:
    """Whether a run is there, from an earlier call."""
    return step_path(run, sizes.steps).is_dir()


def start(config: Config, sizes: Sizes, say: Say) -> SmallLM:
    """The model that is tuned, float32, always the same."""
    return task.starting_model(0, say, config=config, reading=sizes.reading, warm=sizes.warm)


def reinforce(
    config: Config,
    sizes: Sizes,
    lr: float,
    run: Path,
    say: Say,
    masters: Path | None = None,
) -> None:
    """Group-normalised policy gradients, as in `examples/rl`, but in one process.

    Args:
        config: of the model.
        sizes: how many steps, and of what.
        lr: of AdamW.
        run: where the checkpoints go.
        say: told of the reward.
        masters: where the float32 masters go; None if nobody asks for them.
    """
    if is_done(run, sizes):
        say(f"{run.name} is there from before")
        return
    model = start(config, sizes, say)
    optimizer = policy.Optimizer(model, lr)
    rewards = []
    for step in range(sizes.steps + 1):
        keep(model.state_dict(), run, step)
        if masters is not None:
            keep(optimizer.masters, masters, step)
        if step < sizes.steps:
            groups = policy.sample(model, (0, step, 0), sizes.groups, sizes.size)
            optimizer.step(policy.loss(model, groups))
            rewards.append(float(groups.rewards.mean()))
    say(f"{run.name}: reward {rewards[0]:.3f} in the first step, {rewards[-1]:.3f} in the last")


def precisions(masters: Path, place: Path) -> dict[str, Path]:
    """The masters of one run as they would be stored otherwise, each rounded to nearest even.

    For fp8 the weights of a tensor are scaled so that the largest of the first checkpoint is
    the largest there is; the scale stays what it is, so that only training changes words.
    """
    runs = {
        "fp16": place / "rl-fp16",
        "fp8 e4m3": place / "rl-fp8",
        "fp8 e4m3, not scaled": place / "rl-fp8-plain",
    }
    if all(step_path(run, len(checkpoints(masters)) - 1).is_dir() for run in runs.values()):
        return runs
    scales: dict[str, Tensor] = {}
    for step, path in enumerate(checkpoints(masters)):
        state = load_file(path / "model.safetensors")
        for name, tensor in state.items():
            scales.setdefault(name, E4M3_LARGEST / tensor.abs().max())
        keep({n: t.half() for n, t in state.items()}, runs["fp16"], step)
        scaled = {n: e4m3(t * scales[n]) for n, t in state.items()}
        keep(scaled, runs["fp8 e4m3"], step)
        keep({n: e4m3(t) for n, t in state.items()}, runs["fp8 e4m3, not scaled"], step)
    return runs


def e4m3(tensor: Tensor) -> Tensor:
    """Rounded to fp8, nothing larger than what it holds."""
    return tensor.clamp(-E4M3_LARGEST, E4M3_LARGEST).to(torch.float8_e4m3fn)


def fine_tune(sizes: Sizes, lrs: tuple[float, ...], place: Path, say: Say) -> dict[str, Path]:
    """FIGA and plain supervised tuning from the same start, by name."""
    named = {
        f"{way}, {lr:g}": (way, lr, place / rl_name(lr).replace("rl", way.lower()))
        for lr in lrs
        for way in ("FIGA", "SFT")
    }
    missing = [kept for kept in named.values() if not is_done(kept[2], sizes)]
    if missing:
        model = start(DENSE, sizes, say)
        state = {n: t.clone() for n, t in model.state_dict().items()}
        known = pairs(model.bfloat16(), task.words()[: sizes.words], 1)
        for way, lr, run in missing:
            tune(state, known, WAYS[way], sizes.steps, lr, run, sizes.steps)
            say(f"{run.name}: {sizes.steps} steps on {len(known)} pairs")
    return {name: run for name, (_, _, run) in named.items()}
