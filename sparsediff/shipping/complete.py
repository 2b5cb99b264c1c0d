"""Whether a checkpoint is complete, as far as its files and their names tell.

Enters: a checkpoint and the names and sizes of its files. Leaves: nothing, or the
reason why it is not complete. Reads headers, indices and little files only; whether
something changes meanwhile is the business of whoever asks (`source`).
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from sparsediff.checkpoint import open_checkpoint
from sparsediff.checkpoint.formats import PART_SUFFIXES, WEIGHT_SUFFIXES, Reference, find_references
from sparsediff.disk.inputs import InputFile
from sparsediff.errors import UnavailableError, printable
from sparsediff.shipping import families

_INDEX = ".index.json"
_ENDS = "|".join(map(re.escape, WEIGHT_SUFFIXES))
_COUNTED = (
    re.compile(rf"(.*)-(?P<number>[0-9]{{1,9}})-of-(?P<count>[0-9]{{1,9}})({_ENDS})", re.DOTALL),
    re.compile(r"(.*world_size_)(?P<count>[0-9]{1,9})_rank_(?P<number>[0-9]{1,9})(.*)", re.DOTALL),
)
"""Names that say how many files there are of their kind, and which of them this is."""


def holds_weights(names: Iterable[str]) -> bool:
    """Whether a checkpoint of files of these names holds weights."""
    suffixes = (*WEIGHT_SUFFIXES, *PART_SUFFIXES)
    return any(n.endswith(suffixes) or families.WEIGHTS.fullmatch(n) for n in names)


def is_part(name: str) -> bool:
    """Whether a file of this name is one of several that make one checkpoint."""
    return name.endswith(_INDEX) or any(names.fullmatch(name) for names in _COUNTED)


def check_file(path: Path) -> None:
    """Raise an error unless a file is whole, and a checkpoint of its own.

    Raises:
        UnavailableError: it names other files that belong to it.
        SparsediffError: it is not whole.
    """
    others = [r.name for r in find_references(InputFile.of(path)) if r.name != path.name]
    if others:
        raise UnavailableError(
            "is part of a checkpoint of several files, which is their directory",
            file=path,
            found=f"it belongs to {printable(others[0])}",
        )
    open_checkpoint(path)


def check_directory(
    path: Path,
    sizes: Mapping[str, int],
    *,
    number: int | None = None,
    is_marked: bool = False,
    before: Iterable[str] = (),
) -> None:
    """Raise an error unless a directory is a complete checkpoint.

    Args:
        path: of the directory.
        sizes: bytes of each of its files, by relative name.
        number: its step.
        is_marked: its writer has said that it is complete, so nothing is guessed.
        before: names of the files of the step before.

    Raises:
        UnavailableError: something is missing.
        SparsediffError: a file is not whole, or cannot be carried.
    """
    found = {name: find_references(InputFile.of(path / name)) for name in sorted(sizes)}
    for name, references in found.items():
        if references and not _is_stale(name, references, sizes):
            _check_references(path / name, posixpath.dirname(name), references, sizes)
    _check_counted(found, sizes)
    if not is_marked:
        why = families.missing(path, number, sizes)
        for name in sorted(families.written_last(before) - set(sizes)):
            why = why or f"{printable(name)} is missing, which the step before has"
        if why is not None:
            raise UnavailableError(f"{why}; `marker` can say that it is complete")
    open_checkpoint(path)


def _is_stale(name: str, references: list[Reference], sizes: Mapping[str, int]) -> bool:
    """Whether an index was left by an earlier save: one file has replaced all its shards."""
    here = posixpath.dirname(name)
    return (
        name.endswith(_INDEX)
        and name.removesuffix(_INDEX) in sizes
        and not any(posixpath.join(here, r.name) in sizes for r in references)
    )


def _check_references(
    file: Path, here: str, references: list[Reference], sizes: Mapping[str, int]
) -> None:
    """Raise an error unless what ``file`` names is there, in the folder ``here`` that it is in."""
    for reference in references:
        name = posixpath.normpath(posixpath.join(here, reference.name))
        expected = printable(reference.name)
        if reference.name.endswith("/"):
            inside = [n for n in sizes if n.startswith(f"{name}/")]
            if not inside or (reference.weights and not holds_weights(inside)):
                what = "weights are missing in a folder" if inside else "a folder is missing"
                raise UnavailableError(what, file=file, expected=expected)
            continue
        if name not in sizes:
            # A pipeline may share a file with its neighbours; a checkpoint has none outside.
            what = "a shard is missing" if file.name.endswith(_INDEX) else "a file is missing"
            raise UnavailableError(what, file=file, expected=expected)
        if sizes[name] < reference.n_bytes:
            raise UnavailableError(
                f"{expected} is shorter than this file says (cut off?)",
                file=file,
                expected=f"{reference.n_bytes} bytes",
                found=f"{sizes[name]} bytes",
            )


def _check_counted(found: Mapping[str, list[Reference]], sizes: Mapping[str, int]) -> None:
    """Raise an error unless all files are there that are counted, and that no index names."""
    indexed = {posixpath.dirname(name) for name in found if name.endswith(_INDEX)}
    counted: dict[tuple[str, int, str], set[int]] = {}
    for name in sizes:
        for pattern in _COUNTED:
            match = pattern.fullmatch(name)
            if match and posixpath.dirname(name) not in indexed:
                key = (match[1], int(match["count"]), match[4])
                counted.setdefault(key, set()).add(int(match["number"]))
    for (prefix, total, rest), numbers in sorted(counted.items()):
        if len(numbers) < total:
            raise UnavailableError(
                f"shards of {printable(prefix)}*{printable(rest)} are missing",
                expected=total,
                found=len(numbers),
            )
