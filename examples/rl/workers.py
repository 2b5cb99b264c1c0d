"""The processes: a trainer, and rollouts that follow it.

Enters: settings, a directory that all share: the store, the samples, what is compared.
Leaves: a line of JSON on standard output for everything that was done. Which weights the
samples of a step come from is fixed beforehand (`Settings.lag`), and so are the words and
the order, so the rewards depend on the seed and the weights alone, not on who was faster.
"""

from __future__ import annotations

import json
import queue
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_lm import Config, SmallLM

from rl import policy, task, wire

ROLLOUTS = 2


@dataclass(frozen=True)
class Settings:
    """Of a run.

    Attributes:
        steps: of the policy gradient.
        lr: learning rate.
        words: that the rewards are for.
        groups: words drawn per step and rollout.
        size: samples per word.
        lag: steps that the weights behind samples are older than those they train, at most.
        seed: of everything.
        reading: batches of text that the model reads before.
        warm: batches of the task that it sees before.
        whole: send whole weights instead of patches.
    """

    steps: int = 100
    lr: float = 3e-6
    words: int = 32
    groups: int = 4
    size: int = 8
    lag: int = 1
    seed: int = 0
    reading: int = 100
    warm: int = 80
    whole: bool = False


def say(**fields: object) -> None:
    """One line of JSON."""
    print(json.dumps(fields), flush=True)


def note(text: str) -> None:
    """A line for a person."""
    say(note=text)


def starting_model(settings: Settings) -> SmallLM:
    """The model that is tuned, as all runs with these settings begin."""
    return task.starting_model(
        settings.seed, note, config=Config(), reading=settings.reading, warm=settings.warm
    )


def samples_path(place: Path, step: int, rollout: int) -> Path:
    """Where a rollout leaves its samples for a step."""
    return place / "samples" / f"{step:06}-{rollout}.safetensors"


def trainer(settings: Settings, place: Path) -> None:
    """Publish the first weights; then wait for samples, follow their gradient, publish."""
    model = starting_model(settings)
    optimizer = policy.Optimizer(model, settings.lr)
    publisher = wire.Publisher(str(place / "store"), place / "made", settings.whole)
    _publish(publisher, model, place, 0, {})
    for step in range(1, settings.steps + 1):
        parts, versions = [], []
        for rollout in range(ROLLOUTS):
            groups, version = _receive(samples_path(place, step, rollout), settings.size)
            parts.append(groups)
            versions.append(version)
        batch = policy.joined(parts)
        started = time.perf_counter()
        optimizer.step(policy.loss(model, batch))
        staleness = step - 1 - min(versions)
        if staleness > settings.lag:
            raise RuntimeError(f"samples of version {min(versions)} came for step {step}")
        figures: dict[str, object] = {
            "reward": float(batch.rewards.mean()),
            "exact": float((batch.rewards == 1).float().mean()),
            "staleness": staleness,
            "train": time.perf_counter() - started,
        }
        _publish(publisher, model, place, step, figures)


def _publish(
    publisher: wire.Publisher, model: SmallLM, place: Path, step: int, figures: dict[str, object]
) -> None:
    # What the rollouts compare their weights with, bit for bit; it goes past the store.
    path = place / "check" / f"{step:06}.safetensors"
    save_file(model.state_dict(), path.with_suffix(".partial"), {"format": "pt"})
    path.with_suffix(".partial").rename(path)
    published = publisher.publish(model.state_dict(), step)
    say(step=step, **figures, **asdict(published))


def _receive(path: Path, size: int) -> tuple[policy.Groups, int]:
    while not path.exists():
        time.sleep(0.005)
    tensors = load_file(path)
    with safe_open(path, "pt") as opened:
        version = int(opened.metadata()["version"])
    return policy.Groups(tensors["tokens"], tensors["log_p"], tensors["rewards"], size), version


def rollout(settings: Settings, place: Path, index: int) -> None:
    """Follow the store, swap weights between generations, sample, send samples back."""
    model = SmallLM(Config()).bfloat16()
    directory = place / f"rollout-{index}"
    arrived: queue.Queue[wire.Arrived | BaseException] = queue.Queue()

    def follow() -> None:
        try:
            store = str(place / "store")
            for new in wire.follow(store, directory, settings.steps, settings.whole):
                arrived.put(new)
        except BaseException as e:
            arrived.put(e)

    threading.Thread(target=follow, daemon=True).start()
    version = -1

    def advance(to: int) -> None:
        nonlocal version
        while version < to:
            new = arrived.get()  # waiting for the trainer is no pause of ours
            if isinstance(new, BaseException):
                raise new
            started = time.perf_counter()
            wire.swap(model, new)
            pause = time.perf_counter() - started
            version = new.step
            full = load_file(place / "check" / f"{version:06}.safetensors")
            same = wire.same_words(model, full)
            times = {"fetch": new.fetch, "apply": new.apply, "pause": pause}
            say(sync=version, rollout=index, same=same, **times)
            if not same:
                raise RuntimeError(f"rollout {index}: weights of version {version} differ")

    for step in range(1, settings.steps + 1):
        advance(max(0, step - 1 - settings.lag))
        seed = (settings.seed, step, index)
        groups = policy.sample(model, seed, settings.groups, settings.size, settings.words)
        path = samples_path(place, step, index)
        tensors = {"tokens": groups.tokens, "log_p": groups.log_p, "rewards": groups.rewards}
        save_file(tensors, path.with_suffix(".partial"), {"version": str(version)})
        path.with_suffix(".partial").rename(path)
    advance(settings.steps)


def work(role: str, place: Path, settings: Settings) -> None:
    """Be a process: ``trainer``, or ``0`` and up for the rollouts."""
    torch.set_num_threads(1)
    if role == "trainer":
        trainer(settings, place)
    else:
        rollout(settings, place, int(role))
