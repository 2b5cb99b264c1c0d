"""apply, on a cluster: each task rebuilds its share of the target's files, published here.

Enters: a base and patches, which every node sees, as it must see where the output goes.
Leaves: the target, by rename, after every file of it was verified by the task that rebuilt it.
A task writes into a directory of its own, so that one which was lost, and yet goes on
somewhere, spoils nothing.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from sparsediff.apply.base import BaseFiles
from sparsediff.apply.chain import (
    check_declared,
    groups,
    hold_once,
    listed,
    narrow,
    narrow_to,
    open_chain,
    rebuild_chain,
    rebuilt_bytes,
)
from sparsediff.apply.write import ApplyResult, names_of, place_of, result_of, staged_target
from sparsediff.disk.locks import locked
from sparsediff.disk.names import n_entries
from sparsediff.disk.outputs import check_room, sync
from sparsediff.disk.selection import Selection
from sparsediff.errors import UnavailableError, UsageError, os_errors
from sparsediff.make.shares import runs as cut
from sparsediff.parallel import Progress
from sparsediff.patch.container import Patch, PatchSource, paths
from sparsediff.ray.cluster import Note, connected

_MADE = "target"  # what a task rebuilt, in the directory of its own
_TRIES = 10  # to remove a directory in which something may appear until its writer is gone


def apply(
    base: Path | str,
    patches: PatchSource | Sequence[PatchSource],
    output: Path | str,
    *,
    address: str | None = None,
    parts: int | None = None,
    force: bool = False,
    files: Sequence[str] = (),
    max_bytes: int | None = None,
    progress: Progress | None = None,
    note: Note | None = None,
) -> ApplyResult:
    """Rebuild the target of a patch, or of a chain of patches, on a cluster of Ray.

    A file is the work of one task, so a target that is one file is rebuilt by one processor.
    Where tensors moved to other files in the middle of a chain, a file on the way is rebuilt
    by every task that needs it.

    Args:
        base: as of `apply_patch`; this process and every node must see the same files.
        patches: likewise, and paths only.
        output: as of `apply_patch`; every node must be able to write beside it.
        address: of the cluster, as of `make`.
        parts: how many tasks, at most; default as of `make`. Does not change the target.
        force: replace an existing output.
        files: patterns of the target's files to rebuild, as of `apply_patch`.
        max_bytes: as of `apply_patch`.
        progress: told of bytes of the target in tasks that are done.
        note: told of tasks that were lost with their node and are made again.

    Raises:
        SparsediffError: as `apply_patch` raises it, here or on a node.
        UsageError: Ray is not installed, or a node does not see the files.
        UnavailableError: there is no such cluster, a task was lost again and again, or a
            patch was replaced meanwhile.
        UnsupportedError: a node has no sparsediff, or another version.
    """
    sources = listed(patches)
    if len(paths(sources)) < len(sources):
        raise UsageError("nodes of a cluster read patches from files, not from a stream")
    if parts is not None and parts < 1:
        raise UsageError("there is no such number of `parts`", expected="1 or more", found=parts)
    base = Path(os.path.abspath(base))
    place = place_of(output, base, sources, force=force)
    with ExitStack() as stack:
        chain = stack.enter_context(open_chain(sources))
        patch_paths = [os.path.abspath(path) for path in paths(sources)]
        BaseFiles(base, chain[0].manifest)
        known = [patch.identity for patch in chain]  # nodes take these, and need no keys
        names = names_of(chain)
        narrow(chain, Selection(tuple(files)))
        check_declared(chain, max_bytes)
        sizes = {f.name: f.size for f in chain[-1].manifest.target_files}
        total, done, written = sum(sizes.values()), 0, 0
        held = stack.enter_context(ExitStack())
        with (
            staged_target(chain, place, names, force=force) as (staged, work),
            _room(work) as room,
            connected(address, note) as cluster,
        ):
            check_room(room, total, n_entries(sizes))
            pieces = _shares(sizes, parts or cluster.n_tasks(total))
            rest = _unused(chain)
            shares = {f"share {i} of {len(pieces)}": piece for i, piece in enumerate(pieces, 1)}
            common = str(base), patch_paths, known, str(room)
            calls = {
                call: (*common, share, rest if share is pieces[0] else set())
                for call, share in shares.items()
            }
            for call, (made, n_rebuilt) in cluster.results(_share, calls):
                _take(shares[call], Path(made), staged, held)
                written += n_rebuilt
                done += sum(sizes[name] for name in shares[call])
                if progress is not None:
                    progress(done, total)
        return result_of(chain, place, written)


@contextmanager
def _room(work: Path) -> Iterator[Path]:
    """A directory for what tasks write; removed in the end, whoever still writes there."""
    room = work / "tasks"
    with os_errors(room):
        room.mkdir()
    try:
        yield room
    finally:
        for _ in range(_TRIES):
            shutil.rmtree(room, ignore_errors=True)
            if not room.exists():
                break


def _shares(sizes: dict[str, int], count: int) -> list[list[str]]:
    """Names of files of these sizes, cut into at most so many shares; one at least."""
    count = min(count, len(sizes) or 1)
    return [share for share in cut(list(sizes), list(sizes.values()), count) if share] or [[]]


def _unused(chain: Sequence[Patch]) -> set[str]:
    """Names of the files on the way from which nothing is made.

    They are rebuilt too, with the first share, since so a patch is checked to the end.
    """
    found: set[str] = set()
    for manifest in (patch.manifest for patch in chain[1:]):
        used = {f.dictionary for f in manifest.target_files}
        used |= {*manifest.tensors.base_files}
        found |= {f.name for i, f in enumerate(manifest.base_files) if i not in used}
    return found


def _share(
    base: str, patches: list[str], known: list[str], room: str, names: list[str], rest: set[str]
) -> tuple[str, int]:
    """On a node: rebuild files in a new directory; returns that, and the bytes rebuilt.

    Args:
        base: path of the base.
        patches: paths of the patches.
        known: their identities: what was trusted here.
        room: where to make the directory.
        names: of the files of the target.
        rest: of files on the way, what to rebuild besides what those come from.
    """
    with open_chain(patches) as chain:
        for patch, expected in zip(chain, known, strict=True):
            if patch.identity != expected:
                raise UnavailableError("changed while it was read; try again", file=patch.name)
        narrow_to(chain, names, rest.__contains__)
        hold_once(chain)
        runs = groups(chain)
        with os_errors(room):
            own = Path(tempfile.mkdtemp(dir=room))
        made = own / _MADE
        rebuild_chain(Path(base), runs, made, lambda i: own / str(i), 1, lambda _: None)
        for path in _places(names, made):
            with os_errors(path):  # another machine cannot do that for this one
                sync(path)
        return str(own), rebuilt_bytes(runs)


def _take(names: list[str], own: Path, staged: Path, held: ExitStack) -> None:
    """Move what a task rebuilt to where the target is built.

    Args:
        names: of the files of the target that the task rebuilt.
        own: directory of the task.
        staged: where the target is built.
        held: keeps the lock on a target that is one file, which comes with the file.
    """
    made = own / _MADE
    sources, places = _places(names, made), _places(names, staged)
    for source, path in zip(sources, places, strict=True):
        with os_errors(path):
            if path == staged:
                held.enter_context(locked(source, os.O_RDWR))
            path.parent.mkdir(parents=True, exist_ok=True)
            os.rename(source, path)


def _places(names: list[str], root: Path) -> list[Path]:
    return [root / name if name else root for name in names]
