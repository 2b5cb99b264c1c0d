"""A small language model over bytes, in plain PyTorch: the one that the examples tune.

Enters: bytes of text. Leaves: a decoder of the Llama kind (RMSNorm, rotary positions, SwiGLU,
optionally a mixture of experts) whose tensors have the names that Hugging Face gives them, its
weights in whatever dtype they are held and its activations in float32. `pretrained` trains it
on the sources of Python's standard library, which are on every machine.

Needs PyTorch and safetensors: the extra `examples`.
"""

from __future__ import annotations

import hashlib
import math
import os
import sysconfig
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

VOCABULARY = 128  # bytes below 128; whatever is above becomes 127
Cache = list[tuple[Tensor, Tensor]]
Say = Callable[[str], object]


@dataclass(frozen=True)
class Config:
    """Sizes of a model: 3.2 million weights as they stand."""

    width: int = 256
    layers: int = 4
    heads: int = 4
    inner: int = 688
    experts: int = 0  # 0: no mixture, one feed-forward per layer
    chosen: int = 2  # experts per token


class Linear(nn.Module):
    """A matrix that is used in the dtype of the activations, whatever it is stored in."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_out, n_in) * n_in**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """(..., n_in) → (..., n_out)."""
        return functional.linear(x, self.weight.to(x.dtype))


class Norm(nn.Module):
    """RMSNorm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) → (..., width)."""
        return functional.rms_norm(x, x.shape[-1:], self.weight.to(x.dtype), 1e-6)


def rotate(x: Tensor, start: int) -> Tensor:
    """Rotary positions from ``start`` on; (batch, heads, length, size)."""
    half = x.shape[-1] // 2
    frequencies = 10_000.0 ** (-torch.arange(half) / half)
    angles = torch.arange(start, start + x.shape[-2])[:, None] * frequencies  # (length, half)
    cos, sin = angles.cos(), angles.sin()
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


class Attention(nn.Module):
    """Causal self-attention."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.heads = c.heads
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (
            Linear(c.width, c.width) for _ in range(4)
        )

    def forward(self, x: Tensor, past: tuple[Tensor, Tensor] | None) -> tuple[Tensor, ...]:
        """(batch, length, width) and earlier keys and values → the same, and all of them."""
        batch, length, width = x.shape
        q, k, v = (
            p(x).view(batch, length, self.heads, -1).transpose(1, 2)
            for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        start = 0 if past is None else past[0].shape[2]
        q, k = rotate(q, start), rotate(k, start)
        if past is not None:
            k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        mask = torch.ones(length, start + length, dtype=torch.bool).tril(start)
        y = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.o_proj(y.transpose(1, 2).reshape(batch, length, width)), k, v


class FeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = Linear(c.width, c.inner), Linear(c.width, c.inner)
        self.down_proj = Linear(c.inner, c.width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) → (..., width)."""
        y: Tensor = self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return y


class Mixture(nn.Module):
    """Feed-forwards of which a router chooses some for each token."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.chosen = c.chosen
        self.gate = Linear(c.width, c.experts)
        self.experts = nn.ModuleList(FeedForward(c) for _ in range(c.experts))

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) → (..., width)."""
        flat = x.reshape(-1, x.shape[-1])
        weights, which = self.gate(flat).softmax(-1).topk(self.chosen, dim=-1)
        weights = weights / weights.sum(-1, keepdim=True)
        out = torch.zeros_like(flat)
        for i, expert in enumerate(self.experts):
            rows, slot = torch.where(which == i)
            if len(rows):
                out = out.index_add(0, rows, expert(flat[rows]) * weights[rows, slot][:, None])
        return out.view_as(x)


class Block(nn.Module):
    """Attention and feed-forward, each with its norm and around it a residual."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.input_layernorm, self.post_attention_layernorm = Norm(c.width), Norm(c.width)
        self.self_attn = Attention(c)
        self.mlp = Mixture(c) if c.experts else FeedForward(c)

    def forward(
        self, x: Tensor, past: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """(batch, length, width) → the same, and keys and values."""
        y, k, v = self.self_attn(self.input_layernorm(x), past)
        x = x + y
        return x + self.mlp(self.post_attention_layernorm(x)), (k, v)


class Decoder(nn.Module):
    """Embedding and blocks."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(VOCABULARY, c.width)
        self.layers = nn.ModuleList(Block(c) for _ in range(c.layers))
        self.norm = Norm(c.width)


class SmallLM(nn.Module):
    """The model. Weights are drawn with the global generator of PyTorch."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.model = Decoder(config)
        self.lm_head = Linear(config.width, VOCABULARY)

    def forward(self, tokens: Tensor, past: Cache | None = None) -> tuple[Tensor, Cache]:
        """Logits of the next token, float32, (batch, length, VOCABULARY), and the cache.

        Args:
            tokens: int64, (batch, length), those after the ones in ``past``.
            past: what an earlier call returned.
        """
        x = self.model.embed_tokens(tokens).float()
        cache = []
        for i, block in enumerate(self.model.layers):
            x, kept = block(x, None if past is None else past[i])
            cache.append(kept)
        return self.lm_head(self.model.norm(x)), cache

    def log_probabilities(self, tokens: Tensor, first: int) -> Tensor:
        """Of each token from position ``first`` on, given those before; (batch, length - first)."""
        logits = self(tokens[:, :-1])[0][:, first - 1 :]
        chosen: Tensor = logits.log_softmax(-1).gather(-1, tokens[:, first:, None])
        return chosen.squeeze(-1)

    @torch.no_grad()
    def sample(self, prompts: Tensor, n: int, end: int, generator: torch.Generator) -> Samples:
        """Continue ``prompts``, all of one length, at temperature 1, until ``end`` or ``n`` tokens.

        Args:
            prompts: int64, (batch, length).
            n: tokens at most.
            end: the token that ends an answer; what follows it is ``end`` again.
            generator: what decides.
        """
        cache: Cache | None = None
        new, answer, chances = prompts, [], []
        done = torch.zeros(len(prompts), dtype=torch.bool)
        for _ in range(n):
            logits, cache = self(new, cache)
            log_p = logits[:, -1].log_softmax(-1)
            token = torch.multinomial(log_p.exp(), 1, generator=generator)
            token[done] = end
            answer.append(token)
            chances.append(log_p.gather(-1, token).where(~done[:, None], torch.zeros(())))
            done = done | (token[:, 0] == end)
            new = token
        return Samples(torch.cat(answer, 1), torch.cat(chances, 1))


@dataclass(frozen=True)
class Samples:
    """What was sampled.

    Attributes:
        answers: int64, (batch, n).
        log_p: of each token when it was drawn, float32, (batch, n); 0 after the end.
    """

    answers: Tensor
    log_p: Tensor


def encode(text: str) -> list[int]:
    """Tokens of a text."""
    return [min(b, VOCABULARY - 1) for b in text.encode()]


def decode(tokens: Tensor | list[int]) -> str:
    """The text of tokens."""
    return bytes(int(t) for t in tokens).decode("ascii", "replace")


def library() -> Tensor:
    """Some megabytes of real text: sources of the standard library; uint8, (n_bytes,)."""
    sources = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    text = bytearray(b"\n".join(p.read_bytes() for p in sources))
    data = torch.frombuffer(text, dtype=torch.uint8)
    return data.clamp(max=VOCABULARY - 1)


def train(
    model: SmallLM,
    batches: Callable[[int], tuple[Tensor, Tensor]],
    steps: int,
    lr: float,
    say: Say,
) -> None:
    """Next-byte prediction with AdamW and a learning rate that falls to a tenth.

    Args:
        model: changed in place, float32.
        batches: step → tokens, (batch, length), and which of them count, from the second on.
        steps: how many.
        lr: the highest.
        say: told how it goes.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95))
    warm = max(1, steps // 10)
    said = time.monotonic()
    for step in range(steps):
        rate = min(1.0, (step + 1) / warm) * (0.55 + 0.45 * math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = lr * rate
        tokens, counts = batches(step)
        log_p = model.log_probabilities(tokens, 1)
        loss = -(log_p * counts[:, 1:]).sum() / counts[:, 1:].sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if time.monotonic() > said + 5 or step == steps - 1:
            said = time.monotonic()
            say(f"  step {step + 1} of {steps}: {float(loss.detach()):.2f} nats per byte")


def pretrained(
    config: Config, steps: int, seed: int, say: Say, *, batch: int = 16, length: int = 128
) -> SmallLM:
    """A model that has read ``steps`` batches of the standard library; float32."""
    data = library()
    torch.manual_seed(seed)
    model = SmallLM(config)
    n = sum(p.numel() for p in model.parameters())
    say(f"a model of {n:,} weights reads {steps * batch * length:,} bytes of Python's library")
    generator = torch.Generator().manual_seed(seed)
    everything = torch.ones(batch, length)

    def batches(step: int) -> tuple[Tensor, Tensor]:
        starts = torch.randint(len(data) - length, (batch,), generator=generator)
        return torch.stack([data[s : s + length] for s in starts]).long(), everything

    train(model, batches, steps, 2e-3, say)
    return model


def cached(
    config: Config, recipe: object, make: Callable[[], SmallLM], say: Say, kept: Path | None
) -> SmallLM:
    """What ``make`` returned the first time; later from a file.

    Args:
        config: of the model.
        recipe: all that the weights depend on; its `repr` names the file.
        make: trains the model.
        say: told where the model comes from.
        kept: directory of the files; by default ``~/.cache/sparsediff-examples``.
    """
    name = hashlib.sha256(repr((config, recipe, torch.__version__)).encode()).hexdigest()[:16]
    base = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    path = (kept or base / "sparsediff-examples") / f"lm-{name}.safetensors"
    if path.exists():
        say(f"the model trained before, from {path}")
        model = SmallLM(config)
        model.load_state_dict(load_file(path))
        return model
    model = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}")
    save_file(model.state_dict(), partial)
    partial.replace(path)
    return model
