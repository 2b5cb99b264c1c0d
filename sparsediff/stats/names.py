"""What the name of a tensor says: layer, kind of module, depth, and whether experts share it.

Enters: names. Leaves: keys to group by. Nothing is known of any architecture: layers are
numbers in names, experts and routers are words in them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

_NUMBER = re.compile(r"(?:^|(?<=\.))\d{1,9}(?=\.|$)")  # longer ones count nothing
_ROUTER = re.compile(r"(?:^|[._])router(?:[._]|$)|(?:^|\.)(?:shared_expert_)?gate(?:\.|$)")
_EXPERT = re.compile(r"(?:^|\.)(?:local_)?experts?(?:\.|$)")

_MOST = 10**9  # above every number

NONE = "(none)"
_DEPTHS = ("front", "middle", "back", NONE)


def layer(name: str) -> str:
    """Name up to its first number: ``model.layers.12``; ``(none)`` without one."""
    number = _NUMBER.search(name)
    return name[: number.end()] if number else NONE


def kind(name: str) -> str:
    """Name after its last number: ``self_attn.q_proj.weight``; empty if nothing follows."""
    return _NUMBER.split(name)[-1].lstrip(".")


def part(name: str) -> str:
    """``router`` or ``experts`` of a mixture of experts, or ``dense``, which is all the rest.

    An expert that every token passes (``shared_experts``) counts as dense.
    """
    if _ROUTER.search(name):
        return "router"
    return "experts" if _EXPERT.search(name) else "dense"


def depths(names: Sequence[str]) -> list[str]:
    """``front``, ``middle`` or ``back`` third of its layers for each name, or ``(none)``.

    Layers that have the same name but for their number are counted together.
    """
    stems: dict[str, int] = {}  # there may be very many names, so what is known of each is a number
    layers = np.full(len(names), -1)
    for i, name in enumerate(names):
        if n := _NUMBER.search(name):
            stem = stems.setdefault(name[: n.start()], len(stems))
            layers[i] = stem * _MOST + int(n[0])
    distinct, of_name = np.unique(layers, return_inverse=True)
    ends = np.searchsorted(distinct, np.arange(len(stems) + 1) * _MOST)
    stem_of = distinct // _MOST
    begin, end = ends[stem_of], ends[stem_of + 1]
    thirds = 3 * (np.arange(distinct.size) - begin) // np.maximum(end - begin, 1)
    thirds[distinct < 0] = 3
    return [_DEPTHS[third] for third in thirds[of_name].tolist()]
