"""A model that generates while patches arrive is the trainer's model, bit for bit."""

from __future__ import annotations

import copy
import importlib.util
import multiprocessing
import shutil
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import sparsediff
from sparsediff import torch as live

ROOT = Path(__file__).parents[2]
_SPEC = importlib.util.spec_from_file_location("tiny_rl", ROOT / "examples" / "tiny_rl.py")
assert _SPEC is not None
assert _SPEC.loader is not None
tiny_rl: Any = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(tiny_rl)

N_PATCHES = 20
PROMPT = torch.arange(32)[None] + 64


def load(path: Path, model: Any = None) -> Any:
    """A bf16 model, this or a new one, with the weights of a checkpoint."""
    model = model or tiny_rl.build().to(torch.bfloat16).eval()
    model.load_state_dict(load_file(path), strict=True)
    return model


@torch.no_grad()
def logits(model: Any) -> bytes:
    found: torch.Tensor = model(input_ids=PROMPT).logits.contiguous()
    return bytes(found.view(torch.int16).numpy().tobytes())


def engine(base: Path, pipe: Connection) -> None:
    """Generate until told to stop; between two tokens, take up what has arrived."""
    torch.set_num_threads(1)
    model = load(base)
    places = [p.data_ptr() for p in model.parameters()]
    tokens, n_tokens = PROMPT, 0
    while True:
        with torch.no_grad():
            token = model(input_ids=tokens).logits[:, -1:].argmax(-1)
        tokens = torch.cat([tokens, token], 1)[:, -64:]
        n_tokens += 1
        if not pipe.poll():
            continue
        patch = pipe.recv()
        if patch is None:
            break
        try:
            result = live.apply_to_module(patch, model)
            pipe.send((len(result.changed), n_tokens, logits(model)))
        except sparsediff.SparsediffError as e:
            pipe.send((type(e).__name__, n_tokens, logits(model)))
    assert [p.data_ptr() for p in model.parameters()] == places
    pipe.send(n_tokens)


@pytest.fixture
def steps() -> Iterator[Any]:
    """The trainer's state dicts, bf16, after each of its steps."""
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    data, model = tiny_rl.text(), tiny_rl.build()
    tiny_rl.pretrain(model, data, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)

    def each() -> Iterator[dict[str, torch.Tensor]]:
        while True:
            yield live.cast(model.state_dict(), torch.bfloat16)
            tiny_rl.policy_gradient_step(model, optimizer, data)

    yield each()
    torch.set_num_threads(threads)


def test_twenty_patches_into_a_running_engine(
    steps: Iterator[dict[str, torch.Tensor]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny_rl, "CONTEXT", 8)  # shorter samples: this is about weights
    writer = live.PatchWriter(tmp_path / "patches", metadata={"format": "pt"})
    (tmp_path / "nothing").mkdir()
    full = tmp_path / "full.safetensors"
    anchor = writer.step(next(steps), 0)
    sparsediff.apply_patch(tmp_path / "nothing", anchor, full)

    base = shutil.copy(full, tmp_path / "base.safetensors")
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=engine, args=(base, theirs))
    process.start()
    theirs.close()
    try:
        reference = load(full)
        n_before, seen = 0, {logits(reference)}
        for step in range(1, N_PATCHES + 1):
            patch = writer.step(copy.copy(next(steps)), step)
            if step == 10:  # one that is damaged, and one of the wrong step, change nothing
                bad = bytearray(patch.read_bytes())
                bad[-3] ^= 1
                (tmp_path / "bad.sdiff").write_bytes(bad)
                for wrong, error in (
                    (tmp_path / "bad.sdiff", "CorruptError"),
                    (tmp_path / "patches" / "000000003.sdiff", "WrongBaseError"),
                ):
                    ours.send(wrong)
                    assert ours.recv()[::2] == (error, logits(load(full, reference)))
            ours.send(patch)
            sparsediff.apply_patch(full, patch, in_place=True)
            n_changed, n_tokens, found = ours.recv()
            assert n_changed > 0
            assert found == logits(load(full, reference))
            assert n_tokens > n_before
            n_before = n_tokens
            seen.add(found)
        assert len(seen) > N_PATCHES // 2  # the patches made a difference
        ours.send(None)
        assert ours.recv() > N_PATCHES
        process.join(20)
        assert process.exitcode == 0
    finally:
        process.kill()
