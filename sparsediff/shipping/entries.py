"""Which entries of a run are checkpoints: those of one sequence of numbered names.

Enters: a run directory, or one checkpoint, and a pattern if there is one. Leaves: the
entries to look at, in numeric order, and the names that carry a number and were passed
over. Reads names and their kinds only.

A name carries a number if digits end it (``step_000100``, ``epoch=3-step=100``), or end
it before a suffix of weights (``iter_0000500.safetensors``), or begin the name of a file
of weights (``0000100_adapters.safetensors``); a file must have such a suffix. No step
number is what follows a decimal point, ``v``, or the word for a part of one checkpoint
(``mp_rank_00``, ``model-00001-of-00002``). Hidden and temporary names are passed over.
Numbered files beside shards or their index belong to one checkpoint.

Names that differ in their digits only are one **sequence**. Of several, the one counts
that a version in the store belongs to; else that with weights, with a word for steps in
its name, that is not derived from another (``checkpoint-100-merged-2``), and has the
highest number, in this order.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from sparsediff.checkpoint.formats import WEIGHT_SUFFIXES
from sparsediff.disk.inputs import walk
from sparsediff.disk.names import is_temp
from sparsediff.errors import (
    SparsediffError,
    UnavailableError,
    UsageError,
    from_os_error,
    os_errors,
    printable,
)
from sparsediff.shipping.complete import holds_weights, is_part

_ENDS = "|".join(map(re.escape, WEIGHT_SUFFIXES))
_LAST = re.compile(rf"(|.*[^0-9])([0-9]+)(?:{_ENDS})?", re.DOTALL)
_FIRST = re.compile(rf"()([0-9]+)[-_.][^0-9].*(?:{_ENDS})", re.DOTALL)
_NO_STEP = re.compile(
    r"(?:[0-9]\.|(?:^|[^a-z])(?:of|v|part|rank|shard|fsdp|optimizer|states?|consolidated)[-_.=]?)$",
    re.IGNORECASE,
)
_UNFINISHED = re.compile(r"(?:^|[-_.])(?:tmp|partial|unfinished)(?:[-_.]|$)", re.IGNORECASE)
_STEP = re.compile(
    r"(?:^|[^a-z])(?:checkpoint|ckpt|global_step|step|iter(?:ation)?|epoch)s?(?![a-z])", re.I
)


@dataclass(frozen=True, slots=True)
class Entry:
    """What may be a checkpoint.

    Attributes:
        name: of the file or directory.
        number: its step; None for a single checkpoint.
        path: where it is.
        touched: its own mtime: when files in it came and went.
        before: the entry before it in its sequence.
    """

    name: str
    number: int | None
    path: Path
    touched: float
    before: Path | None = None


@dataclass(frozen=True, slots=True)
class Entries:
    """What a source holds.

    Attributes:
        chosen: those to look at, in numeric order.
        others: names that carry a number too, and are of another sequence.
    """

    chosen: list[Entry]
    others: list[str] = field(default_factory=list)


def find_entries(
    source: Path, pattern: str | None, *, any_file: bool = False, known: Iterable[str] = ()
) -> Entries:
    """What to look at.

    Args:
        source: a run directory, or a single checkpoint, file or directory.
        pattern: see `source.Rule`.
        any_file: a single checkpoint need not hold weights.
        known: names of versions in the store, the latest first.

    Raises:
        UsageError: ``source`` is missing, two entries have the same number, or the
            pattern is malformed.
        UnavailableError: ``source`` holds no checkpoint yet, or the disk does not say what is
            in it.
    """
    single = [Entry(Path(os.path.abspath(source)).name, None, source, 0.0)]
    with os_errors(source):
        if not stat.S_ISDIR(os.stat(source).st_mode):
            return Entries(single)
        with os.scandir(source) as listing:
            # What a link leads to comes before the link.
            listed = sorted(listing, key=lambda e: (e.is_symlink(), e.name))
    listed = [e for e in listed if not is_temp(e.name)]
    numbered = None if pattern == "" else _numbered(source, listed, pattern, known)
    if numbered is not None:
        return numbered
    if pattern:
        raise UnavailableError(
            "no entry of the directory matches the pattern", file=source, expected=pattern
        )
    with os_errors(source):
        names = [e.name for e in listed if e.is_file()]
    if any_file or holds_weights(names) or any(n.endswith("index.json") for n in names):
        return Entries(single)
    raise UnavailableError(
        "no checkpoint here that is known; `pattern` or `marker` can say what is one",
        file=source,
        expected="entries numbered like step_000100 or checkpoint-1200, or files of weights",
    )


def _numbered(
    source: Path, listed: list[os.DirEntry[str]], pattern: str | None, known: Iterable[str]
) -> Entries | None:
    """Entries of one sequence, in the order of its numbers; None if there never were any."""
    expression = None if pattern is None else _compile(pattern)
    one_checkpoint = any(is_part(e.name) for e in listed)
    groups: dict[str, list[Entry]] = {}
    others: list[str] = []
    seen = set()
    pruned = False
    for entry in listed:
        number = number_in(entry.name) if expression is None else _group(expression, entry.name)
        if number is None and expression is not None:
            continue
        try:
            status = os.stat(source / entry.name)
        except OSError as e:  # pruned meanwhile, or a link that leads nowhere
            if not isinstance(e, FileNotFoundError) and not entry.is_symlink():
                raise from_os_error(e, source / entry.name) from e
            pruned = pruned or (number is not None and not entry.is_symlink())
            continue
        here = (status.st_dev, status.st_ino)
        if entry.is_symlink() and here in seen:
            continue
        if not stat.S_ISDIR(status.st_mode) and (
            not stat.S_ISREG(status.st_mode)
            or (expression is None and (one_checkpoint or not entry.name.endswith(WEIGHT_SUFFIXES)))
        ):
            continue
        if number is None:
            if not _is_hidden(entry.name) and re.search(r"[0-9]", entry.name):
                others.append(entry.name)
            continue
        seen.add(here)
        shape = "" if expression is not None else _shape(entry.name)
        groups.setdefault(shape, []).append(
            Entry(entry.name, number, source / entry.name, status.st_mtime)
        )
    if not groups:
        return Entries([]) if pruned else None
    chosen = _choose(source, groups, known)
    others += [e.name for shape, group in groups.items() if shape != chosen for e in group]
    return Entries(_in_order(source, groups[chosen]), sorted(others))


def _in_order(source: Path, group: list[Entry]) -> list[Entry]:
    """Entries of one sequence by their numbers, each with the one before it."""
    ordered: list[Entry] = []
    for entry in sorted(group, key=lambda e: e.number or 0):
        last = ordered[-1] if ordered else None
        if last is not None and last.number == entry.number:
            raise _ambiguous(source, last, entry)
        before = None if last is None else last.path
        ordered.append(Entry(entry.name, entry.number, entry.path, entry.touched, before))
    return ordered


def _choose(source: Path, groups: dict[str, list[Entry]], known: Iterable[str]) -> str:
    """Which sequence counts, by the shape of its names."""
    if len(groups) == 1:
        return next(iter(groups))
    for name in known:
        # A version may be called after its checkpoint and its own number.
        for shape in (_shape(name), _shape(re.sub(r"-[0-9]{6,}(?=\.|$)", "", name))):
            if shape in groups:
                return shape

    def rank(shape: str) -> tuple[bool, bool, bool, int]:
        stem = shape.rstrip("#")
        derived = any(shape != other and stem.startswith(other) for other in groups)
        newest = max(groups[shape], key=lambda e: e.number or 0)
        return _has_weights(newest), not derived, bool(_STEP.search(shape)), newest.number or 0

    first, second = sorted(groups, key=rank, reverse=True)[:2]
    if rank(first) == rank(second):
        raise _ambiguous(source, groups[first][-1], groups[second][-1])
    return first


def _ambiguous(source: Path, first: Entry, second: Entry) -> UsageError:
    return UsageError(
        f"two entries have number {first.number}; give a `pattern` to say which counts",
        file=source,
        found=f"{first.name} and {second.name}",
    )


def _has_weights(entry: Entry) -> bool:
    try:
        return not entry.path.is_dir() or holds_weights(name for name, _ in walk(entry.path))
    except SparsediffError:
        return False


def _shape(name: str) -> str:
    """What a name has in common with the others of its sequence."""
    return re.sub(r"[0-9]+", "#", name)


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or _UNFINISHED.search(name) is not None


def number_in(name: str) -> int | None:
    """Number that ``name`` carries by the default rule."""
    match = _LAST.fullmatch(name) or _FIRST.fullmatch(name)
    if match is None or _is_hidden(name) or _NO_STEP.search(match[1]):
        return None
    return int(match[2])


def _compile(pattern: str) -> re.Pattern[str]:
    try:
        expression = re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as e:
        raise UsageError(
            f"pattern is no regular expression ({printable(e)})", found=pattern
        ) from None
    if expression.groups != 1:
        raise UsageError("pattern must have one group, the number", found=pattern)
    return expression


def _group(expression: re.Pattern[str], name: str) -> int | None:
    match = expression.fullmatch(name)
    if match is None:
        return None
    try:
        return int(match[1])
    except (TypeError, ValueError):
        raise UsageError(
            "group of the pattern matches no number", file=name, found=repr(match[1])
        ) from None
