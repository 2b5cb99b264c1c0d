"""Patches in a row: each made from the target of the one before.

Enters: sources of patches; a base and the opened chain. Leaves: the chain, shown to
be one as far as its manifests tell, and the files of its last target at a place of
the caller's. Publishes nothing: whoever calls stages, locks and cleans up.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path

from sparsediff.apply.base import BaseFiles
from sparsediff.apply.batches import batches, run_batch
from sparsediff.apply.rebuild import NOWHERE, is_copy, tasks
from sparsediff.disk.inputs import OpenFiles
from sparsediff.disk.names import n_entries
from sparsediff.disk.outputs import ENTRY_BYTES, check_room, clone, create, written
from sparsediff.disk.selection import Selection
from sparsediff.disk.temps import discard
from sparsediff.errors import TooLargeError, UsageError, WrongBaseError, os_errors
from sparsediff.parallel import ordered_map
from sparsediff.patch import content
from sparsediff.patch.container import Patch, PatchSource, open_patch
from sparsediff.patch.manifest import BUCKET_BYTES, Manifest


def listed(patches: PatchSource | Sequence[PatchSource]) -> list[PatchSource]:
    """One patch, or several, as a list.

    Raises:
        UsageError: there is none, or standard input is named twice.
    """
    sources = (
        list(patches)
        if isinstance(patches, Sequence) and not isinstance(patches, str)
        else [patches]
    )
    if not sources or sum(str(s) == "-" for s in sources) > 1:
        raise UsageError("give at least one patch, and standard input once at most")
    return sources


@contextmanager
def open_chain(sources: Sequence[PatchSource]) -> Iterator[list[Patch]]:
    """Open patches and check that each continues the one before.

    However many there are, the descriptors they take are bounded; and so is the memory, as
    long as their tensors stay where they are, but for some hundred bytes for each bucket.

    Raises:
        WrongBaseError: one plainly does not.
        SparsediffError: as `open_patch` does.
    """
    with ExitStack() as stack:
        files = stack.enter_context(OpenFiles())
        chain: list[Patch] = []
        for source in sources:
            patch = stack.enter_context(open_patch(source, files))
            if chain:
                _check_link(chain[-1], patch)
                patch.manifest.share(chain[-1].manifest)
            chain.append(patch)
        yield chain


def _check_link(before: Patch, after: Patch) -> None:
    """Raise WrongBaseError if ``after`` plainly was not made from the target of ``before``."""
    made, needed = content.of_target(before.manifest), content.of_base(after.manifest)
    if made.differs(needed) is not None:
        raise WrongBaseError(f"wrong base: patch does not continue {before.name}", file=after.name)


def cut_alike(before: Manifest, after: Manifest) -> bool:
    """Whether each bucket and skeleton of ``after`` has its namesake of ``before`` as its base.

    So it is from step to step of training. It is not where tensors change their order,
    for one: then what each patch says of its buckets cannot be compared.
    """
    names = [f.name for f in before.target_files]
    return (
        names == [f.name for f in after.base_files] == [f.name for f in after.target_files]
        and all(f.dictionary in (None, i) for i, f in enumerate(after.target_files))
        and (before.file_tensors, before.parts) == (after.file_tensors, after.parts)
        and all(
            after.tensors.are_based_on(before.tensors, rows, file)
            for file, rows in enumerate(before.file_tensors)
        )
    )


def groups(chain: Sequence[Patch]) -> list[list[Patch]]:
    """The chain in runs of patches that one pass over the words can take together.

    They are cut alike, and what they store of any one bucket is no more than the bucket.
    """
    found: list[list[Patch]] = []
    held: Counter[str] = Counter()  # bytes by payload
    for patch in chain:
        held.update(patch.sizes)
        if (
            found
            and cut_alike(found[-1][-1].manifest, patch.manifest)
            and max(held.values(), default=0) <= BUCKET_BYTES
        ):
            found[-1].append(patch)
        else:
            found.append([patch])
            held = Counter(patch.sizes)
    return found


def rebuild_chain(
    base: Path,
    runs: Sequence[Sequence[Patch]],
    dest: Path,
    between: Callable[[int], Path],
    jobs: int,
    advance: Callable[[int], None],
) -> None:
    """Write the chain's target to ``dest``, a directory or the one file.

    Args:
        base: checkpoint the first patch was made from.
        runs: the opened chain, as `groups` puts it together.
        dest: where the target is built; created unless it is there.
        between: places for targets on the way, by number, fewer than there are runs;
            removed once they were used, and by the caller on an error.
        jobs: threads.
        advance: told of bytes rebuilt.

    Raises:
        WrongBaseError: ``base`` or a later patch does not continue the chain.
        CorruptError: a patch is damaged.
        UnavailableError: the disk is full, or has no room for the target, or the base changed
            meanwhile.
    """
    # A target on the way goes when the next one is there. What may become a clone takes nothing.
    none = [(0, 0)]
    for before, after in pairwise(none + [_new(group) for group in runs]):
        check_room(dest.parent, *map(sum, zip(before, after, strict=True)))
    root = base
    for i, group in enumerate(runs):
        place = dest if group is runs[-1] else between(i)
        _rebuild(group, root, place, jobs, advance)
        if root is not base:
            discard(root)
        root = place


def _new(group: Sequence[Patch]) -> tuple[int, int]:
    """Bytes of the files of a group's last target that patches change; files and directories."""
    files = group[-1].manifest.target_files
    n_bytes = sum(f.size for i, f in enumerate(files) if unchanged(group, i) is None)
    return n_bytes, n_entries([f.name for f in files])


def check_declared(chain: Sequence[Patch], max_bytes: int | None) -> None:
    """Refuse a chain one of whose targets is said to be larger than ``max_bytes``.

    Each file and directory counts a block beside its bytes, as it takes one of most disks.

    Raises:
        TooLargeError: one is; names the patch.
    """
    for patch in chain:
        if max_bytes is None:
            return
        files = patch.manifest.target_files
        n_bytes = sum(f.size for f in files) + ENTRY_BYTES * n_entries([f.name for f in files])
        if n_bytes > max_bytes:
            raise TooLargeError(
                "target is larger than `max_bytes`",
                file=patch.name,
                expected=f"at most {max_bytes} bytes",
                found=f"{n_bytes} bytes, with {ENTRY_BYTES} for each file and directory",
            )


def narrow(chain: Sequence[Patch], chosen: Selection) -> None:
    """Leave of a chain what leads to the chosen files of its last target; all, if none is chosen.

    Then each patch is one from a share of its base to a share of its target: of the chosen
    files, and of those that chosen ones of later targets come from.

    Raises:
        UsageError: none is chosen, or the target is one file.
    """
    if not chosen:
        return
    last = chain[-1]
    if not last.manifest.target_is_directory:
        problem = "leads to one file; `files` chooses among those of a directory"
        raise UsageError(problem, file=last.name)
    names = [f.name for f in last.manifest.target_files]
    wanted = {name for name in names if chosen.takes(name)}
    if not wanted:
        raise UsageError(
            "none of the target's files matches `files`",
            file=last.name,
            expected=", ".join(chosen.include),
            found=", ".join([*names[:3], "…"] if len(names) > 3 else names),
        )
    narrow_to(chain, wanted, chosen.takes)


def narrow_to(chain: Sequence[Patch], names: Collection[str], keeps: Callable[[str], bool]) -> None:
    """Leave of a chain what leads to some files of its last target.

    Args:
        chain: of patches.
        names: of those files.
        keeps: of the names of files on the way, and of the base, those that stay though
            nothing is made from them.
    """
    wanted = names
    for patch in reversed(chain):
        patch.narrow(wanted, keeps)
        wanted = {f.name for f in patch.manifest.base_files}


def hold_once(chain: Sequence[Patch]) -> None:
    """Hold only once in memory what the manifests of a narrowed chain say alike."""
    for before, after in pairwise(chain):
        after.manifest.share(before.manifest)


def rebuilt_bytes(runs: Sequence[Sequence[Patch]]) -> int:
    """Bytes that `rebuild_chain` writes, and tells of."""
    return sum(f.size for group in runs for f in group[-1].manifest.target_files)


def _rebuild(
    group: Sequence[Patch],
    base: Path,
    dest: Path,
    jobs: int,
    advance: Callable[[int], None],
) -> None:
    """Write the target of the last patch to ``dest``, a directory or the one file."""
    target = group[-1].manifest
    files = BaseFiles(base, group[0].manifest)
    paths = [dest / f.name if f.name else dest for f in target.target_files]
    for path, record in zip(paths, target.target_files, strict=True):
        if path == dest and path.exists():
            with os_errors(path):
                os.truncate(path, record.size)
        else:
            create(path, record.size)

    cloned = {i for i, path in enumerate(paths) if _clone_unchanged(group, files, i, path)}

    def place(file: int) -> AbstractContextManager[int]:
        return NOWHERE if file in cloned else written(paths[file])

    found = batches(group, tasks(group))
    for n in ordered_map(lambda batch: run_batch(group, files, batch, place), found, jobs):
        advance(n)


def unchanged(group: Sequence[Patch], file: int) -> int | None:
    """Index of the base file that a target file equals, if no patch changes it; else None."""
    first, *later = (patch.manifest for patch in group)
    same = first.target_files[file].dictionary  # where the skeleton of a copy comes from
    if same is None or not is_copy(first, file, same):
        return None
    return same if all(is_copy(m, file, file) for m in later) else None


def _clone_unchanged(group: Sequence[Patch], base: BaseFiles, file: int, path: Path) -> bool:
    """Whether ``path`` could be made a clone of the base file that it equals.

    The base's words are still read and checked like any others.
    """
    same = unchanged(group, file)
    if same is None or not group[0].manifest.target_files[file].size:
        return False
    return clone(base.open(same), path)
