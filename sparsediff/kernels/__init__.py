"""Kernels: the loops over every word and every symbol, free of files and formats.

What the rest of the package calls is listed here. `reference`, `rans` and
`numbers` are NumPy and are the specification; `compiled` takes their place
where the C extension was built, and gives the same results bit for bit.

The environment variable ``SPARSEDIFF_KERNELS`` forces a choice: ``reference``,
or an instruction set of the compiled ones (``avx2``, ``baseline``). It is read
here, once, because a function cannot be replaced after it was imported.
"""

import os
from typing import TYPE_CHECKING

from sparsediff.errors import UsageError
from sparsediff.kernels.rans import decode as rans_decode
from sparsediff.kernels.rans import encode as rans_encode
from sparsediff.kernels.reference import (
    Differ,
    Patcher,
    Survey,
    TierCode,
    Words,
    count_steps,
    histogram,
    remark,
    survey,
)

NAME = "reference"

_wanted = os.environ.get("SPARSEDIFF_KERNELS") or None
if not TYPE_CHECKING and _wanted != NAME:
    try:
        from sparsediff.kernels import compiled

        NAME = f"compiled, {compiled.use(_wanted)}"
    except (ImportError, LookupError) as e:
        if _wanted:
            raise UsageError(f"SPARSEDIFF_KERNELS={_wanted}: no such kernels here ({e})") from None
    else:
        from sparsediff.kernels.compiled import (
            Differ,
            Patcher,
            count_steps,
            histogram,
            rans_decode,
            rans_encode,
            survey,
        )

__all__ = [
    "NAME",
    "Differ",
    "Patcher",
    "Survey",
    "TierCode",
    "Words",
    "count_steps",
    "histogram",
    "rans_decode",
    "rans_encode",
    "remark",
    "survey",
]
