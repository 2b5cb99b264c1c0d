"""Updating a base in place: one file at a time, each replaced by rename.

Enters: a base and open patches. Leaves: the base turned into the target. Before
anything is touched, every file is shown to be the patch's base or already its
target, so a run that was killed is finished by running it again, and a wrong
base is left alone. Extra disk: one file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from sparsediff.apply.rebuild import BaseFiles, Task, check_target, is_copy, run, tasks
from sparsediff.disk.locks import locked
from sparsediff.disk.names import temp_sibling
from sparsediff.disk.outputs import staged_file, sync, write_all
from sparsediff.disk.temps import temp_file
from sparsediff.errors import CorruptError, UnsupportedError, UsageError, WrongBaseError, os_errors
from sparsediff.parallel import Progress, ordered_map
from sparsediff.patch.container import Patch
from sparsediff.patch.manifest import BaseFile, Manifest


def update_in_place(base: Path, chain: list[Patch], jobs: int, progress: Progress | None) -> int:
    """Apply ``chain`` to ``base`` itself; returns the bytes written.

    Raises:
        UnsupportedError: a patch moves data between files, so that replacing
            one file would destroy what another still needs.
        WrongBaseError: a file is neither base nor target.
        LockedError: another run is updating ``base``.
    """
    for patch in chain:
        _check_possible(patch)
    with _locked(base):
        first, finished, leftovers = _state(base, chain, jobs)
        for patch in chain:
            patch.check_payloads()
        _check_later_files(base, chain, first)
        _remove(base, leftovers)
        total = sum(f.size for p in chain[first:] for f in p.manifest.target_files)
        done = written = 0
        for i, patch in enumerate(chain[first:]):
            if i:
                finished = _finished_files(base, patch, jobs)
            for file, group in groupby(tasks([patch]), key=lambda t: t.file):
                record = patch.manifest.target_files[file]
                if file in finished:
                    for _ in group:
                        pass
                else:
                    _replace(base, patch, file, group, jobs)
                    written += record.size
                done += record.size
                if progress is not None:
                    progress(done, total)
            _remove(base, [f.name for f in _removed(patch.manifest)])
    return written


def _state(base: Path, chain: list[Patch], jobs: int) -> tuple[int, set[int], list[str]]:
    """How far a killed run got: the first patch still to apply, its finished files, leftovers.

    That is the last patch of which every file is as in the base or the target.
    Leftovers are files that an earlier patch should have removed.

    Raises:
        WrongBaseError: not even the first patch fits.
    """
    for first in range(len(chain) - 1, 0, -1):
        try:
            finished = _finished_files(base, chain[first], jobs)
            return first, finished, _leftovers(base, chain[:first], chain[first].manifest)
        except WrongBaseError:
            continue
    return 0, _finished_files(base, chain[0], jobs), []


def _above(a: str, b: str) -> bool:
    """Whether one of two names is a directory of the other."""
    return b.startswith(a + "/") or a.startswith(b + "/")


def _check_later_files(base: Path, chain: list[Patch], first: int) -> None:
    """Raise WrongBaseError if a later patch adds a file that is there already, unknown to all."""
    known = {f.name for p in chain[: first + 1] for f in p.manifest.base_files}
    known |= {f.name for p in chain[: first + 1] for f in p.manifest.target_files}
    for patch in chain[first + 1 :]:
        for file in patch.manifest.target_files:
            path = base / file.name if file.name else base
            if any(name == file.name or name.startswith(file.name + "/") for name in known):
                continue  # what is there now will have been removed or replaced by then
            if os.path.lexists(path):
                raise WrongBaseError("wrong base: file should not exist yet", file=path)
        known |= {f.name for f in patch.manifest.target_files}


def _leftovers(base: Path, earlier: list[Patch], current: Manifest) -> list[str]:
    wanted = {f.name for f in current.base_files} | {f.name for f in current.target_files}
    found: list[str] = []
    for patch in earlier:
        files = BaseFiles(base, patch.manifest)
        for i, record in enumerate(patch.manifest.base_files):
            name = record.name
            if name in wanted or name in found or any(_above(name, w) for w in wanted):
                continue  # a directory by now, or below what became a file
            if os.path.lexists(_path(base, name)):
                files.skeleton(i)
                found.append(name)
    return found


@contextmanager
def _locked(base: Path) -> Iterator[None]:
    """Hold a lock on the base: on the directory, or on a sibling of the file, which is replaced."""
    if base.is_dir():
        with locked(base.resolve(), os.O_RDONLY | os.O_DIRECTORY):
            yield
        return
    guard = temp_sibling(base, 0)
    with temp_file(guard):
        try:
            yield
        finally:
            guard.unlink(missing_ok=True)


def _check_possible(patch: Patch) -> None:
    """Raise UnsupportedError unless each target file needs only its namesake."""
    manifest = patch.manifest
    if manifest.base_is_directory != manifest.target_is_directory:
        raise UnsupportedError(
            "in place, base and target must both be a file or a directory", file=patch.name
        )
    old, new = ({f.name for f in files} for files in (manifest.base_files, manifest.target_files))
    for name, others in [*((n, old) for n in new), *((n, new) for n in old)]:
        if any(name[:i] in others for i, c in enumerate(name) if c == "/"):
            raise UnsupportedError(
                "cannot be updated in place: a file becomes a directory, or the reverse",
                file=f"{patch.name}, {name}",
            )
    for file, indices in zip(manifest.target_files, manifest.file_tensors, strict=True):
        sources = {manifest.tensors[i].base_file for i in indices} | {file.dictionary}
        for other in [manifest.base_files[s].name for s in sources if s is not None]:
            if other != file.name:
                raise UnsupportedError(
                    "cannot be updated in place: it takes data from another file; use an output",
                    file=f"{patch.name}, {file.name}",
                    found=other,
                )


def _path(base: Path, name: str) -> Path:
    """Where a file of the checkpoint lies; never through a link inside it."""
    path = base / name if name else base
    parent = path.parent
    while name and parent != base:
        if parent.is_symlink():
            raise UnsupportedError(
                "in place, nothing is written through a linked directory", file=parent
            )
        if os.path.lexists(parent) and not parent.is_dir():
            raise WrongBaseError("wrong base: should be a directory", file=parent)
        parent = parent.parent
    return path


def _finished_files(base: Path, patch: Patch, jobs: int) -> set[int]:
    """Indices of the target files that are already right.

    Raises:
        WrongBaseError: a file is neither as in the base nor as in the target.
    """
    manifest = patch.manifest
    files = BaseFiles(base, manifest)
    in_base = {f.name: i for i, f in enumerate(manifest.base_files)}
    parallel = partial(ordered_map, jobs=jobs)
    finished = set()
    for i, record in enumerate(manifest.target_files):
        path = _path(base, record.name)
        namesake = in_base.get(record.name)
        try:
            if namesake is not None:
                _check_base_file(manifest, files, i, namesake, jobs)
            elif os.path.lexists(path):
                raise WrongBaseError("wrong base: file should not exist yet", file=path)
            if namesake is not None and is_copy(manifest, i, namesake):
                finished.add(i)
        except WrongBaseError:
            try:
                check_target(manifest, i, path, parallel)
            except (CorruptError, UsageError):
                pass
            else:
                finished.add(i)
                continue
            raise
    going = {f.name for f in _removed(manifest)}
    for i, old in enumerate(manifest.base_files):
        if old.name in going and os.path.lexists(_path(base, old.name)):
            files.skeleton(i)  # all a patch knows of what it does not need
    return finished


def _check_base_file(
    manifest: Manifest, files: BaseFiles, file: int, namesake: int, jobs: int
) -> None:
    files.skeleton(namesake)

    def check(bucket: int) -> None:
        if manifest.buckets[bucket].base is not None:
            files.check(bucket)

    for _ in ordered_map(check, manifest.file_buckets[file], jobs):
        pass


def _replace(base: Path, patch: Patch, file: int, group: Iterator[Task], jobs: int) -> None:
    """Rebuild one file next to itself and rename it into place."""
    record = patch.manifest.target_files[file]
    path = _path(base, record.name)
    files = BaseFiles(base, patch.manifest)
    with os_errors(path):
        missing = [p for p in path.parents if not p.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
        for directory in missing:
            sync(directory.parent)
    with staged_file(path, force=True, like=path if path.exists() else None) as stream:
        fd = stream.fileno()
        with os_errors(path):
            os.ftruncate(fd, record.size)

        def write(_: int, offset: int, data: Any) -> None:
            with os_errors(path):
                write_all(fd, offset, data)

        for _ in ordered_map(lambda task: run([patch], files, task, write), group, jobs):
            pass


def _removed(manifest: Manifest) -> list[BaseFile]:
    """Files of the base that the target does not have."""
    kept = {f.name for f in manifest.target_files}
    return [f for f in manifest.base_files if f.name not in kept]


def _remove(base: Path, names: list[str]) -> None:
    """Remove files, and the directories that become empty by it."""
    for name in names:
        path = _path(base, name)
        with os_errors(path):
            path.unlink(missing_ok=True)
            parent = path.parent
            while parent != base and parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()
                parent = parent.parent
            sync(parent if parent.is_dir() else base)
