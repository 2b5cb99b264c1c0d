"""The pointer of a store, as a run of `ship` reads and replaces it.

Enters: a store, the run that is shipped, new versions. Leaves: a catalog, always the one
that was read last, and a pointer that is replaced by compare-and-swap alone, and only if
the store is bound to this run, or to none yet.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import replace

from sparsediff.errors import (
    UnavailableError,
    UnsupportedError,
    UntrustedError,
    UsageError,
    printable,
)
from sparsediff.shipping.absent import existing_catalog
from sparsediff.shipping.binding import check_same
from sparsediff.shipping.catalog import Catalog, Run, Version
from sparsediff.shipping.catalog_json import read_catalog
from sparsediff.shipping.kept import Kept, Note
from sparsediff.shipping.sealing import check_signer, write_catalog
from sparsediff.stores import Store


class Pointer:
    """The pointer of one store.

    Attributes:
        catalog: as it was read last; None if the store holds nothing.
    """

    def __init__(
        self, store: Store, ours: Run, kept: Kept, *, adopt: bool, rewind: bool, note: Note
    ) -> None:
        """Read nothing yet.

        Args:
            store: whose pointer.
            ours: the run that is shipped.
            kept: knows which run was shipped before, and is told.
            adopt: bind the store to ``ours`` if it is bound to another run.
            rewind: begin another history if the store has gone back; see `take_back`.
            note: told what should not go unnoticed.
        """
        self._store, self._ours, self._kept = store, ours, kept
        self._adopts, self._rewinds, self._note = adopt, rewind, note
        self._tag: str | None = None
        self.catalog: Catalog | None = None

    def read(self) -> None:
        """Read the pointer, and check that the store is of our run.

        Raises:
            UsageError: it is of another, or it is signed and ``store`` has no signer, or its
                key has expired.
            CorruptError: the pointer is damaged.
            UntrustedError: it is not signed by whom it must be, or it has gone back.
            UnavailableError: the store is out of reach, or was being written to; try again.
        """
        if self._store.signer is not None:
            self._store.signer.check()  # it may have expired since it was read
        found = read_catalog(self._store)
        self.catalog, self._tag = found if found is not None else (None, None)
        check_signer(self._store, self.catalog)
        if self.catalog is not None and not self._rewinds:
            self._kept.check_forward(self.catalog)
        if self.catalog is None or self.catalog.run is None:
            return
        bound = self.catalog.run
        try:
            noted = check_same(bound, self._ours, self._kept.run, self._store.name)
        except UsageError:
            if not self._adopts:
                raise
            adopted = replace(self.catalog, run=self._ours)
            if not write_catalog(self._store, adopted, self._tag):
                raise UnavailableError(
                    "another shipper was faster; try again", file=self._store.name
                ) from None
            self._note(
                f"{self._store.name}: held the run {printable(bound.name)}, and goes on with "
                f"{printable(self._ours.name)}"
            )
            self.read()
            return
        if noted is not None:
            self._note(noted)
        self._kept.run = bound.id

    def take_back(self) -> None:
        """Begin another history with what is in the store, if that has gone back.

        All who pull follow there: its catalog says that this is meant.

        Raises:
            UnavailableError: the store is out of reach, or was being written to; try again.
        """
        if self.catalog is None:
            return
        try:
            self._kept.check_forward(self.catalog)
        except UntrustedError:
            rewind = self._next_rewind()
            anew = replace(self.catalog, id=uuid.uuid4().hex, rewind=rewind)
            if not write_catalog(self._store, anew, self._tag):
                raise UnavailableError(
                    "another shipper was faster; try again", file=self._store.name
                ) from None
            self._note(
                f"{self._store.name}: is older than it was, and goes on from "
                f"{printable(self.catalog.latest.name)} as another history"
            )
            self.read()

    def _next_rewind(self) -> int:
        """Above all that was, also where nobody knows any more what was."""
        before = 0 if self.catalog is None else self.catalog.rewind
        return max(int(time.time()), before + 1, self._kept.rewind + 1)

    def publish(self, store_id: str, record: Version) -> bool:
        """Make ``record`` the latest version; False if another shipper was faster."""
        latest = None if self.catalog is None else self.catalog.latest.version
        while True:
            catalog = _with(self.catalog, store_id, record, self._ours)
            if self.catalog is None and self._rewinds:
                catalog = replace(catalog, rewind=self._next_rewind())
            won = write_catalog(self._store, catalog, self._tag)
            self.read()
            if won:
                return True
            now = self.catalog
            if now is None or now.id != store_id or now.latest.version != latest:
                return False
            # Somebody pruned: the same version is the latest still.


def publish_version(
    store: Store, before: Catalog | None, record: Version, run: Run | None = None
) -> Catalog | None:
    """Make a version the newest of a store, for writers that keep no state like `ship`.

    All objects that ``record`` names must be there: patches, or parts with the list of them.

    Args:
        store: where to.
        before: the catalog that the version was made for; None if the store held nothing.
        record: the version, with the number after the latest one's, and a name of its own
            (`History.named`).
        run: to bind the store to, if it is bound to none.

    Returns:
        The catalog afterwards; None if another writer was faster, and ``record`` is no version.

    Raises:
        UnsupportedError: patches in parts are to go into a store of layout 1.
        UnavailableError: the store is out of reach.
    """
    store_id = uuid.uuid4().hex if before is None else before.id
    while True:  # as often as somebody prunes or repairs meanwhile
        found = read_catalog(store)
        now, tag = found if found is not None else (None, None)
        if _place(now) != _place(before):
            return None
        after = _with(now, store_id, record, run)
        if after.layout == 1 and any(p.list_bytes is not None for p in record.patches):
            raise UnsupportedError(
                "a store of layout 1 holds no patches in parts; `upgrade=True` of check makes it "
                "one of layout 2",
                file=store.name,
            )
        if write_catalog(store, after, tag):
            return after


def sign_store(store: Store) -> None:
    """Sign the pointer of a store as it is, with ``store.signer``; other signatures go.

    Raises:
        UntrustedError: nobody whom ``store.trust`` trusts signed it before.
        UnavailableError: nothing was shipped here, the store is out of reach, or somebody wrote
            to it meanwhile; try again.
        SparsediffError: as `existing_catalog` does.
    """
    if not write_catalog(store, *existing_catalog(store)):
        raise UnavailableError("somebody wrote to it meanwhile; try again", file=store.name)


def _place(catalog: Catalog | None) -> tuple[str, int] | None:
    """Where in which history a catalog ends."""
    return None if catalog is None else (catalog.id, catalog.latest.version)


def _with(catalog: Catalog | None, store_id: str, record: Version, run: Run | None) -> Catalog:
    """A catalog with a version at its end."""
    if catalog is None:
        return Catalog(store_id, (record,), run=run)
    return replace(catalog.published(record), run=catalog.run or run)
