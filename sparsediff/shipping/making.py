"""The patches that lead to a new version.

Enters: the snapshot of a checkpoint, those of earlier versions, what the store holds.
Leaves: patches as files in the state directory, each made from what was shipped, and what
the store will say of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from sparsediff.errors import (
    CorruptError,
    UnavailableError,
    UnsupportedError,
    UsageError,
    os_errors,
)
from sparsediff.make import MakeResult
from sparsediff.parallel import Progress
from sparsediff.patch.container import SUFFIX
from sparsediff.patch.content import of_base, of_target
from sparsediff.shipping.catalog import Catalog, StoredPatch, object_key
from sparsediff.shipping.fetch import digest_file
from sparsediff.shipping.kept import Kept, Note
from sparsediff.shipping.policy import Policy, pays


class Make(Protocol):
    """`make_patch`, or what makes the same patch elsewhere."""

    def __call__(
        self, base: Path, target: Path, output: Path, *, force: bool, progress: Progress | None
    ) -> MakeResult:
        """Write the patch from ``base`` to ``target``."""


class Maker:
    """Makes the patches of one version after the other."""

    def __init__(
        self,
        home: Path,
        kept: Kept,
        policy: Policy,
        make: Make,
        note: Note,
        progress: Progress | None,
    ) -> None:
        """Make nothing yet.

        Args:
            home: state directory, where patches are before they are sent; messages may name it.
            kept: versions to start from.
            policy: which patches a version gets.
            make: makes each patch.
            note: told which version that was kept is of no use.
            progress: told of bytes compared.
        """
        self._home, self._kept, self._policy = home, kept, policy
        self._make, self._note, self._progress = make, note, progress

    def make(
        self, catalog: Catalog | None, version: int, place: Path
    ) -> dict[int | None, MakeResult]:
        """Make the patches of a version, the one from the version before first, by their base.

        Raises:
            UnavailableError: the snapshot changed meanwhile.
        """
        made: dict[int | None, MakeResult] = {}
        step = self._step(catalog, version - 1, place)
        if step is not None:
            made[version - 1] = step
        if self._policy.wants_anchor(catalog, None if step is None else step.patch_bytes):
            anchor = made[None] = self.anchor(place)
            if step is not None and not pays(step.patch_bytes, anchor.patch_bytes):
                del made[version - 1]
        far = self._kept.squash_from
        if far is not None and self._policy.is_shortcut_due(version, far) and far not in made:
            shortcut = self._step(catalog, far, place)
            if shortcut is not None:
                made[far] = shortcut
        first, *others = [of_target(m.manifest) for m in made.values()]
        if any(first.differs(other) is not None for other in others):
            raise UnavailableError("changed while it was read; try again", file=place)
        base, result = next(iter(made.items()))
        head_bytes = result.patch_bytes - sum(result.sizes.values())
        self._kept.describe(version, self._file(base), head_bytes)
        return made

    def anchor(self, place: Path) -> MakeResult:
        """Make the patch from nothing."""
        empty = self._home / "empty"
        with os_errors(empty):
            empty.mkdir(exist_ok=True)
        return self._patch(None, empty, place)

    def stored(
        self, version: int, name: str, made: dict[int | None, MakeResult]
    ) -> list[tuple[StoredPatch, Path]]:
        """What the store will say of the patches made, and their files."""
        stored = []
        for base, result in made.items():
            file = self._file(base)
            sha256 = digest_file(file)
            key = object_key(version, name, base, sha256)
            stored.append((StoredPatch(base, key, result.patch_bytes, sha256), file))
        return stored

    def _step(self, catalog: Catalog | None, base: int, target: Path) -> MakeResult | None:
        """The patch from a version that was kept; None if what was kept is not what was shipped."""
        shipped = None if catalog is None else catalog.get(base)
        if shipped is None or base not in self._kept:
            return None
        try:
            result = self._patch(base, self._kept.place(base), target)
        except (CorruptError, UnsupportedError, UsageError):
            if self._kept.is_as_shipped(shipped, None, self._note):
                raise
            return None
        seen = of_base(result.manifest)
        return result if self._kept.is_as_shipped(shipped, seen, self._note) else None

    def _patch(self, base: int | None, place: Path, target: Path) -> MakeResult:
        output = self._file(base)
        result = self._make(place, target, output, force=True, progress=self._progress)
        if base is not None:
            self._kept.check(base)  # a hard link follows whoever writes into the other name
        return result

    def _file(self, base: int | None) -> Path:
        return self._home / f"{'anchor' if base is None else f'from-{base:06}'}{SUFFIX}"
