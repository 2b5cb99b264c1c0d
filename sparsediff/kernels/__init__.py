"""Kernels: the loops over every word and every symbol, free of files and formats.

What the rest of the package calls is listed here. `reference`, `rans` and
`numbers` are NumPy and are the specification; a compiled sibling may take the
place of any of these functions if it gives the same results bit for bit.
"""

from sparsediff.kernels.rans import decode as rans_decode
from sparsediff.kernels.rans import encode as rans_encode
from sparsediff.kernels.reference import Survey, TierCode, Words, count_steps, diff, patch, survey

NAME = "reference"

__all__ = [
    "NAME",
    "Survey",
    "TierCode",
    "Words",
    "count_steps",
    "diff",
    "patch",
    "rans_decode",
    "rans_encode",
    "survey",
]
