"""The kernels, one after the other, in one process; the package itself chooses once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

from sparsediff import kernels

_REFERENCE = {
    name: getattr(import_module(f"sparsediff.kernels.{home}"), name)
    for name, home in kernels._HOMES.items()
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
