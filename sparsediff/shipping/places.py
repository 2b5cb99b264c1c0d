"""Where `pull` puts versions: what all places have in common, and versions behind a link.

Enters: patches that were fetched. Leaves: versions on disk, verified, and a
record of which they are. A version is entered in the record only when it is
whole, and leaves it before it is removed, so what the record names is whole;
that it is unharmed is checked whenever a patch is applied to it. Whoever made the
destination, nothing outside of it is written or removed: the directories used are
no links, and names in the record are plain file names. Patches are applied by what is
imported when there is one, so that `status` looks at a destination without NumPy.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from sparsediff.disk.inputs import walk
from sparsediff.disk.locks import locked
from sparsediff.disk.names import is_temp, temp_sibling
from sparsediff.disk.outputs import staged_file, sync
from sparsediff.disk.temps import clear_parts, discard, remove
from sparsediff.errors import UntrustedError, UsageError, os_errors
from sparsediff.parallel import Progress
from sparsediff.shipping import state
from sparsediff.shipping.absent import HOME
from sparsediff.shipping.catalog import Catalog, Version
from sparsediff.shipping.families import pointer
from sparsediff.shipping.fetch import list_beside, share_beside, whole
from sparsediff.shipping.state import Pulled, own_directory

CURRENT = "current"


class Place(ABC):
    """A destination of `pull`.

    Attributes:
        home: directory for what is kept between runs; belongs to the run that holds the lock.
        record: what is known of the destination, while it is open.
        files: patterns of the files of each version that it holds; empty for all.
    """

    def __init__(self, dest: Path, home: Path, files: Sequence[str]) -> None:
        self.dest, self.home, self.files = dest, home, tuple(sorted(set(files)))
        self.record = Pulled()
        self._jobs: int | None = None
        self._max_bytes: int | None = None

    @contextmanager
    def open(
        self,
        catalog: Catalog,
        jobs: int | None,
        *,
        again: Callable[[], Catalog],
        allow_rewind: bool = False,
        max_bytes: int | None = None,
    ) -> Iterator[None]:
        """Create the destination if need be, lock it, and complete what a killed run left.

        Args:
            catalog: of the store; tells versions of one history from those of another.
            jobs: threads to rebuild with.
            again: reads the catalog anew, which another run may have seen newer meanwhile.
            allow_rewind: follow a store that has gone back.
            max_bytes: most bytes of what is rebuilt; default any.

        Raises:
            UntrustedError: the store has gone back; see `_admitted`.
            UsageError: ``dest`` is something else's, or a directory in it is a link.
            CorruptError: the record is damaged.
            LockedError: another run pulls here.
        """
        with os_errors(self.dest):
            for directory in self._directories():
                state.check_own(directory)
            self._check_dest()
            self.home.parent.mkdir(parents=True, exist_ok=True)
        own_directory(self.home)  # before anything else: it says whose
        with locked(self.home / "lock", os.O_RDWR | os.O_CREAT):
            self._jobs, self._max_bytes = jobs, max_bytes
            self.record = state.load_pulled(self.home, self._advice())
            for directory in self._directories():
                own_directory(directory, 0o700 if directory == self.fetched else 0o777)
            admitted = self._admitted(catalog, again, allow_rewind)
            if self.record.id is None:
                self.record = admitted  # and is remembered when something has come
            elif admitted != self.record:
                self.remember(admitted)
            self._recover()
            yield

    def look(self) -> None:
        """Take up what is known of the destination; changes nothing, and takes no lock."""
        with os_errors(self.dest):
            for directory in self._directories():
                state.check_own(directory)
            self._check_dest()
        self.record = state.load_pulled(self.home, self._advice())

    def peek(
        self, catalog: Catalog, *, again: Callable[[], Catalog], allow_rewind: bool = False
    ) -> None:
        """Take up what `open` would, and raise what it does; see `look`."""
        self.look()
        self.record = self._admitted(catalog, again, allow_rewind)

    def _admitted(
        self, catalog: Catalog, again: Callable[[], Catalog], allow_rewind: bool
    ) -> Pulled:
        """The record for what the store says now, which may be an old pointer put there again.

        Raises:
            UsageError: other files of each version are here.
            UntrustedError: the store had newer versions, or held another history, and neither
                its writer nor the caller says that this is meant.
        """
        self._check_files()
        if self.record.id is not None and not self._goes_on(catalog):
            catalog = again()
        record, newest = self.record, catalog.latest.version
        anew = Pulled(
            catalog.id,
            stale=(*record.versions.values(), *record.stale),  # to be removed in time
            building=record.building,
            files=self.files,
            newest=newest,
            rewind=catalog.rewind,
        )
        if self._goes_on(catalog):
            return replace(record, newest=newest, rewind=max(record.rewind, catalog.rewind))
        if record.id is None or allow_rewind:
            return anew
        how = "`allow_rewind=True` follows it, if that is meant"
        if record.id == catalog.id:
            raise UntrustedError(
                f"the store is older than it was; {how}",
                file=self.dest,
                expected=f"version {record.known_newest()} or later",
                found=newest,
            )
        if catalog.rewind <= record.rewind:
            raise UntrustedError(
                "the store holds another history than before, and `rewind=True` of ship has begun "
                f"none since; {how}",
                file=self.dest,
            )
        return anew

    def _goes_on(self, catalog: Catalog) -> bool:
        """Whether the store holds the history that is known here, and has not gone back."""
        known = self.record.known_newest()
        return self.record.id == catalog.id and catalog.latest.version >= known

    def _check_files(self) -> None:
        """Raise UsageError if other files of each version are here than are asked for."""
        if self.record.id is None or self.record.files == self.files:
            return
        here, asked = (" ".join(files) or "all files" for files in (self.record.files, self.files))
        raise UsageError(
            "the destination holds other files of each version; give the same `files`, or pull "
            "to another destination",
            file=self.dest,
            expected=here,
            found=asked,
        )

    @property
    def fetched(self) -> Path:
        """Directory for patches on their way."""
        return self.home / "fetched"

    @property
    def nothing(self) -> Path:
        """The base of anchors."""
        return self.home / "empty"

    def remember(self, record: Pulled) -> None:
        """Keep a record for later runs."""
        state.save(self.home, record)
        self.record = record

    def tidy(self) -> None:
        """Remove what is not needed once readers see the version they should."""
        with os_errors(self.home):
            for path in self.fetched.iterdir():
                remove(path)
            for path in self.home.iterdir():
                if is_temp(path.name):  # of a run that was killed
                    remove(path)

    def leave_patches(self, wanted: Collection[str]) -> None:
        """Remove all patches on their way but these: what was fetched on other ways adds up."""
        with os_errors(self.fetched):
            for path in self.fetched.iterdir():
                if path.stem not in wanted:
                    remove(path)

    def patch(self, sha256: str) -> Path:
        """Where `keep_patches` puts a patch."""
        return whole(self.home / "patches", sha256)

    def keep_patches(self, digests: Iterable[str]) -> None:
        """Keep fetched patches, which `tidy` would remove."""
        own_directory(self.home / "patches", 0o700)
        with os_errors(self.home):
            for sha256 in digests:
                fetched = whole(self.fetched, sha256)
                for beside in (list_beside, share_beside):
                    if os.path.lexists(beside(fetched)):
                        os.replace(beside(fetched), beside(self.patch(sha256)))
                os.replace(fetched, self.patch(sha256))

    def tidy_patches(self, wanted: Collection[str]) -> None:
        """Remove all patches that were kept but these."""
        with os_errors(self.home):
            for path in (self.home / "patches").iterdir():
                if path.stem not in wanted:
                    remove(path)

    def _directories(self) -> list[Path]:
        """Those that are written here, and must be no links."""
        return [self.home, self.fetched, self.nothing]

    @abstractmethod
    def _advice(self) -> str:
        """What to do about a record that cannot be used."""

    @abstractmethod
    def _check_dest(self) -> None:
        """Raise UsageError if ``dest`` cannot be a destination."""

    @abstractmethod
    def _recover(self) -> None:
        """Complete or remove what a killed run left."""

    @abstractmethod
    def held(self) -> set[int]:
        """Versions that are here and whole."""

    @abstractmethod
    def current(self) -> int | None:
        """The version that readers see."""

    @abstractmethod
    def path(self, version: Version) -> Path:
        """Where a version is, or will be."""

    @abstractmethod
    def build(
        self, start: int | None, patches: list[Path], version: Version, progress: Progress | None
    ) -> None:
        """Rebuild a version from one that is here, or from nothing."""

    @abstractmethod
    def switch(self, version: Version) -> None:
        """Show readers a version that is here."""


class Versions(Place):
    """``dest/versions/NAME`` for each version, and the link ``dest/current`` to one of them."""

    def __init__(self, dest: Path, keep: int, files: Sequence[str] = ()) -> None:
        super().__init__(dest, dest / HOME, files)
        self._keep = keep

    def _directories(self) -> list[Path]:
        return [*super()._directories(), self.dest / "versions"]

    def _advice(self) -> str:
        return "move it away, and the next run fetches a version whole"

    def _check_dest(self) -> None:
        if self.dest.exists() and not self.dest.is_dir():
            raise UsageError("destination is not a directory", file=self.dest)
        if self.dest.is_dir() and not self.home.exists() and any(self.dest.iterdir()):
            raise UsageError("directory holds other things than pulled versions", file=self.dest)

    @property
    def _names(self) -> dict[int, str]:
        return self.record.versions

    def _place(self, name: str) -> Path:
        return self.dest / "versions" / name

    def _recover(self) -> None:
        building = self.record.building
        if building is not None and building not in self._names.values():
            self._remove(building)

    def held(self) -> set[int]:
        """See `Place`."""
        places = {v: self._place(name) for v, name in self._names.items()}
        return {v for v, p in places.items() if p.exists() and not p.is_symlink()}

    def current(self) -> int | None:
        """See `Place`."""
        shown = self._shown()
        return next((v for v, n in self._names.items() if n == shown), None)

    def _shown(self) -> str | None:
        """Name of the directory that readers see; None if the link leads anywhere else."""
        try:
            directory, _, name = os.readlink(self.dest / CURRENT).rpartition("/")
        except OSError:
            return None
        return name if directory == "versions" else None

    def _name(self, version: Version) -> str:
        """Name of a version here: its own, unless another version of that name is still here."""
        names = self._names
        if version.version in names:
            return names[version.version]
        taken = {*names.values(), *self.record.stale, self._shown()}
        return f"{version.name}-{version.version:06}" if version.name in taken else version.name

    def path(self, version: Version) -> Path:
        """See `Place`."""
        return self._place(self._name(version))

    def build(
        self, start: int | None, patches: list[Path], version: Version, progress: Progress | None
    ) -> None:
        """See `Place`."""
        from sparsediff.apply import apply_patch

        base = self.nothing if start is None else self._place(self._names[start])
        name = self._name(version)
        self.remember(replace(self.record, building=name))
        apply_patch(
            base,
            patches,
            self._place(name),
            force=True,  # what is there is not in the record, so nobody answers for it
            jobs=self._jobs,
            max_bytes=self._max_bytes,
            progress=progress,
        )
        names = self._names | {version.version: name}
        self.remember(replace(self.record, versions=names, building=None))

    def switch(self, version: Version) -> None:
        """See `Place`."""
        link, temp = self.dest / CURRENT, self.home / CURRENT
        with os_errors(link):
            if not link.is_symlink() and link.exists():
                raise UsageError("is not a link; pull will not replace it", file=link)
            self._point(version)
            discard(temp)
            temp.symlink_to(f"versions/{self._name(version)}")
            os.replace(temp, link)
            sync(self.dest)

    def _point(self, version: Version) -> None:
        """Have the library of a version, given ``dest/versions``, load that one."""
        path = self.path(version)
        names = [name for name, _ in walk(path)] if path.is_dir() else []  # else it is one file
        found = pointer(path, version.number, names)
        if found is None or found[0] in (*self._names.values(), *self.record.stale):
            return
        name, text = found
        with staged_file(self._place(name), force=True) as stream, os_errors(self._place(name)):
            stream.write(text.encode())

    def tidy(self) -> None:
        """Also remove all versions but the current one and the newest others."""
        super().tidy()
        names, current = self._names, self.current()
        others = sorted(v for v in names if v != current)
        gone = others[: max(0, len(others) - (self._keep - 1))]
        rest = {v: n for v, n in names.items() if v not in gone}
        stale = [*(names[v] for v in gone), *self.record.stale]
        stale = [name for name in stale if name not in rest.values()]
        if stale:
            self.remember(replace(self.record, versions=rest, stale=tuple(stale)))
            for name in stale:
                self._remove(name)
            self.remember(replace(self.record, stale=()))

    def _remove(self, name: str) -> None:
        """Remove a version, unless readers see it."""
        path = self._place(name)
        going = temp_sibling(path)
        with os_errors(path):
            if os.path.lexists(going):  # of a run that was killed
                remove(going)
            if os.path.lexists(path) and name != self._shown():
                os.rename(path, going)  # at once: who reads it finds all of it, or nothing
                sync(path.parent)  # even if the power fails
                remove(going)
            clear_parts(going)
            sync(path.parent)  # before the record forgets it
