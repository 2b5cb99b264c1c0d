"""A checkpoint: its files, their spans and skeletons.

Enters: the path of a file or a directory. Leaves: a `Checkpoint` that knows
where every byte is, pinned to the files' state at that moment. Reads headers
only; tensor data is read later, piece by piece, by whoever needs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sparsediff.checkpoint.formats import Span, find_spans, have_same_spans
from sparsediff.disk.inputs import InputFile, Readable, walk
from sparsediff.disk.names import CANNOT_BE_CARRIED, why_unsafe
from sparsediff.disk.selection import Selection
from sparsediff.errors import UnsupportedError, UsageError, os_errors


class CheckpointFile(NamedTuple):
    """One file of a checkpoint.

    Attributes:
        name: path relative to the checkpoint, ``/`` separated; empty if the
            checkpoint is this one file.
        source: the pinned file.
        spans: tensors, by offset.
    """

    name: str
    source: Readable
    spans: list[Span]

    def layout(self) -> list[int]:
        """Lengths in bytes, by turns of skeleton and of tensors, the first of skeleton."""
        lengths: list[int] = []
        end = 0
        for _, _, _, offset, nbytes in self.spans:
            if nbytes:
                if offset > end or not lengths:
                    lengths += [offset - end, 0]
                lengths[-1] += nbytes
                end = offset + nbytes
        if self.source.size > end or not lengths:
            lengths.append(self.source.size - end)
        return lengths

    def skeleton(self) -> bytes:
        """All bytes that no span covers, in file order."""
        parts, end = [], 0
        for i, length in enumerate(self.layout()):
            if i % 2 == 0:
                parts.append(self.source.read(end, length))
            end += length
        return b"".join(parts)


class Checkpoint(NamedTuple):
    """A checkpoint: a file, or a directory of files.

    Attributes:
        path: where it is.
        is_directory: which of the two.
        files: sorted by name.
        left_out: names and bytes of files that were not asked for.
    """

    path: Path
    is_directory: bool
    files: list[CheckpointFile]
    left_out: Sequence[tuple[str, int]] = ()

    @property
    def n_bytes(self) -> int:
        """Bytes of all files."""
        return sum(f.source.size for f in self.files)

    def check_unchanged(self) -> None:
        """Raise UnavailableError if a file changed since `open_checkpoint`."""
        for file in self.files:
            file.source.check_unchanged()


def open_checkpoint(
    path: Path | str,
    *,
    allow_empty: bool = False,
    whole: bool = False,
    selection: Selection | None = None,
    like: Checkpoint | None = None,
) -> Checkpoint:
    """Find the files and spans of the checkpoint at ``path``.

    Args:
        path: a file or a directory.
        allow_empty: accept a directory without files, as the base of a patch from nothing.
        whole: refuse a directory that holds what a killed run left behind, instead of passing
            over it: nothing is left out of what travels without a word.
        selection: take only these of a directory's files.
        like: one whose files may have the same headers, as from step to step of training: then
            they share its spans.

    Raises:
        UsageError: there is nothing usable at ``path``.
        CorruptError: a file violates its format.
        UnsupportedError: a file name cannot be carried to another machine, or ``whole`` is
            asked for and something would be left out.
    """
    path = Path(path)
    known = {} if like is None else {f.name: f for f in like.files}
    with os_errors(path):
        is_directory = path.is_dir()
    if not is_directory:
        if selection:
            raise UsageError(
                "is one file; `include` and `exclude` choose among those of a directory", file=path
            )
        return Checkpoint(path, False, [_open_file("", path, known.get(""))])
    files: list[CheckpointFile] = []
    passed_over: list[Path] = []
    left_out: list[tuple[str, int]] = []
    for name, file in walk(path, passed_over=passed_over):
        if selection and not selection.takes(name):
            left_out.append((name, InputFile.of(file).size))
            continue
        problem = why_unsafe(name)
        if problem is not None:
            raise UnsupportedError(f"{CANNOT_BE_CARRIED}: {problem}", file=repr(name))
        files.append(_open_file(name, file, known.get(name)))
    if not files and not allow_empty:
        problem = (
            "`include` and `exclude` leave no file" if left_out else "directory holds no files"
        )
        raise UsageError(problem, file=path)
    if whole and passed_over:
        raise UnsupportedError(
            "a file of this name cannot travel, because killed runs leave such files behind; "
            "remove or rename it",
            file=passed_over[0],
        )
    return Checkpoint(path, True, files, left_out)


def _open_file(name: str, path: Path, like: CheckpointFile | None) -> CheckpointFile:
    source = InputFile.of(path)
    if like is not None and have_same_spans(source, like.source):
        return CheckpointFile(name, source, like.spans)
    return CheckpointFile(name, source, find_spans(source))
