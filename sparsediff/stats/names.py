"""What the name of a tensor says: layer, kind of module, depth, and whether experts share it.

Enters: names. Leaves: keys to group by. Nothing is known of any architecture: layers are
numbers in names, experts and routers are words in them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_NUMBER = re.compile(r"(?:^|(?<=\.))\d+(?=\.|$)")
_ROUTER = re.compile(r"(?:^|[._])router(?:[._]|$)|(?:^|\.)(?:shared_expert_)?gate(?:\.|$)")
_EXPERT = re.compile(r"(?:^|\.)(?:local_)?experts?(?:\.|$)")

NONE = "(none)"


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
    layers = [
        (name[: n.start()], int(n[0])) if (n := _NUMBER.search(name)) else None for name in names
    ]
    stacks: dict[str, set[int]] = {}
    for found in layers:
        if found is not None:
            stacks.setdefault(found[0], set()).add(found[1])
    third = {
        (stem, number): ("front", "middle", "back")[3 * rank // len(numbers)]
        for stem, numbers in stacks.items()
        for rank, number in enumerate(sorted(numbers))
    }
    return [NONE if found is None else third[found] for found in layers]
