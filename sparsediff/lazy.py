"""Names of a package that are imported when they are first used.

Enters: which module of the package has which names. Leaves: the package's ``__getattr__``.
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # `typing` takes longer to import than all of this
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def names_of(package: str, homes: dict[str, tuple[str, ...]]) -> Callable[[str], Any]:
    """``__getattr__`` of ``package``.

    Args:
        package: its ``__name__``.
        homes: names by the module that they are in. None is that of a module of the package,
            which would take its place as soon as it is imported.
    """
    found_in = {name: home for home, names in homes.items() for name in names}

    def find(name: str) -> Any:
        if name not in found_in:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{found_in[name]}"), name)

    return find
