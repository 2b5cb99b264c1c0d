"""Where `pull` puts versions: next to each other behind a link, or one in place.

Enters: patches that were fetched. Leaves: versions on disk, verified, and a
record of which they are. A version is entered in the record only when it is
whole, and leaves it before it is removed, so what the record names is whole;
that it is unharmed is checked whenever a patch is applied to it.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sparsediff.apply import apply_patch
from sparsediff.disk.locks import locked
from sparsediff.disk.names import is_temp, temp_sibling
from sparsediff.disk.outputs import publish, remove, sync
from sparsediff.errors import CorruptError, UnsupportedError, UsageError, WrongBaseError, os_errors
from sparsediff.parallel import Progress
from sparsediff.shipping import state
from sparsediff.shipping.catalog import Version

CURRENT = "current"


class Place(ABC):
    """A destination of `pull`.

    Attributes:
        home: directory for what is kept between runs; belongs to the run that holds the lock.
    """

    def __init__(self, dest: Path, home: Path) -> None:
        self.dest, self.home = dest, home
        self._jobs: int | None = None
        self._state: dict[str, Any] = {}

    @contextmanager
    def open(self, store_id: str, jobs: int | None) -> Iterator[None]:
        """Create the destination if need be, lock it, and complete what a killed run left.

        Args:
            store_id: tells versions of one history from those of another.
            jobs: threads to rebuild with.

        Raises:
            UsageError: ``dest`` is something else's.
            LockedError: another run pulls here.
        """
        with os_errors(self.dest):
            self._check_dest()
            self.home.mkdir(parents=True, exist_ok=True)  # before anything else: it says whose
        with locked(self.home / "lock", os.O_RDWR | os.O_CREAT):
            self._jobs = jobs
            self._state = state.load(self.home / "state.json")
            if self._state.get("id") != store_id:  # another history: nothing here counts
                self._state = {"id": store_id, "stale": self._stale()}
            with os_errors(self.home):
                for directory in (self.fetched, self.nothing):
                    directory.mkdir(exist_ok=True)
            self._recover()
            yield

    @property
    def fetched(self) -> Path:
        """Directory for patches on their way."""
        return self.home / "fetched"

    @property
    def nothing(self) -> Path:
        """The base of anchors."""
        return self.home / "empty"

    def remembered(self, name: str) -> Any:
        """What `remember` was told last under a name, None if nothing."""
        return self._state.get(name)

    def remember(self, **values: Any) -> None:
        """Keep values for later runs; None is nothing."""
        merged = self._state | values
        self._state = {name: value for name, value in merged.items() if value is not None}
        state.save(self.home / "state.json", self._state)

    def tidy(self) -> None:
        """Remove what is not needed once readers see the version they should."""
        with os_errors(self.home):
            for path in self.fetched.iterdir():
                path.unlink()
            for path in self.home.iterdir():
                if is_temp(path.name):  # of a run that was killed
                    path.unlink()

    @abstractmethod
    def _check_dest(self) -> None:
        """Raise UsageError if ``dest`` cannot be a destination."""

    @abstractmethod
    def _stale(self) -> list[str]:
        """Names of versions that count no more, to be removed in time."""

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
    """``dest/versions/NAME`` for each version, and the link ``dest/current`` to one of them.

    The state holds ``versions``, names by number; ``building``, a name; and ``stale``, names
    of versions to be removed.
    """

    def __init__(self, dest: Path, keep: int) -> None:
        super().__init__(dest, dest / ".sparsediff")
        self._keep = keep

    def _check_dest(self) -> None:
        if self.dest.exists() and not self.dest.is_dir():
            raise UsageError("destination is not a directory", file=self.dest)
        if self.dest.is_dir() and not self.home.exists() and any(self.dest.iterdir()):
            raise UsageError("directory holds other things than pulled versions", file=self.dest)

    @property
    def _names(self) -> dict[int, str]:
        return {int(v): str(name) for v, name in (self.remembered("versions") or {}).items()}

    def _place(self, name: str) -> Path:
        return self.dest / "versions" / name

    def _stale(self) -> list[str]:
        return [*self._names.values(), *(self.remembered("stale") or [])]

    def _recover(self) -> None:
        with os_errors(self.dest):
            (self.dest / "versions").mkdir(exist_ok=True)
        building = self.remembered("building")
        if building is not None and building not in self._names.values():
            self._remove(building)

    def held(self) -> set[int]:
        """See `Place`."""
        return {v for v, name in self._names.items() if self._place(name).exists()}

    def current(self) -> int | None:
        """See `Place`."""
        shown = self._shown()
        return next((v for v, n in self._names.items() if n == shown), None)

    def _shown(self) -> str | None:
        """Name of the directory that readers see."""
        try:
            return os.path.basename(os.readlink(self.dest / CURRENT))
        except OSError:
            return None

    def _name(self, version: Version) -> str:
        """Name of a version here: its own, unless another version of that name is still here."""
        names = self._names
        if version.version in names:
            return names[version.version]
        taken = {*names.values(), *(self.remembered("stale") or []), self._shown()}
        return f"{version.name}-{version.version:06}" if version.name in taken else version.name

    def path(self, version: Version) -> Path:
        """See `Place`."""
        return self._place(self._name(version))

    def build(
        self, start: int | None, patches: list[Path], version: Version, progress: Progress | None
    ) -> None:
        """See `Place`."""
        base = self.nothing if start is None else self._place(self._names[start])
        name = self._name(version)
        self.remember(building=name)
        apply_patch(
            base,
            patches,
            self._place(name),
            force=True,  # what is there is not in the record, so nobody answers for it
            jobs=self._jobs,
            progress=progress,
        )
        names = self._names | {version.version: name}
        self.remember(versions={str(v): n for v, n in names.items()}, building=None)

    def switch(self, version: Version) -> None:
        """See `Place`."""
        link, temp = self.dest / CURRENT, self.home / CURRENT
        with os_errors(link):
            if not link.is_symlink() and link.exists():
                raise UsageError("is not a link; pull will not replace it", file=link)
            temp.unlink(missing_ok=True)
            temp.symlink_to(f"versions/{self._name(version)}")
            os.replace(temp, link)
            sync(self.dest)

    def tidy(self) -> None:
        """Also remove all versions but the current one and the newest others."""
        super().tidy()
        names, current = self._names, self.current()
        others = sorted(v for v in names if v != current)
        gone = others[: max(0, len(others) - (self._keep - 1))]
        rest = {str(v): n for v, n in names.items() if v not in gone}
        stale = [names[v] for v in gone] + (self.remembered("stale") or [])
        stale = [name for name in stale if name not in rest.values()]
        if stale:
            self.remember(versions=rest, stale=stale)
            for name in stale:
                self._remove(name)
            self.remember(stale=None)

    def _remove(self, name: str) -> None:
        """Remove a version, unless readers see it."""
        path = self._place(name)
        going = temp_sibling(path)
        with os_errors(path):
            if os.path.lexists(going):  # of a run that was killed
                remove(going)
            if os.path.lexists(path) and name != self._shown():
                os.rename(path, going)  # at once: who reads it finds all of it, or nothing
                remove(going)


class InPlace(Place):
    """``dest`` is the checkpoint itself.

    The state holds ``version``, what it is, and while it is being updated
    ``updating``: the version it becomes and the patches that make it so.
    """

    def __init__(self, dest: Path) -> None:
        super().__init__(dest, dest.parent / f".{dest.name}.sparsediff-pull")

    def _check_dest(self) -> None:
        there = self.dest.is_file() or (self.dest.is_dir() and any(self.dest.iterdir()))
        if there and not (self.home / "state.json").exists():
            raise UsageError(
                "exists and was not made by a pull in place; move it away to let pull make it",
                file=self.dest,
            )

    def _stale(self) -> list[str]:
        return []

    def _recover(self) -> None:
        updating = self.remembered("updating")
        if updating is None:
            return
        patches = [self.fetched / f"{sha256}.sdiff" for sha256 in updating["patches"]]
        try:
            apply_patch(self.dest, patches, in_place=True, jobs=self._jobs)
        except UnsupportedError:  # so nothing was touched
            self.remember(updating=None)
        except (WrongBaseError, CorruptError, UsageError):  # neither the one nor the other
            self.remember(version=None, updating=None)
        else:
            self.remember(version=updating["version"], updating=None)

    def held(self) -> set[int]:
        """See `Place`."""
        return {v for v in (self.current(),) if v is not None}

    def current(self) -> int | None:
        """See `Place`."""
        version = self.remembered("version")
        return version if isinstance(version, int) and self.dest.exists() else None

    def path(self, version: Version) -> Path:
        """See `Place`."""
        return self.dest

    def build(
        self, start: int | None, patches: list[Path], version: Version, progress: Progress | None
    ) -> None:
        """See `Place`."""
        if start is not None and self._update(patches, version, progress):
            return
        base = self.nothing if start is None else self.dest
        new = self.home / "new"
        apply_patch(base, patches, new, force=True, jobs=self._jobs, progress=progress)
        with os_errors(self.dest):
            publish(new, self.dest)
            sync(self.dest.parent)
        self.remember(version=version.version)

    def _update(self, patches: list[Path], version: Version, progress: Progress | None) -> bool:
        """Update ``dest`` itself; False if the patches allow only a new copy."""
        self.remember(updating={"version": version.version, "patches": [p.stem for p in patches]})
        try:
            apply_patch(self.dest, patches, in_place=True, jobs=self._jobs, progress=progress)
        except UnsupportedError:
            self.remember(updating=None)
            return False
        except (WrongBaseError, CorruptError):
            self.remember(updating=None)
            raise
        self.remember(version=version.version, updating=None)
        return True

    def switch(self, version: Version) -> None:
        """See `Place`: `build` did it."""

    def tidy(self) -> None:
        """Also remove the copy that was replaced whole."""
        super().tidy()
        new = self.home / "new"
        with os_errors(new):
            if os.path.lexists(new):
                remove(new)
