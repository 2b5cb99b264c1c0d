"""Kernels: the loops over every word and every symbol, free of formats.

What the rest of the package calls is listed here. `steps`, `reference`, `rans`,
`numbers` and `payloads`, which are NumPy, and `integers` are the specification; `compiled`
takes their place where the C extension was built, needs no NumPy, and gives the same results
bit for bit.
Words are then views of memory instead of arrays: both have a length, an item size and slices.

The environment variable ``SPARSEDIFF_KERNELS`` forces a choice: ``reference``,
or an instruction set of the compiled ones (``avx512``, ``avx2``, ``neon``, ``baseline``). It
is read here, once, because a function cannot be replaced after it was imported.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from sparsediff.errors import UsageError
from sparsediff.kernels.symbols import Extents, Survey, Words

if TYPE_CHECKING:
    from sparsediff.kernels.integers import read_integers
    from sparsediff.kernels.payloads import patcher, payload_of
    from sparsediff.kernels.reference import Differ, Patcher, choose_by_sample, rebuild, take_in
    from sparsediff.kernels.steps import (
        count_parts,
        count_steps,
        differences,
        from_planes,
        literals,
        planes,
        room,
        survey,
    )
    from sparsediff.kernels.tiers import choose_tiers

NAME = "reference"

_wanted = os.environ.get("SPARSEDIFF_KERNELS") or None
if not TYPE_CHECKING and _wanted != NAME:
    try:
        from sparsediff.kernels import _native

        NAME = f"compiled, {_native.use(_wanted)}"
    except (ImportError, LookupError) as e:
        if _wanted:
            raise UsageError(f"SPARSEDIFF_KERNELS={_wanted}: no such kernels here ({e})") from None

_HOMES = {
    "Differ": "reference",
    "Patcher": "reference",
    "choose_by_sample": "reference",
    "choose_tiers": "tiers",
    "count_parts": "steps",
    "count_steps": "steps",
    "differences": "steps",
    "from_planes": "steps",
    "literals": "steps",
    "patcher": "payloads",
    "payload_of": "payloads",
    "planes": "steps",
    "read_integers": "integers",
    "rebuild": "reference",
    "room": "steps",
    "survey": "steps",
    "take_in": "reference",
}


def __getattr__(name: str) -> Any:
    """The kernels, imported when first used: their name is to be had without NumPy."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if NAME != "reference":
        found = getattr(import_module("sparsediff.kernels.compiled"), name)
    else:
        found = getattr(import_module(f"sparsediff.kernels.{_HOMES[name]}"), name)
    globals()[name] = found
    return found


__all__ = [
    "NAME",
    "Differ",
    "Extents",
    "Patcher",
    "Survey",
    "Words",
    "choose_by_sample",
    "choose_tiers",
    "count_parts",
    "count_steps",
    "differences",
    "from_planes",
    "literals",
    "patcher",
    "payload_of",
    "planes",
    "read_integers",
    "rebuild",
    "room",
    "survey",
    "take_in",
]
