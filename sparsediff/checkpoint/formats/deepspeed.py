"""States of DeepSpeed: which files of the other ranks belong to the file of one.

Enters: ``mp_rank_00_model_states.pt``, an archive of torch whose pickle says how many
ranks there were. Leaves: the files of all of them. What the pickle does not say is not
asked for; the names are those that DeepSpeed gives.
"""

from __future__ import annotations

from typing import Any

from sparsediff.checkpoint.formats import torch_zip
from sparsediff.checkpoint.formats.pickles import Dict
from sparsediff.checkpoint.formats.span import Reference
from sparsediff.disk.inputs import InputFile

NAMES = r"(?:zero_pp_rank_\d+_)?mp_rank_\d+_model_states\.pt"
_MAX_RANKS = 1 << 16  # of all kinds together


def references(file: InputFile) -> list[Reference]:
    """Files of the other ranks, and of the optimizer of each where ZeRO has divided it."""
    state = _dict(torch_zip.read_root(file))
    n_model, n_data = _count(state.get("mp_world_size")), _count(state.get("dp_world_size"))
    if n_model * n_data > _MAX_RANKS:  # a lie, or no run there has been
        return []
    config = _dict(state.get("ds_config"))
    stage = _dict(config.get("zero_optimization")).get("stage")
    zero = stage if isinstance(stage, int) else 0
    prefix = "bf16_" if _dict(config.get("bf16")).get("enabled") is True else ""
    names = []
    for m in range(n_model):
        for d in range(n_data if zero >= 3 else 1):
            rank = f"zero_pp_rank_{d}_" if zero >= 3 else ""
            names.append(f"{rank}mp_rank_{m:02}_model_states.pt")
        if zero and state.get("param_shapes") is not None:  # there is an optimizer
            names += [
                f"{prefix}zero_pp_rank_{d}_mp_rank_{m:02}_optim_states.pt" for d in range(n_data)
            ]
    return [Reference(name) for name in names]


def _count(value: Any) -> int:
    return value if type(value) is int and 0 < value <= _MAX_RANKS else 1


def _dict(node: Any) -> dict[Any, Any]:
    """The texts a dictionary holds, as keys, and what they stand for."""
    pairs = node.pairs if isinstance(node, Dict) else ()
    return {key: value for key, value in pairs if isinstance(key, str)}
