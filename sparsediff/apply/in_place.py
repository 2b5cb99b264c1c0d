"""Updating a base in place: one file at a time, each replaced by rename.

Enters: a base and open patches. Leaves: the base turned into the target, each file
written once, wherever the patches are cut alike. A chain leads through states, one
before and one after each patch. In place a file needs nothing but itself, so files may
be in different states: before anything is touched each is shown to be in one, and from
there it is brought to the last. So a run that was killed is finished by running it
again, and a wrong base is left alone. Extra disk: one file.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path

from sparsediff import checksum
from sparsediff.apply.base import BaseFiles
from sparsediff.apply.batches import batches, run_batch
from sparsediff.apply.chain import groups, rebuilt_bytes, unchanged
from sparsediff.apply.rebuild import Task, tasks
from sparsediff.disk.inputs import InputFile, OpenFiles, walk
from sparsediff.disk.locks import locked
from sparsediff.disk.names import temp_sibling
from sparsediff.disk.outputs import ENTRY_BYTES, check_room, staged_file, sync
from sparsediff.disk.temps import temp_file
from sparsediff.errors import UnsupportedError, WrongBaseError, os_errors
from sparsediff.parallel import Progress, ordered_map
from sparsediff.patch import words
from sparsediff.patch.container import Patch
from sparsediff.patch.manifest import Manifest


def update_in_place(base: Path, chain: list[Patch], jobs: int, progress: Progress | None) -> int:
    """Apply ``chain`` to ``base`` itself; returns the bytes written.

    Raises:
        UnsupportedError: a patch moves data between files, so that replacing
            one file would destroy what another still needs.
        WrongBaseError: a file is in no state of the chain.
        LockedError: another run is updating ``base``.
        UnavailableError: the disk has no room for a file beside what it replaces.
    """
    for patch in chain:
        _check_possible(patch)
    with _locked(base):
        states = _states(base, chain, jobs)
        for patch in chain:
            patch.check_payloads()
        runs = groups(chain)
        _check_room(base, runs, states)
        total, done, written, before = rebuilt_bytes(runs), 0, 0, 0
        for group in runs:
            after = before + len(group)
            target = group[-1].manifest
            for file, own in groupby(tasks(group), key=lambda t: t.file):
                record = target.target_files[file]
                skip = max(states[record.name] - before, 0)  # patches that it has behind it
                if skip >= len(group) or unchanged(group[skip:], file) is not None:
                    for _ in own:
                        pass
                else:
                    _replace(base, group, skip, file, own, jobs)
                    written += record.size
                done += record.size
                if progress is not None:
                    progress(done, total)
            kept = {f.name for f in target.target_files}
            gone = [f.name for f in group[0].manifest.base_files if f.name not in kept]
            # One that is missing may have left an empty directory, when it was removed.
            _remove(base, [n for n in gone if states[n] < after or not _is_there(base, n)])
            before = after
    return written


def _check_room(base: Path, runs: Sequence[Sequence[Patch]], states: dict[str, int]) -> None:
    """Raise UnavailableError if the disk has no room for some file beside what it replaces."""
    held = {
        name: _path(base, name).stat().st_size + ENTRY_BYTES
        for name in states
        if _is_there(base, name)
    }
    now, before = sum(held.values()), 0
    first, most, n_first, n_most = now, now, len(held), 0
    for group in runs:
        target = group[-1].manifest.target_files
        for file, record in enumerate(target):
            skip = max(states[record.name] - before, 0)
            if skip < len(group) and unchanged(group[skip:], file) is None:
                n_bytes = record.size + ENTRY_BYTES
                most, n_most = max(most, now + n_bytes), max(n_most, len(held) + 1)
                now += n_bytes - held.get(record.name, 0)
                held[record.name] = n_bytes
        for name in held.keys() - {f.name for f in target}:
            now -= held.pop(name)
        before += len(group)
    n_new = max(n_most - n_first, 0)
    check_room(base if base.is_dir() else base.parent, most - first - ENTRY_BYTES * n_new, n_new)


def _states(base: Path, chain: list[Patch], jobs: int) -> dict[str, int]:
    """For each file of any state, one that it is in; where it is missing, one that lacks it.

    Raises:
        WrongBaseError: a file is in none.
    """
    first = chain[0].manifest
    files = BaseFiles(base, first)
    in_base = {f.name: i for i, f in enumerate(first.base_files)}
    missing = dict.fromkeys(set().union(*_names(chain)), -1)  # last state without it
    for state, names in enumerate(_names(chain)):
        missing.update(dict.fromkeys(missing.keys() - names, state))
    _check_kinds(base, missing.keys())
    found: dict[str, int] = {}
    wrong: dict[str, WrongBaseError] = {}
    for name, state in missing.items():
        path = _path(base, name) if _is_there(base, name) else None
        if path is None and state >= 0:
            found[name] = state
        elif name not in in_base:
            wrong[name] = WrongBaseError("wrong base: file should not exist yet", file=path)
        else:
            try:
                _check_base_file(first, files, in_base[name], jobs)
            except WrongBaseError as e:
                wrong[name] = e
            else:
                found[name] = 0
    pinned = {name: InputFile.of(_path(base, name)) for name in wrong if _is_there(base, name)}
    known: dict[tuple[int, int], str] = {}
    for state, patch in reversed(list(enumerate(chain, 1))):
        for file, record in enumerate(patch.manifest.target_files):
            source = pinned.get(record.name)
            if source is not None and _is_target(patch.manifest, file, source, known, jobs):
                found[record.name] = state
                del pinned[record.name], wrong[record.name]
    for error in wrong.values():
        raise error
    return found


def _names(chain: list[Patch]) -> Iterator[set[str]]:
    """The files of each state."""
    yield {f.name for f in chain[0].manifest.base_files}
    for patch in chain:
        yield {f.name for f in patch.manifest.target_files}


def _check_kinds(base: Path, names: Collection[str]) -> None:
    """Raise WrongBaseError where something unknown is in the way of a file or a directory."""
    for name in filter(None, names):
        path = _path(base, name)
        for parent in path.parents[: name.count("/")]:
            is_known = parent.relative_to(base).as_posix() in names
            if os.path.lexists(parent) and not parent.is_dir() and not is_known:
                raise WrongBaseError("wrong base: should be a directory", file=parent)
        if path.is_dir() and not path.is_symlink():
            below = {n for n in names if n.startswith(f"{name}/")}
            if not below or any(f"{name}/{n}" not in below for n, _ in walk(path)):
                raise WrongBaseError("wrong base: should be a file", file=path)


def _check_base_file(manifest: Manifest, files: BaseFiles, index: int, jobs: int) -> None:
    """Raise WrongBaseError if a base file is not what the patch knows of it."""
    files.skeleton(index)  # of a file that it does not need, this is all
    name = manifest.base_files[index].name
    buckets = [
        bucket
        for record, own in zip(manifest.target_files, manifest.file_buckets, strict=True)
        if record.name == name
        for bucket in own
        if manifest.buckets[bucket].base is not None
    ]

    def check(batch: range) -> None:
        with OpenFiles() as opened:
            sums = words.sums_of(manifest, batch, files.source(opened))
        for bucket, found in zip(batch, sums, strict=True):
            if found != manifest.buckets[bucket].base:
                files.check(bucket)  # which says where they differ

    for _ in ordered_map(check, words.batches(manifest, buckets), jobs):
        pass


def _is_target(
    manifest: Manifest, file: int, source: InputFile, known: dict[tuple[int, int], str], jobs: int
) -> bool:
    """Whether a file on disk is a patch's target file; ``known`` keeps its buckets' checksums."""
    record = manifest.target_files[file]
    if source.size != record.size:
        return False
    skeleton = b"".join(source.read(a, b - a) for a, b in manifest.skeleton_ranges(file))
    if checksum.checksum(skeleton) != record.skeleton:
        return False

    def is_right(batch: range) -> bool:
        # Which patches share as long as tensors stay in place:
        keys = [(id(manifest.parts), bucket) for bucket in batch]
        if not known.keys() >= {*keys}:
            with OpenFiles() as files:
                side = words.target_source(manifest, file, lambda _, o, b: files.read(source, o, b))
                known.update(zip(keys, words.sums_of(manifest, batch, side), strict=True))
        records = [manifest.buckets[bucket] for bucket in batch]
        expected = [r.base if r.target is None else r.target for r in records]
        return [known[key] for key in keys] == expected

    return all(ordered_map(is_right, words.batches(manifest, manifest.file_buckets[file]), jobs))


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
        sources = {manifest.tensors.base_files[i] for i in indices} | {file.dictionary}
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
        parent = parent.parent
    return path


def _is_there(base: Path, name: str) -> bool:
    """Whether there is anything of that name; a directory is there for the files below it."""
    path = _path(base, name)
    return os.path.lexists(path) and (path.is_symlink() or not path.is_dir())


def _replace(
    base: Path, group: Sequence[Patch], skip: int, file: int, own: Iterator[Task], jobs: int
) -> None:
    """Rebuild one file next to itself and rename it into place.

    Args:
        base: the checkpoint.
        group: patches that are cut alike.
        skip: how many of them the file has behind it.
        file: its index in their targets.
        own: its tasks.
        jobs: threads.
    """
    patches = group[skip:]
    record = patches[-1].manifest.target_files[file]
    path = _path(base, record.name)
    files = BaseFiles(base, patches[0].manifest)
    with os_errors(path):
        missing = [p for p in path.parents if not p.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
        for directory in missing:
            sync(directory.parent)
    with staged_file(path, force=True, like=path if path.exists() else None) as stream:
        fd = stream.fileno()
        with os_errors(path):
            os.ftruncate(fd, record.size)

        @contextmanager
        def place(_: int) -> Iterator[int]:
            with os_errors(path):
                yield fd

        def job(batch: list[Task]) -> int:
            return run_batch(patches, files, batch, place)

        left = (task._replace(payloads=task.payloads[skip:]) for task in own)
        for _ in ordered_map(job, batches(patches, left), jobs):
            pass


def _remove(base: Path, names: list[str]) -> None:
    """Remove files, and the directories that become empty by it; there may be very many."""
    changed: set[Path] = set()
    for name in names:
        path = _path(base, name)
        if not path.parent.is_dir() or (path.is_dir() and not path.is_symlink()):
            continue  # a file became a directory since, or the reverse
        with os_errors(path):
            was_there = os.path.lexists(path)
            path.unlink(missing_ok=True)
            parent = path.parent
            while parent != base and parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()
                parent = parent.parent
            if was_there or parent != path.parent:
                changed.add(parent)
    for directory in filter(Path.is_dir, changed):  # once, however many were in it
        with os_errors(directory):
            sync(directory)
