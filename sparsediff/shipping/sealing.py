"""A catalog into a store: older versions go to pages, so that the pointer stays small.

Enters: a catalog that was changed. Leaves: pages and lists that were put before the pointer
that names them. Which versions share a page follows from their numbers alone: whoever
writes a history makes the same pages of it, and adding a version changes none.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import groupby

from sparsediff.checksum import digest
from sparsediff.errors import UnsupportedError, UsageError
from sparsediff.parallel import ordered_map
from sparsediff.shipping.catalog import PREFIX, Catalog, Dropped
from sparsediff.shipping.catalog_json import POINTER, dump, dump_page
from sparsediff.shipping.pages import History, Page, natural
from sparsediff.shipping.small import put_small, to_lines
from sparsediff.stores import Store
from sparsediff.stores.store import MAX_SMALL_BYTES

FAN = 32
"""Numbers of versions to a page, pages to a page of pages, and the fewest numbers that stay
in the pointer; as many names of dropped objects."""

PAGES = f"{PREFIX}pages/"
LIST_FORMAT = "sparsediff-dropped"
_PUTS = 8  # at once
_MOST = (1 << 63) - 1  # that a reader takes for a number


def write_catalog(store: Store, catalog: Catalog, tag: str | None) -> bool:
    """Make a catalog the one of the store, if its pointer is still the one with this tag.

    Returns:
        False if another writer was faster. What was put by then are orphans.

    Raises:
        UsageError: nobody signs it, though it was signed or keys are trusted.
        UnsupportedError: the pointer would have more bytes than a reader takes.
        UnavailableError: the store is out of reach.
    """
    check_signer(store, catalog)
    made: dict[str, bytes] = {}
    if catalog.layout > 1:
        history = sealed(catalog.history, made)
        kept = {p.key for p in catalog.replaced} & set(made)
        gone = tuple(p for p in catalog.replaced if p.key not in made)
        dropped = tuple(d for d in (*catalog.dropped, *gone) if d.key not in made)
        dropped = _listed(dropped, made)
        catalog = replace(catalog, versions=history, dropped=dropped, replaced=())
        new = [(key, data) for key, data in made.items() if key not in kept]
        for _ in ordered_map(lambda item: put_small(store, *item), new, _PUTS):
            pass
    data = dump(catalog, store.signer)
    if len(data) > MAX_SMALL_BYTES:
        raise UnsupportedError(
            "store has too many versions for its pointer; `upgrade=True` of check gives it a "
            "layout without that limit",
            file=store.name,
            expected=f"a pointer of at most {MAX_SMALL_BYTES} bytes",
            found=f"{len(data)} bytes",
        )
    return store.swap(POINTER, data, tag)


def check_signer(store: Store, catalog: Catalog | None) -> None:
    """Raise UsageError if a pointer without signatures would be written where one needs them."""
    if store.signer is not None:
        return
    if catalog is not None and catalog.is_signed:
        raise UsageError(
            "this store is signed, and would not be any more; give the key (`sign`)",
            file=store.name,
        )
    if store.trust is not None:
        raise UsageError(
            "only what is signed is trusted, and nobody would sign what is written; give the key "
            "(`sign`)",
            file=store.name,
        )


def sealed(history: History, made: dict[str, bytes]) -> History:
    """A history of which no more is in the pointer than has to be.

    The last `FAN` numbers stay, and those that fill no page yet; a page holds `FAN` numbers,
    from a multiple of it on, or as many pages. Pages that are there are not read.

    Args:
        history: to be stored.
        made: takes the new pages by key.
    """
    latest = history.recent[-1].version
    end = max(0, latest - FAN) // FAN * FAN  # all up to here is on pages
    old = (v for v in history.recent if v.version <= end)
    pages = list(history.pages)
    for block, versions in groupby(old, lambda v: (v.version - 1) // FAN):
        pages.append(_page(History(versions), block, FAN, 0, made))
    depth, span = 1, FAN * FAN
    while span <= end:
        pages = _merged(pages, history, depth, span, end, made)
        depth, span = depth + 1, span * FAN
    recent = (v for v in history.recent if v.version > end)
    return History(recent, pages, history.read)


def _merged(
    pages: list[Page], history: History, depth: int, span: int, end: int, made: dict[str, bytes]
) -> list[Page]:
    """Rows of pages, of which those that fill a page of ``span`` numbers are on one."""
    rows: list[Page] = []
    for (block, below), group in groupby(
        pages, lambda p: ((p.first - 1) // span, p.depth == depth - 1)
    ):
        if below and (block + 1) * span <= end:
            rows.append(_page(History((), group, history.read), block, span, depth, made))
        else:
            rows += group
    return rows


def _page(history: History, block: int, span: int, depth: int, made: dict[str, bytes]) -> Page:
    """The row of a new page."""
    versions, pages = history.recent, history.pages
    data = dump_page(history)
    sha256 = digest(data)
    first, last = block * span + 1, (block + 1) * span
    key = f"{PAGES}{first:09}-{last:09}-{sha256[:16]}.json"
    made[key] = data
    names = sorted([v.name for v in versions] + [n for p in pages for n in p.names], key=natural)
    numbers = [v.number for v in versions if v.number is not None]
    numbers += [n for p in pages for n in p.numbers or ()]
    n, n_bytes, anchor = history.since_anchor()
    patch_bytes = sum(p.n_bytes for v in versions for p in v.patches)
    return Page(
        first,
        last,
        depth,
        len(history),
        min(_MOST, patch_bytes + sum(p.patch_bytes for p in pages)),
        min(_MOST, sum(v.n_bytes for v in versions) + sum(p.target_bytes for p in pages)),
        (names[0], names[-1]),
        (min(numbers), max(numbers)) if numbers else None,
        (n, min(_MOST, n_bytes), anchor),
        key,
        len(data),
        sha256,
    )


def _listed(dropped: Iterable[Dropped], made: dict[str, bytes]) -> tuple[Dropped, ...]:
    """Dropped objects, of which no more are in the pointer than has to be."""
    rows = {d.key: d for d in dropped}
    loose = [d for d in rows.values() if d.list_bytes is None]
    if len(loose) <= FAN:
        return tuple(rows.values())
    data = to_lines({"format": LIST_FORMAT, "keys": [d.key for d in loose]})
    sha256 = digest(data)
    key = f"{PAGES}dropped-{sha256[:16]}.json"
    made[key] = data
    # The time of grace is over for all of them when it is for the one that was dropped last.
    row = Dropped(key, max(d.since for d in loose), len(data), sha256)
    return (*(d for d in rows.values() if d.list_bytes is not None and d.key != key), row)
