"""What the trainer's side keeps between two runs: the versions that the next patches start from.

Enters: a state directory, whose lock the caller holds. Leaves: snapshots by
version, and which of them can be trusted. Everything here can be lost; it costs
an anchor. Holds the latest version, the one that the next shortcut starts from,
and for a while the one about to be published: never more.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

from sparsediff.disk.names import is_temp
from sparsediff.disk.temps import remove
from sparsediff.errors import (
    CorruptError,
    SparsediffError,
    UnavailableError,
    UntrustedError,
    UsageError,
    os_errors,
    printable,
)
from sparsediff.patch.container import SUFFIX
from sparsediff.patch.content import Content
from sparsediff.patch.manifest import Manifest
from sparsediff.shipping import snapshot, state
from sparsediff.shipping.catalog import Catalog, Version
from sparsediff.shipping.links import check_is_target, kept_manifest, stored_manifest
from sparsediff.shipping.state import Pending, Sent
from sparsediff.stores import Store

Note = Callable[[str], None]
"""Told, in a line, what an operator should know and no error says."""


class Kept:
    """Snapshots of versions of one store.

    Attributes:
        squash_from: version that the next shortcut starts from.
        run: id of the run that is shipped from here; None until a store was bound to it.
    """

    def __init__(self, home: Path, name: str, store: Store) -> None:
        """Use a state directory.

        Args:
            home: of the state; exists.
            name: of the source; files keep their names, which say of what format they are.
            store: whose versions they are.

        Raises:
            CorruptError: the record of earlier runs is damaged.
        """
        self._home, self._name, self._store = home, name, store
        self._identities: dict[int, str] = {}
        self.squash_from: int | None = None
        self._record = state.load_sent(home)  # of earlier runs
        self.run = self._record.run

    @property
    def rewind(self) -> int:
        """The highest that the store's catalog has had when it was written from here."""
        return self._record.rewind

    def check_forward(self, catalog: Catalog) -> None:
        """Raise UntrustedError if the store is older than when it was last written from here.

        Its next version would have a number that another one has had, or be of a history that
        nobody follows any more.
        """
        how = "`rewind=True` begins another history from here, which all who pull follow"
        check_forward(self._record, catalog, self._store.name, how)

    def take_up(self, catalog: Catalog | None, note: Note, *, rewind: bool = False) -> None:
        """Find out what earlier runs left, and remove what is of no use any more.

        Args:
            catalog: of the store.
            note: told what cannot be used any more.
            rewind: begin anew in a store that is empty.

        Raises:
            UnavailableError: versions were shipped from here, but the store is empty.
        """
        old = self._record
        identities, self.squash_from = self.known(catalog, rewind=rewind)
        is_another = catalog is not None and old.id not in (None, catalog.id)
        if is_another:
            note(
                f"{self._home} was kept for {printable(old.store)}, another store or its past; a "
                "version will be stored whole for it (give each store a `state_directory` of its "
                "own)"
            )
        self._identities = {}
        for version, identity in identities.items():
            try:
                snapshot.check_kept(self.place(version), identity)
            except SparsediffError as e:
                note(f"{e}; a version will be stored whole for it")
            else:
                self._identities[version] = identity
        if self.squash_from not in self._identities:
            self.squash_from = None
        self.clean(catalog)
        if is_another or len(self._identities) < len(identities) or self.run != old.run:
            self.save(catalog)  # what was noted need not be noted again

    def known(
        self, catalog: Catalog | None, *, rewind: bool = False
    ) -> tuple[dict[int, str], int | None]:
        """Identities of snapshots that earlier runs recorded, and where the next shortcut starts.

        Raises:
            UnavailableError: versions were shipped from here, but the store is empty.
        """
        old, identities, squash_from = self._record, dict[int, str](), None
        if catalog is None and old.id is not None and not rewind:
            raise UnavailableError(
                f"holds nothing, though versions were shipped to {printable(old.store)}: is it "
                f"mounted? For another store give another `state_directory`; to start anew, give "
                "`rewind=True`",
                file=self._store.name,
            )
        if catalog is not None and catalog.id == old.id:
            identities, squash_from = dict(old.kept), old.squash_from
        pending = old.pending
        if pending is not None and is_published(pending, catalog):  # and then the run was killed
            identities[pending.version] = pending.identity
            squash_from = pending.squash_from
        return identities, squash_from

    def __contains__(self, version: int) -> bool:
        return version in self._identities

    def check(self, version: int) -> None:
        """Raise CorruptError unless the snapshot of a version is still as it was shipped."""
        snapshot.check_kept(self.place(version), self._identities[version])

    def place(self, version: int) -> Path:
        """Where the snapshot of a version is, or will be."""
        return self._home / "kept" / f"{version:06}" / self._name

    def describe(self, version: int, patch: Path, n_bytes: int) -> None:
        """Keep the beginning of a patch that leads to a version, ``n_bytes`` with its manifest.

        It says what the version is, when the snapshot is to be the base of the next patch.
        """
        path = self._description(version)
        with os_errors(path), open(patch, "rb") as f:
            path.write_bytes(f.read(n_bytes))

    def is_as_shipped(self, version: Version, seen: Content | None, note: Note) -> bool:
        """Whether the snapshot of a version is what was shipped; if not, it is forgotten.

        `check` looks at sizes and times; this is for a file that was altered and given its
        old times back.

        Args:
            version: to look at.
            seen: what a patch made from the snapshot just now says of it, if one could be made.
            note: told why not.

        Raises:
            UnavailableError: disk or store are out of reach.
        """
        place = self.place(version.version)
        try:
            check_is_target(place, self._shipped(version), seen)
        except (CorruptError, UsageError) as e:
            note(f"{e}; a version will be stored whole for {printable(version.name)}")
            self._identities.pop(version.version, None)
            if self.squash_from == version.version:
                self.squash_from = None
            return False
        return True

    def holds(self, version: Version, place: Path) -> bool:
        """Whether the checkpoint at ``place`` is known to be what was shipped as a version."""
        try:
            check_is_target(place, self._shipped(version), None)
        except (CorruptError, UsageError):
            return False
        return True

    def lost_files(self, version: Version, place: Path) -> list[str]:
        """Files of a version that the snapshot at ``place`` lacks, if it has no new ones either."""
        try:
            had = {file.name for file in self._shipped(version).target_files}
        except CorruptError:
            return []
        has = {name for name, *_ in snapshot.states(place)}
        return sorted(had - has) if has < had else []

    def take_for(self, version: int, made: int, identity: str) -> None:
        """Let the snapshot of ``made``, which holds the same, be that of ``version``.

        Unless that has one: what was touched is no base any more where it was hard-linked.
        """
        if version in self._identities:
            return
        old, new = self.place(version).parent, self.place(made).parent
        with os_errors(old):
            if os.path.lexists(old):
                remove(old)
            os.rename(new, old)
        self._identities[version] = identity

    def _shipped(self, version: Version) -> Manifest:
        """The manifest of a patch that led to a version.

        Raises:
            CorruptError: there is none any more.
        """
        with suppress(CorruptError, UsageError):
            return kept_manifest(self._description(version.version))
        for patch in version.patches:  # kept by an earlier release
            with suppress(CorruptError):
                return stored_manifest(self._store, patch)
        raise CorruptError(
            "cannot be compared with what was shipped", file=self.place(version.version)
        )

    def _description(self, version: int) -> Path:
        return self.place(version).parent / f"{self._name}.manifest"

    def add(self, pending: Pending) -> None:
        """Trust the snapshot of a version from now on: it is published."""
        self._identities[pending.version] = pending.identity
        self.squash_from = pending.squash_from

    def clean(self, catalog: Catalog | None) -> None:
        """Remove all but the latest version and that of the next shortcut."""
        wanted: Collection[int | None] = {
            None if catalog is None else catalog.latest.version,
            self.squash_from,
        }
        self._identities = {v: i for v, i in self._identities.items() if v in wanted}
        places = {self.place(v).parent for v in self._identities}
        directory = self._home / "kept"
        state.own_directory(directory)
        with os_errors(directory):
            for entry in directory.iterdir():
                if entry not in places:
                    remove(entry)
            for left in self._home.iterdir():
                if left.suffix == SUFFIX or is_temp(left.name):  # of a run that was killed
                    remove(left)

    def save(self, catalog: Catalog | None, pending: Pending | None = None) -> None:
        """Remember all this for the next run.

        Args:
            catalog: of the store.
            pending: what is about to be published, see `is_published`.
        """
        store_id = None if catalog is None else catalog.id
        sent = Sent(
            self._store.name,
            store_id,
            dict(self._identities),
            self.squash_from,
            pending,
            self.run,
            None if catalog is None else catalog.latest.version,
            self.rewind if catalog is None else max(self.rewind, catalog.rewind),
        )
        state.save(self._home, sent)


def is_published(pending: Pending, catalog: Catalog | None) -> bool:
    """Whether what a run was about to publish is the latest version, whoever published it.

    One patch in common means the same target.
    """
    if catalog is None or pending.id != catalog.id:
        return False
    sent = set(pending.sha256)
    latest = catalog.latest
    return pending.version == latest.version and any(p.sha256 in sent for p in latest.patches)


def check_forward(known: Sent, catalog: Catalog, store: str, how: str) -> None:
    """Raise UntrustedError if a store is older than a writer knew it; ``how`` says what to do."""
    newest = max([*known.kept, known.newest or 0], default=0)
    if catalog.rewind < known.rewind:
        raise UntrustedError(
            f"the store holds a history from before the one it went over to; {how} (for "
            "another store give another `state_directory`)",
            file=store,
            expected=f"rewind {known.rewind} or later",
            found=catalog.rewind,
        )
    if catalog.id == known.id and catalog.latest.version < newest:
        raise UntrustedError(
            f"the store is older than it was; {how}",
            file=store,
            expected=f"version {newest} or later",
            found=catalog.latest.version,
        )
