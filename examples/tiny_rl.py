"""A tiny but real trainer: a byte-level transformer, pretrained, then policy-gradient steps.

It learns bytes from the Python sources of the standard library for some
seconds, and is then pushed by REINFORCE, AdamW at learning rate 1e-6, towards
writing spaces. Masters are float32; every checkpoint is stored as bf16, as
trainers do, in a sharded Hugging Face directory.

    python examples/tiny_rl.py OUT_DIR --steps 3

Needs PyTorch and transformers: the extra `examples`.
"""

from __future__ import annotations

import argparse
import copy
import random
import sysconfig
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

logging.disable_progress_bar()  # type: ignore[no-untyped-call]

CONTEXT = 64  # bytes
BATCH = 8


def text() -> torch.Tensor:
    """Some megabytes of real text: the standard library's own sources. uint8, (n_bytes,)."""
    library = Path(sysconfig.get_paths()["stdlib"])
    sources = sorted(library.glob("*.py"))[:120]
    data = b"".join(p.read_bytes() for p in sources)
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def batch(data: torch.Tensor) -> torch.Tensor:
    """Random windows of the text, int64, (BATCH, CONTEXT)."""
    starts = torch.randint(len(data) - CONTEXT, (BATCH,))
    return torch.stack([data[s : s + CONTEXT] for s in starts]).long()


def build() -> Any:
    """A Llama of 3.3 million parameters over bytes."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=256,
            hidden_size=256,
            intermediate_size=688,
            num_hidden_layers=4,
            num_attention_heads=4,
            max_position_embeddings=256,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=0,
        )
    )


def pretrain(model: Any, data: torch.Tensor, steps: int) -> float:
    """Next-byte prediction; returns the last loss in nats per byte."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    loss = torch.tensor(0.0)
    for _ in range(steps):
        tokens = batch(data)
        loss = model(input_ids=tokens, labels=tokens).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return float(loss.detach())


def policy_gradient_step(model: Any, optimizer: Any, data: torch.Tensor) -> float:
    """Sample continuations, reward their spaces, reinforce; returns the mean reward."""
    prompts = batch(data)[:, : CONTEXT // 2]
    with torch.no_grad():
        samples = model.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            max_new_tokens=CONTEXT // 2,
            do_sample=True,
            top_k=0,
        )
    new = samples[:, prompts.shape[1] :]
    reward = (new == ord(" ")).float().mean(dim=1)
    advantage = (reward - reward.mean()) / (reward.std() + 1e-6)
    logits = model(input_ids=samples).logits[:, prompts.shape[1] - 1 : -1]
    chosen = torch.log_softmax(logits, dim=-1).gather(-1, new[..., None])[..., 0]
    loss = -(advantage[:, None] * chosen).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return float(reward.mean())


def save(model: Any, path: Path) -> None:
    """Store the masters as bf16, sharded."""
    copy.deepcopy(model).to(torch.bfloat16).save_pretrained(path, max_shard_size="4MB")


def train(out: Path, steps: int, pretrain_steps: int = 60, lr: float = 1e-6) -> list[Path]:
    """Write ``steps`` + 1 checkpoints ``out/step_000`` … and return their paths."""
    torch.manual_seed(0)
    random.seed(0)
    data, model = text(), build()
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters")
    print(f"pretrained to {pretrain(model, data, pretrain_steps):.2f} nats per byte")
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    for _ in range(3):  # let the optimizer's moments settle, as in the middle of a run
        policy_gradient_step(model, optimizer, data)
    paths = [out / f"step_{i:03d}" for i in range(steps + 1)]
    save(model, paths[0])
    for i, path in enumerate(paths[1:], 1):
        reward = policy_gradient_step(model, optimizer, data)
        save(model, path)
        print(f"step {i}: mean reward {reward:.4f}")
    return paths


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=3)
    args = parser.parse_args()
    train(args.out, args.steps)
