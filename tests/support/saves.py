"""Checkpoints saved by the libraries themselves, and killed with SIGKILL while they are saved.

``python -m tests.support.saves LIBRARY ROOT KILLS SEED`` writes ``ROOT/reference``, a run
that nobody kills, and ``ROOT/0``, ``ROOT/1`` and so on: runs of two checkpoints each, killed
at a random moment of one of the two saves. ``ROOT/saves.json`` says of each run which saves
returned, and which checkpoints are whole: they have all files of the reference, and the
library itself loads every one of them. Nothing of sparsediff is asked for that.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

STEPS = (1, 2)
_RANDOM = re.compile(r"[0-9a-f]{32}")

Saving = Callable[[int], AbstractContextManager[None]]


@dataclass(frozen=True)
class Library:
    """How a library saves and loads.

    Attributes:
        modules: that must be there.
        train: saves `STEPS` into a run directory, each inside ``saving(step)``.
        entry: what a step is called there.
        load: loads all of a checkpoint; raises if anything is missing or damaged.
    """

    modules: tuple[str, ...]
    train: Callable[[Path, Saving], None]
    entry: str
    load: Callable[[Path], object]


def _state(step: int) -> dict[str, Any]:
    import torch

    return {name: torch.full((600, 300), float(step + i)) for i, name in enumerate("uvw")}


def _check(found: dict[str, Any], step: int) -> None:
    for name, tensor in _state(step).items():
        assert (found[name] == tensor).all()


# torch.distributed.checkpoint


def _dcp_train(run: Path, saving: Saving) -> None:
    from torch.distributed.checkpoint.filesystem import FileSystemWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    for step in STEPS:
        with saving(step):
            writer = FileSystemWriter(run / f"step_{step}", thread_count=2)
            save(_state(step), storage_writer=writer, no_dist=True)


def _dcp_load(path: Path) -> None:
    from torch.distributed.checkpoint.state_dict_loader import load

    state = _state(0)
    load(state, checkpoint_id=path, no_dist=True)
    _check(state, int(path.name[-1]))


# transformers: save_pretrained, and the Trainer


def _llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        vocab_size=1000,
    )
    return LlamaForCausalLM(config)


def _from_pretrained(path: Path) -> None:
    from transformers import LlamaForCausalLM

    loaded: Any = LlamaForCausalLM.from_pretrained(path, output_loading_info=True)
    assert not any(loaded[1].values())


def _pretrained_train(run: Path, saving: Saving) -> None:
    model = _llama()
    for step in STEPS:
        with saving(step):
            model.save_pretrained(run / f"step_{step}", max_shard_size="200KB")


def _trainer_train(run: Path, saving: Saving) -> None:
    import torch
    from transformers import Trainer, TrainingArguments

    arguments = TrainingArguments(
        str(run),
        max_steps=2,
        save_steps=1,
        per_device_train_batch_size=1,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
    )
    ids = torch.arange(8)
    data: Any = [{"input_ids": ids, "labels": ids}] * 8
    trainer: Any = Trainer(_llama(), arguments, train_dataset=data)
    save = trainer._save_checkpoint

    def told(*args: Any, **options: Any) -> None:
        with saving(trainer.state.global_step):
            save(*args, **options)

    trainer._save_checkpoint = told
    trainer.train()


def _trainer_load(path: Path) -> None:
    import torch

    _from_pretrained(path)
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"):
        torch.load(path / name, weights_only=False)
    assert json.loads((path / "trainer_state.json").read_text())["global_step"]


# PEFT


def _peft_train(run: Path, saving: Saving) -> None:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(_llama(), LoraConfig(r=64, target_modules=["q_proj", "v_proj"]))
    for step in STEPS:
        with saving(step):
            model.save_pretrained(run / f"step_{step}")


def _peft_load(path: Path) -> None:
    from peft import PeftModel

    PeftModel.from_pretrained(_llama(), path)


# Lightning


def _lightning_train(run: Path, saving: Saving) -> None:
    import lightning
    import torch
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.demos.boring_classes import BoringModel

    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=2,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[ModelCheckpoint(run, every_n_train_steps=1, save_top_k=-1)],
    )
    save = trainer.save_checkpoint

    def told(*args: Any, **options: Any) -> None:
        with saving(trainer.global_step):
            save(*args, **options)

    trainer.save_checkpoint = told
    model = BoringModel()
    model.layer = torch.nn.Linear(32, 10_000)
    trainer.fit(model)


def _lightning_load(path: Path) -> None:
    import torch

    assert torch.load(path, weights_only=False)["state_dict"]["layer.weight"].shape == (10_000, 32)


# DeepSpeed


def _deepspeed_train(run: Path, saving: Saving) -> None:
    import deepspeed
    import torch

    # It would compile an extension for several ranks on one machine; here is one.
    vars(import_module("deepspeed.comm.torch"))["build_shm_op"] = lambda: None
    os.environ |= {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "0",
    }
    deepspeed.init_distributed(
        "gloo", verbose=False, init_method=f"file://{run}.rendezvous", rank=0, world_size=1
    )
    model = torch.nn.Linear(600, 300)
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=torch.optim.Adam(model.parameters()),
        config={
            "train_batch_size": 1,
            "zero_optimization": {"stage": 1},
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
        },
    )
    for step in STEPS:
        engine.backward(engine(torch.ones(1, 600)).sum())
        engine.step()
        with saving(step):
            engine.save_checkpoint(run)


def _deepspeed_load(path: Path) -> None:
    import torch

    for file in path.iterdir():
        torch.load(file, weights_only=False)


# orbax


def _orbax_train(run: Path, saving: Saving) -> None:
    import jax.numpy as jnp
    import orbax.checkpoint as ocp

    with ocp.CheckpointManager(run.absolute()) as manager:
        for step in STEPS:
            state = {name: jnp.full((600, 300), float(step)) for name in "uvw"}
            with saving(step):
                manager.save(step, args=ocp.args.StandardSave(state))
                manager.wait_until_finished()


def _orbax_load(path: Path) -> None:
    import jax.numpy as jnp
    import orbax.checkpoint as ocp

    state = ocp.StandardCheckpointer().restore(path.absolute() / "default")
    assert all((state[name] == jnp.full((600, 300), float(path.name))).all() for name in "uvw")


LIBRARIES = {
    "dcp": Library(("torch",), _dcp_train, "step_{}", _dcp_load),
    "pretrained": Library(
        ("torch", "transformers"), _pretrained_train, "step_{}", _from_pretrained
    ),
    "trainer": Library(
        ("torch", "transformers", "accelerate"), _trainer_train, "checkpoint-{}", _trainer_load
    ),
    "peft": Library(("torch", "peft"), _peft_train, "step_{}", _peft_load),
    "lightning": Library(
        ("torch", "lightning"), _lightning_train, "epoch=0-step={}.ckpt", _lightning_load
    ),
    "deepspeed": Library(
        ("torch", "deepspeed"), _deepspeed_train, "global_step{}", _deepspeed_load
    ),
    "orbax": Library(("jax", "orbax.checkpoint"), _orbax_train, "{}", _orbax_load),
}


class _Child:
    """A process that saves and tells when each save begins and has returned."""

    def __init__(self, library: Library, run: Path) -> None:
        run.mkdir(parents=True)
        sys.stdout.flush()
        self._read, write = os.pipe()
        self._told = b""
        self.pid = os.fork()
        if self.pid == 0:
            os.setpgid(0, 0)
            os.close(self._read)

            @contextmanager
            def saving(step: int) -> Iterator[None]:
                os.write(write, f"b{step}".encode())
                yield
                os.write(write, f"e{step}".encode())

            _in_child(lambda: library.train(run, saving), run.with_name("modules.txt"))
        os.close(write)

    def wait_for(self, what: str) -> bool:
        """Whether the child has told this; False if it ended before."""
        while what.encode() not in self._told:
            part = os.read(self._read, 2)
            if not part:
                return False
            self._told += part
        return True

    def end(self, *, kill: bool) -> set[int]:
        """The saves that had returned when the child was ended, or has ended by itself."""
        if kill:
            os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        while part := os.read(self._read, 100):
            self._told += part
        os.close(self._read)
        return {step for step in STEPS if f"e{step}".encode() in self._told}


def _in_child(act: Callable[[], object], modules: Path) -> None:
    """Do something and end this process, without what it would do at its end.

    What it imported is written down, for the parent to import it once for all children.
    """
    try:
        act()
        modules.write_text("\n".join(sorted(sys.modules)))
        os._exit(0)
    except BaseException as e:
        print(repr(e), file=sys.stderr, flush=True)
        os._exit(1)


def _import_what_was(modules: Path) -> None:
    for module in modules.read_text().split("\n"):
        with suppress(Exception):
            import_module(module)


def _loads(library: Library, path: Path, modules: Path) -> bool:
    pid = os.fork()
    if pid == 0:
        _in_child(lambda: library.load(path), modules)
    return os.waitpid(pid, 0)[1] == 0


def _names(path: Path) -> list[str]:
    """Names of all files of a checkpoint, without what is random in them."""
    found = [str(p.relative_to(path)) for p in path.rglob("*") if p.is_file()]
    return sorted({_RANDOM.sub("#", name) for name in found})


def main(name: str, root: Path, kills: int, seed: int) -> None:
    """Write the runs and what is known of them."""
    warnings.simplefilter("ignore")
    library = LIBRARIES[name]
    for module in library.modules:
        import_module(module)
    if "torch" in library.modules:
        import torch

        torch.set_num_threads(1)
    took, reference, modules = {}, root / "reference", root / "modules.txt"
    child = _Child(library, reference)
    for step in STEPS:
        child.wait_for(f"b{step}")
        started = time.monotonic()
        child.wait_for(f"e{step}")
        took[step] = time.monotonic() - started
    if child.end(kill=False) != set(STEPS):
        raise SystemExit(f"{name}: nothing can be saved here")
    _import_what_was(modules)
    names = {step: _names(reference / library.entry.format(step)) for step in STEPS}
    rng = random.Random(seed)
    runs = []
    for i in range(-1, kills):
        run = root / str(i) if i >= 0 else reference
        moment, returned = None, set(STEPS)
        if i >= 0:
            step = rng.choice(STEPS)
            moment = rng.uniform(0, 1.1 * took[step])
            child = _Child(library, run)
            if child.wait_for(f"b{step}"):
                time.sleep(moment)
            returned = child.end(kill=True)
        whole = [
            step
            for step in STEPS
            if (path := run / library.entry.format(step)).exists()
            and _names(path) == names[step]
            and _loads(library, path, modules)
        ]
        if run == reference:
            _import_what_was(modules)
        runs.append(
            {"run": run.name, "moment": moment, "returned": sorted(returned), "whole": whole}
        )
    (root / "saves.json").write_text(json.dumps(runs, indent=1))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
