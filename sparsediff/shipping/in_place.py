"""Where `pull` puts versions if there is to be one only: the checkpoint itself, updated in place.

Enters: patches that were fetched. Leaves: the destination as the next version, and what that
is in the record; a run that was killed in between is completed by the next.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sparsediff.disk.attributes import keep_tree_attributes
from sparsediff.disk.outputs import publish, sync
from sparsediff.disk.temps import discard, remove
from sparsediff.errors import CorruptError, UnsupportedError, UsageError, WrongBaseError, os_errors
from sparsediff.parallel import Progress
from sparsediff.shipping import state
from sparsediff.shipping.absent import home_in_place
from sparsediff.shipping.catalog import Version
from sparsediff.shipping.fetch import is_intact, whole
from sparsediff.shipping.places import Place
from sparsediff.shipping.state import Updating


class InPlace(Place):
    """``dest`` is the checkpoint itself."""

    def __init__(self, dest: Path, files: Sequence[str] = ()) -> None:
        super().__init__(dest, home_in_place(dest), files)

    def _check_dest(self) -> None:
        there = self.dest.is_file() or (self.dest.is_dir() and any(self.dest.iterdir()))
        if there and not os.path.lexists(self.home / state.NAME):
            raise UsageError(
                "exists and was not made by a pull in place; move it away to let pull make it",
                file=self.dest,
            )

    def _advice(self) -> str:
        return f"move it and {self.dest} away, and the next run fetches a version whole"

    def _recover(self) -> None:
        updating = self.record.updating
        if updating is None:
            return
        from sparsediff.apply import apply_patch

        patches = [whole(self.fetched, sha256) for sha256 in updating.patches]
        same = self.record.version
        try:
            for path, sha256 in zip(patches, updating.patches, strict=True):
                if not is_intact(path, sha256, share=bool(self.files)):
                    raise CorruptError("patch on its way was lost", file=path)
            apply_patch(self.dest, patches, in_place=True, jobs=self._jobs)
        except UnsupportedError:  # so nothing was touched
            self._is(same)
        except (WrongBaseError, CorruptError, UsageError):  # neither the one nor the other
            self._is(None)
        else:
            self._is(updating.version)

    def _is(self, version: int | None) -> None:
        """Remember what ``dest`` is, and that nothing is being changed there."""
        self.remember(replace(self.record, version=version, updating=None))

    def held(self) -> set[int]:
        """See `Place`."""
        return {v for v in (self.current(),) if v is not None}

    def current(self) -> int | None:
        """See `Place`."""
        return self.record.version if self.dest.exists() else None

    def path(self, version: Version) -> Path:
        """See `Place`."""
        return self.dest

    def build(
        self, start: int | None, patches: list[Path], version: Version, progress: Progress | None
    ) -> None:
        """See `Place`."""
        if start is not None and self._update(patches, version, progress):
            return
        from sparsediff.apply import apply_patch

        base = self.nothing if start is None else self.dest
        room = self.home / "new"
        discard(room)  # of a run that was killed before it gave the name away
        with os_errors(room):
            room.mkdir(0o700)  # until it is as private as what it replaces
        new = room / self.dest.name
        apply_patch(
            base,
            patches,
            new,
            jobs=self._jobs,
            max_bytes=self._max_bytes,
            progress=progress,
        )
        self.remember(self.record)  # that what appears now is ours
        with os_errors(self.dest):
            keep_tree_attributes(self.dest, new)
            publish(new, self.dest)
            sync(self.dest.parent)
        self._is(version.version)

    def _update(self, patches: list[Path], version: Version, progress: Progress | None) -> bool:
        """Update ``dest`` itself; False if the patches allow only a new copy."""
        from sparsediff.apply import apply_patch

        before = self.record.version
        updating = Updating(version.version, tuple(p.stem for p in patches))
        self.remember(replace(self.record, updating=updating))
        try:
            apply_patch(
                self.dest,
                patches,
                in_place=True,
                jobs=self._jobs,
                max_bytes=self._max_bytes,
                progress=progress,
            )
        except UnsupportedError:
            self._is(before)
            return False
        except (WrongBaseError, CorruptError):
            self._is(before)
            raise
        self._is(version.version)
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
