"""The versions of a store in order, of which older ones are read only when they are asked for.

Enters: the newest versions, rows that say of older ones which page they are on, and how a
page is read. Leaves: a sequence like any other. A page is made like the whole: rows of
further pages, then versions, the oldest first. Length, the newest versions and where to
look for a number or a name are known without reading a page.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, overload

from sparsediff.parallel import ordered_map
from sparsediff.shipping.records import Version

_READS = 8  # pages at once, where all of them are wanted
_LONGEST_NAME = 255


class Page(NamedTuple):
    """What is known of the versions on a page without reading it.

    Attributes:
        first: number of version that the page begins with, whether there is such a version.
        last: the same of its end.
        depth: 0 for a page of versions; else one more than that of the pages it lists.
        n: versions on it and on the pages that it lists; so with all below.
        patch_bytes: of their patches.
        target_bytes: of their checkpoints.
        names: least and greatest of their names, see `natural`.
        numbers: least and greatest number in their names; None if none has one.
        since_anchor: of the versions after the last one with an anchor, how many there are and the
            bytes of their patches from the version before; the bytes of that anchor, None if
            there is none.
        key: of the object.
        n_bytes: of the object.
        sha256: of the object, hex.
    """

    first: int
    last: int
    depth: int
    n: int
    patch_bytes: int
    target_bytes: int
    names: tuple[str, str]
    numbers: tuple[int, int] | None
    since_anchor: tuple[int, int, int | None]
    key: str
    n_bytes: int
    sha256: str


class History(Sequence[Version]):
    """Versions by ascending number.

    Their number is what pages say before they are read. So ``history[:]`` takes all of them:
    ``tuple(history)`` would make room for so many first.

    Args:
        recent: those that are here.
        pages: of those before them, in order.
        read: reads one page; raises CorruptError and UnavailableError.
    """

    def __init__(
        self,
        recent: Iterable[Version],
        pages: Iterable[Page] = (),
        read: Callable[[Page], History] | None = None,
    ) -> None:
        self.recent, self.pages = tuple(recent), tuple(pages)
        self._reader = read

    def read(self, page: Page) -> History:
        """What is on a page."""
        assert self._reader is not None
        return self._reader(page)

    def __len__(self) -> int:
        return sum(page.n for page in self.pages) + len(self.recent)

    def __iter__(self) -> Iterator[Version]:
        for below in ordered_map(self.read, self.pages, _READS):
            yield from below
        yield from self.recent

    def __reversed__(self) -> Iterator[Version]:
        return self.search(lambda _: True)

    @overload
    def __getitem__(self, index: int) -> Version: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Version, ...]: ...
    def __getitem__(self, index: int | slice) -> Version | tuple[Version, ...]:
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            return tuple(self._between(start, stop))[::step] if step > 0 else self[:][index]
        start = index + len(self) if index < 0 else index
        if not 0 <= start < len(self):
            raise IndexError(index)
        return next(self._between(start, start + 1))

    def _between(self, start: int, stop: int) -> Iterator[Version]:
        """Versions from one place in the sequence to another."""
        for page in self.pages:
            if start < page.n and stop > 0:
                yield from self.read(page)._between(max(start, 0), stop)
            start, stop = start - page.n, stop - page.n
        yield from self.recent[max(start, 0) : max(stop, 0)]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, History):
            return isinstance(other, Sequence) and self[:] == tuple(other)
        same = (self.pages, self.recent) == (other.pages, other.recent)
        return same or (len(self) == len(other) and self[:] == other[:])

    __hash__ = None  # type: ignore[assignment]

    def get(self, number: int) -> Version | None:
        """The version with this number."""
        for page in self.pages:
            if page.first <= number <= page.last:
                return self.read(page).get(number)
        at = bisect_left(self.recent, number, key=lambda v: v.version)
        found = self.recent[at : at + 1]
        return found[0] if found and found[0].version == number else None

    def after(self, number: int) -> tuple[int, Version | None]:
        """How many versions have a higher number, and the first of them."""
        n, first = 0, None
        for page in self.pages:
            if page.last > number:
                more, found = (page.n, None)
                if page.first <= number:
                    more, found = self.read(page).after(number)
                elif first is None:
                    found = self.read(page)[0]
                n, first = n + more, first or found
        later = [v for v in self.recent if v.version > number]
        return n + len(later), first or next(iter(later), None)

    def sums(self) -> tuple[int, int]:
        """Bytes of all patches, and of all checkpoints."""
        patch_bytes = sum(p.n_bytes for v in self.recent for p in v.patches)
        target_bytes = sum(v.n_bytes for v in self.recent)
        return (
            patch_bytes + sum(page.patch_bytes for page in self.pages),
            target_bytes + sum(page.target_bytes for page in self.pages),
        )

    def since_anchor(self) -> tuple[int, int, int | None]:
        """What `Page.since_anchor` says of a page, of all versions."""
        n, n_bytes, anchor = 0, 0, None
        for more in (*(page.since_anchor for page in self.pages), *map(_of_one, self.recent)):
            is_whole = more[2] is not None
            n, n_bytes = (more[0], more[1]) if is_whole else (n + more[0], n_bytes + more[1])
            anchor = more[2] if is_whole else anchor
        return n, n_bytes, anchor

    def later(self, number: int) -> Iterator[Version]:
        """Versions with a higher number, the newest first."""
        return (v for v in self.search(lambda p: p.last > number) if v.version > number)

    def named(self, name: str) -> Version | None:
        """The newest version with this name."""
        if len(name) > _LONGEST_NAME:
            return None
        key = natural(name)
        places = self.search(lambda p: natural(p.names[0]) <= key <= natural(p.names[1]))
        return next((v for v in places if v.name == name), None)

    def numbered(self, number: int | None) -> Iterator[Version]:
        """Versions with this number in their names, the newest first."""

        def may_hold(page: Page) -> bool:
            if number is None or page.numbers is None:
                return number is None
            return page.numbers[0] <= number <= page.numbers[1]

        return (v for v in self.search(may_hold) if v.number == number)

    def search(self, may_hold: Callable[[Page], bool]) -> Iterator[Version]:
        """Versions, the newest first, without those on pages that need not be read."""
        yield from reversed(self.recent)
        for page in reversed(self.pages):
            if may_hold(page):
                yield from self.read(page).search(may_hold)

    def all_pages(self) -> Iterator[Page]:
        """The pages, and those that they list, at any depth."""
        for page in self.pages:
            yield page
            if page.depth:
                yield from self.read(page).all_pages()

    def with_latest(self, version: Version) -> History:
        """The same with a version at its end, in the place of one with the same number."""
        others = (v for v in self.recent if v.version != version.version)
        return History((*others, version), self.pages, self._reader)


def _of_one(version: Version) -> tuple[int, int, int | None]:
    """What `Page.since_anchor` would say of a page with one version."""
    if version.anchor is not None:
        return 0, 0, version.anchor.n_bytes
    return 1, 0 if version.step is None else version.step.n_bytes, None


def natural(name: str) -> tuple[int | str, ...]:
    """A name to be compared with others as people do: numbers in it as numbers."""
    pieces = re.split("([0-9]+)", name)
    return tuple(int(piece) if i % 2 else piece for i, piece in enumerate(pieces))
