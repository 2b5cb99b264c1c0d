"""The kernels, one after the other, in one process; the package itself chooses once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sparsediff import kernels
from sparsediff.kernels import rans, reference, steps, tables, tiers

_REFERENCE = {
    "Differ": reference.Differ,
    "Patcher": reference.Patcher,
    "choose_tiers": tiers.choose_tiers,
    "count_parts": steps.count_parts,
    "count_steps": steps.count_steps,
    "geometric": tables.geometric,
    "histogram": steps.histogram,
    "literals": steps.literals,
    "rans_decode": rans.decode,
    "rans_encode": rans.encode,
    "rebuild": reference.rebuild,
    "survey": steps.survey,
    "take_in": reference.take_in,
    "tier_tables": tables.tier_tables,
}
assert _REFERENCE.keys() == set(kernels._COMPILED), "one would go on with the other's objects"


def paths() -> list[str]:
    """Those that this machine has; not `baseline`, whose C is compiled of the same lines."""
    return ["reference"] if kernels.NAME == "reference" else ["compiled", "reference"]


@contextmanager
def using(path: str) -> Iterator[None]:
    """Let everything that calls kernels call those of ``path``."""
    before = {name: getattr(kernels, name) for name in _REFERENCE}
    if path == "reference":
        for name, value in _REFERENCE.items():
            setattr(kernels, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(kernels, name, value)
