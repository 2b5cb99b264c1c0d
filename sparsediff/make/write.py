"""make: two checkpoints to one patch.

Enters: base and target. Leaves: a patch file that appears whole or not at all,
and a `MakeResult`. Reads every byte of both once, and a sample of large buckets before, and
refuses if a file changed meanwhile.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sparsediff.checkpoint import Checkpoint, open_checkpoint
from sparsediff.disk.inputs import OpenFiles
from sparsediff.disk.selection import Selection
from sparsediff.errors import UsageError, os_errors
from sparsediff.make.encode import Encoded, encode_bucket, encode_skeleton
from sparsediff.make.intake import Observer
from sparsediff.make.plan import plan
from sparsediff.make.results import Completion
from sparsediff.make.shares import WHOLE, Share, Task, n_bytes, tasks
from sparsediff.make.spool import Output, deliver, place_of, rewound, spool
from sparsediff.parallel import Budget, Progress, ordered_map, per_thread, threads
from sparsediff.patch import measures, words
from sparsediff.patch.container import pack
from sparsediff.patch.manifest import MAX_BUCKET_WORDS, Manifest

if TYPE_CHECKING:
    from sparsediff.signing import Signer

Side = Path | str | Checkpoint
"""Path of a checkpoint, or one that is open, as `memory.memory_checkpoint` makes it of tensors."""


@dataclass(frozen=True, slots=True)
class MakeResult:
    """What `make_patch` did.

    Attributes:
        manifest: of the patch.
        sizes: bytes of each payload, by name.
        base_bytes: bytes of all base files.
        target_bytes: bytes of all target files.
        patch_bytes: bytes of the whole patch.
        left_out: names and bytes of the target's files that were not asked for.
    """

    manifest: Manifest
    sizes: dict[str, int]
    base_bytes: int
    target_bytes: int
    patch_bytes: int
    left_out: list[tuple[str, int]] = field(default_factory=list)

    @property
    def ratio(self) -> float | None:
        """Target bytes per patch byte."""
        return measures.share(self.target_bytes, self.patch_bytes)

    @property
    def n_elements(self) -> int:
        """Words of the target, those of files of no known format left out."""
        return sum(self.manifest.tensors.n_words[i] for i in self.manifest.known())

    @property
    def n_changed(self) -> int:
        """Those of them that differ from the base, or have none."""
        return sum(self.manifest.tensors.n_changed(i) for i in self.manifest.known())

    @property
    def bits_per_changed(self) -> float | None:
        """Bits of payload per changed word: headers and other files are no part of it."""
        known = set(self.manifest.known())
        buckets = (i for i, b in enumerate(self.manifest.buckets) if b.tensors[0] in known)
        n_bytes = sum(self.sizes.get(f"bucket.{i}", 0) for i in buckets)
        return measures.bits_per_changed(n_bytes, self.n_changed)


def make_patch(
    base: Side,
    target: Side,
    output: Output,
    *,
    jobs: int | None = None,
    force: bool = False,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    bucket_words: int = MAX_BUCKET_WORDS,
    progress: Progress | None = None,
    observer: Observer | None = None,
    signer: Signer | None = None,
    room: Budget | None = None,
) -> MakeResult:
    """Write the patch that turns ``base`` into ``target``.

    Args:
        base: checkpoint file or directory that the other side holds; a directory without
            files makes an anchor, a patch from nothing.
        target: checkpoint to reproduce there.
        output: path of the patch, ``-`` for standard output, a binary stream,
            or None to measure only.
        jobs: threads; default all processors. Does not change the patch.
        force: replace an existing output.
        include: patterns of the files of directories to carry, default all: see
            `disk.selection.Selection`. Files that are left out are neither in the patch nor
            demanded of the base.
        exclude: patterns of those not to carry.
        bucket_words: most words per bucket.
        progress: told of bytes read.
        observer: shown each pair of words compared.
        signer: who signs the patch, which must be a file; see `signing.signer`.
        room: for buckets whose words are held whole; default as much as ``jobs`` of them take.

    Raises:
        UsageError: a path is unusable or the output exists.
        CorruptError: a checkpoint file violates its format.
        UnsupportedError: a file name, or the number of tensors, fits no patch; or the target
            holds a file named like what a killed run leaves behind.
        UnavailableError: a file changed while it was read, or the disk is full.
        LockedError: another run writes the same output.
    """
    place = place_of(output, force=force, inputs=paths_of(base, target), signer=signer)
    sides = open_both(base, target, Selection(tuple(include), tuple(exclude)))
    manifest = planned(*sides, bucket_words)
    found, jobs = Completion(manifest), threads(jobs, sides[1].n_bytes)
    with spool(place, sides[1].n_bytes) as payloads, os_errors(place or "temporary file"):
        work = encode_tasks(manifest, *sides, WHOLE, jobs, progress, observer, room)
        with closing(work):
            for task, encoded in work:
                found.enter(task, encoded.result, len(encoded.payload))
                payloads.write(encoded.payload)
        for checkpoint in sides:
            checkpoint.check_unchanged()
        head = pack(manifest, found.sizes)
        deliver(output, place, head, rewound(payloads), force=force, signer=signer)
    return MakeResult(
        manifest,
        found.sizes,
        sides[0].n_bytes,
        sides[1].n_bytes,
        len(head) + sum(found.sizes.values()),
        list(sides[1].left_out),
    )


def paths_of(*sides: Side) -> list[Path | str]:
    """Paths of those sides that are not open yet."""
    return [side for side in sides if not isinstance(side, Checkpoint)]


def open_both(base: Side, target: Side, chosen: Selection) -> tuple[Checkpoint, Checkpoint]:
    """Base and target, open."""
    if not isinstance(base, Checkpoint):
        base = open_checkpoint(base, allow_empty=True, selection=chosen)
    if not isinstance(target, Checkpoint):
        target = open_checkpoint(target, whole=True, selection=chosen, like=base)
    return base, target


def planned(base: Checkpoint, target: Checkpoint, bucket_words: int) -> Manifest:
    """A plan of both; see `plan`.

    Raises:
        UsageError: there are no buckets of so many words.
        UnsupportedError: there are too many tensors or files for one patch.
    """
    if not 1 <= bucket_words <= MAX_BUCKET_WORDS:
        raise UsageError("bucket_words out of range", expected=f"1 to {MAX_BUCKET_WORDS}")
    return plan(base, target, bucket_words)


def encode_tasks(
    manifest: Manifest,
    base: Checkpoint,
    target: Checkpoint,
    part: Share,
    jobs: int,
    progress: Progress | None,
    observer: Observer | None,
    room: Budget | None = None,
) -> Generator[tuple[Task, Encoded], None, None]:
    """Encode a share of a plan, its tasks in stored order.

    Whoever ends before the last closes this, or threads and files stay.
    """
    base_files, target_files = ([f.source for f in side.files] for side in (base, target))
    target_bytes = sum(f.size for f in manifest.target_files)

    def encode(task: Task) -> Encoded:
        if task.bucket is None:
            return encode_skeleton(manifest, task.file, base, target)
        files, before, of_target = reading()
        files.close_many()
        after = words.target_source(manifest, task.file, *of_target)
        return encode_bucket(manifest, task.bucket, before, after, target_bytes, observer, room)

    @contextmanager
    def opened() -> Iterator[tuple[OpenFiles, words.Source, tuple[words.Reader, words.Locator]]]:
        """What a thread reads with."""
        with OpenFiles() as files:
            of_base, of_target = (
                (files.reader(side), files.locator(side)) for side in (base_files, target_files)
            )
            yield files, words.base_source(manifest, *of_base), of_target

    mine = tasks(manifest, part)
    sizes = [n_bytes(manifest, task) for task in mine]
    total, done = sum(sizes), 0
    with per_thread(opened) as reading, closing(ordered_map(encode, mine, jobs)) as found:
        for task, size, encoded in zip(mine, sizes, found, strict=True):
            yield task, encoded
            done += size
            if progress is not None:
                progress(done, total)
