"""Kernels: the loops over every word and every symbol, free of formats.

What the rest of the package calls is listed here. `steps`, `reference`, `rans` and
`numbers` are NumPy and are the specification; `compiled` takes their place
where the C extension was built, and gives the same results bit for bit.

The environment variable ``SPARSEDIFF_KERNELS`` forces a choice: ``reference``,
or an instruction set of the compiled ones (``avx512``, ``avx2``, ``neon``, ``baseline``). It
is read here, once, because a function cannot be replaced after it was imported.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from sparsediff.errors import UsageError

if TYPE_CHECKING:
    from sparsediff.kernels.rans import decode as rans_decode
    from sparsediff.kernels.rans import encode as rans_encode
    from sparsediff.kernels.reference import (
        Differ,
        Extents,
        Patcher,
        TierCode,
        rebuild,
        remark,
        take_in,
    )
    from sparsediff.kernels.steps import (
        Survey,
        Words,
        count_parts,
        count_steps,
        histogram,
        literals,
        survey,
    )
    from sparsediff.kernels.tables import geometric, tier_tables
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

_COMPILED = (
    "Differ",
    "Patcher",
    "choose_tiers",
    "count_parts",
    "count_steps",
    "geometric",
    "histogram",
    "literals",
    "rans_decode",
    "rans_encode",
    "rebuild",
    "survey",
    "take_in",
    "tier_tables",
)
_OF_RANS = {"rans_decode": "decode", "rans_encode": "encode"}
_ELSEWHERE = {"choose_tiers": "tiers", "geometric": "tables", "tier_tables": "tables"}
_OF_TIERS = ("Differ", "Extents", "Patcher", "TierCode", "rebuild", "remark", "take_in")


def __getattr__(name: str) -> Any:
    """The kernels, imported when first used: their name is to be had without NumPy."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if NAME != "reference" and name in _COMPILED:
        found = getattr(import_module("sparsediff.kernels.compiled"), name)
    elif name in _OF_RANS:
        found = getattr(import_module("sparsediff.kernels.rans"), _OF_RANS[name])
    else:
        module = _ELSEWHERE.get(name, "reference" if name in _OF_TIERS else "steps")
        found = getattr(import_module(f"sparsediff.kernels.{module}"), name)
    globals()[name] = found
    return found


__all__ = [
    "NAME",
    "Differ",
    "Extents",
    "Patcher",
    "Survey",
    "TierCode",
    "Words",
    "choose_tiers",
    "count_parts",
    "count_steps",
    "geometric",
    "histogram",
    "literals",
    "rans_decode",
    "rans_encode",
    "rebuild",
    "remark",
    "survey",
    "take_in",
    "tier_tables",
]
