"""Why a store has no pointer: it is new, its first version is on its way, it lost it, or it
is no store at all.

Enters: a store in which nothing was found under the name of the pointer, or a path that
was given as a destination or a source. Leaves: the error that says what is there instead.
"""

from __future__ import annotations

import os
from pathlib import Path

from sparsediff.errors import CorruptError, SparsediffError, UnavailableError, UsageError
from sparsediff.shipping.catalog import PREFIX, Catalog
from sparsediff.shipping.catalog_json import POINTER, read_catalog
from sparsediff.stores import Store

HOME = ".sparsediff"  # in a destination of `pull`
_IN_PLACE = ".{}.sparsediff-pull"  # beside one
_FIRST = f"{PREFIX}{1:06}-"  # begins the keys of what a first version consists of


def home_in_place(dest: Path) -> Path:
    """Where `pull` in place keeps what it remembers of ``dest``."""
    return dest.parent / _IN_PLACE.format(dest.name)


def existing_catalog(store: Store) -> tuple[Catalog, str]:
    """The catalog of a store and the tag of its pointer; raises `no_pointer` if it has none.

    Raises:
        SparsediffError: as `read_catalog` does.
    """
    found = read_catalog(store)
    if found is None:
        raise no_pointer(store)
    return found


def no_pointer(store: Store) -> SparsediffError:
    """The error for a store without a pointer.

    UsageError if it is a destination of `pull`, CorruptError if only the pointer is lost,
    UnavailableError if nothing was shipped yet, or no more than objects of a first version.
    """
    here = Path(os.path.abspath(store.name))
    if "://" not in store.name and ((here / HOME).is_dir() or os.path.lexists(home_in_place(here))):
        return UsageError(
            "is a destination of pull, not a store; give the store first and the destination after",
            file=store.name,
        )
    missing = "is missing, but not the objects"
    repair = "sparsediff check STORE --repair makes a new one"
    if store.trust is not None:  # which that would refuse: it would vouch for what nobody signed
        repair = "put a signed one back, or let ship --rewind begin anew"
    file = f"{store.name}/{POINTER}"
    has_first = False
    for stored in store.list(PREFIX):
        if not stored.key.startswith(_FIRST):
            return CorruptError(f"{missing}; {repair}", file=file)
        has_first = True
    if has_first:
        return UnavailableError(
            f"{missing} of a first version, which may be on its way; if not, {repair}",
            file=file,
        )
    return UnavailableError("nothing has been shipped here yet", file=store.name)


def has_objects(store: Store) -> bool:
    """Whether there is an object that could be of a version."""
    return next(store.list(PREFIX), None) is not None


def check_no_store(path: Path | str, what: str) -> None:
    """Raise UsageError if a path is plainly that of a store.

    Args:
        path: given where a directory of another kind is wanted.
        what: the kind that is wanted, and in which order to give both.
    """
    if "://" in str(path) or os.path.isfile(Path(path, POINTER)):
        raise UsageError(f"is a store, not {what}", file=path)
