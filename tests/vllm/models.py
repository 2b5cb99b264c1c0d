"""Small checkpoints that vLLM can load, by steps of training as far as it matters here."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch

VOCAB = 512


def _model(kind: str, **more: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    sizes: dict[str, Any] = {
        "vocab_size": VOCAB,
        "hidden_size": 128,
        "intermediate_size": 352,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "tie_word_embeddings": kind == "qwen2",
        "bos_token_id": 1,
        "eos_token_id": 2,
    } | more
    torch.manual_seed(0)
    if kind == "qwen2":  # tied head, biases
        return Qwen2ForCausalLM(Qwen2Config(**sizes))
    return LlamaForCausalLM(LlamaConfig(**sizes))


class Trainer:
    """A trainer with float32 masters that saves bf16; each step changes some per cent.

    Args:
        kind: ``qwen2``, with a tied head and biases, or ``llama``.
        lr: of the steps that are saved; the five before are larger.
        sizes: of the model, as its configuration names them.
    """

    def __init__(self, kind: str, *, lr: float = 1e-5, **sizes: Any) -> None:
        self._model = _model(kind, **sizes).float()
        self._optimizer = torch.optim.AdamW(self._model.parameters(), lr=1e-3)
        for _ in range(5):
            self._step()
        for group in self._optimizer.param_groups:
            group["lr"] = lr

    def _step(self) -> None:
        tokens = torch.randint(3, VOCAB, (2, 32))
        self._model(input_ids=tokens, labels=tokens).loss.backward()
        self._optimizer.step()
        self._optimizer.zero_grad()

    def save(self, path: Path) -> Path:
        """One step, and a checkpoint that appears whole."""
        self._step()
        temp = path.with_name(f".tmp-{path.name}")
        stored = copy.deepcopy(self._model).to(torch.bfloat16)
        stored.save_pretrained(temp)
        _tokenizer().save_pretrained(temp)
        temp.rename(path)
        return path


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"w{i}": i for i in range(3, VOCAB)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    kind: Any = PreTrainedTokenizerFast
    return kind(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
