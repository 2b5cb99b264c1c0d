"""The kernels, one after the other, in one process; the package itself chooses once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sparsediff import kernels
from sparsediff.kernels import rans, reference, steps

_REFERENCE = {
    "Differ": reference.Differ,
    "Patcher": reference.Patcher,
    "count_steps": steps.count_steps,
    "histogram": steps.histogram,
    "rans_decode": rans.decode,
    "rans_encode": rans.encode,
    "survey": steps.survey,
}


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
