"""The kernels, one after the other, in one process; the package itself chooses once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sparsediff import kernels
from sparsediff.kernels import rans, reference

_NAMES = ("Differ", "Patcher", "count_steps", "histogram", "survey")


def paths() -> list[str]:
    """Those that this machine has; not `baseline`, whose C is compiled of the same lines."""
    return ["reference"] if kernels.NAME == "reference" else ["compiled", "reference"]


@contextmanager
def using(path: str) -> Iterator[None]:
    """Let everything that calls kernels call those of ``path``."""
    names = (*_NAMES, "rans_encode", "rans_decode")
    before = {name: getattr(kernels, name) for name in names}
    if path == "reference":
        for name in _NAMES:
            setattr(kernels, name, getattr(reference, name))
        kernels.rans_encode, kernels.rans_decode = rans.encode, rans.decode
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(kernels, name, value)
