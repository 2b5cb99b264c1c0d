"""Finding the complete checkpoints of a run.

Enters: a run directory, or one checkpoint that is overwritten again and again,
and a rule for what is complete. Leaves: complete checkpoints in numeric order,
each with a fingerprint of the files that were looked at, and why the others
are not. Reads names, headers and indices only, writes nothing, and never waits
longer than `_LONGEST_WAIT`, whatever the clocks say.

A **run directory** is one with an entry that carries a number (`entries`);
any other source is a **single checkpoint**.

A checkpoint is **complete** if all of this holds:

- it holds weights, unless a pattern or a marker already says what it is;
- every file that tells is whole, and what it names is there and long enough
  (`formats.find_references`): an index its shards, a ``.metadata`` its parts;
- all files are there that are counted, ``-00001-of-00002`` or ``world_size_8_rank_0``;
- what its family of checkpoints writes, and above all what it writes last, is there
  (`families`), unless a marker says that it is complete;
- with a marker: the marker is there;
- with quiet: no file changed for so many seconds;
- its files look the same twice: before and after all of this was checked. The
  two looks lie a second apart if a file changed within the last ten seconds or
  in the future, unless a marker newer than all other files or a time of quiet
  says more.

A **clock that jumps** makes times lie in the future. Less than ``quiet`` ahead
is waited out like any other change. Further ahead nothing is known of it, so
two looks `_LONGEST_WAIT` apart (or ``quiet``, if that is less) decide instead.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from sparsediff.disk.names import CANNOT_BE_CARRIED, check_relative_name, why_unsafe
from sparsediff.errors import (
    CorruptError,
    SparsediffError,
    UnavailableError,
    UnsupportedError,
    UsageError,
    printable,
)
from sparsediff.shipping.complete import check_directory, check_file, holds_weights
from sparsediff.shipping.entries import Entry, find_entries
from sparsediff.shipping.snapshot import State, identity_of, states

_RECENT = 10.0  # seconds within which a change asks for a second look …
_WAIT = 1.0  # … so much later
_LONGEST_WAIT = 5.0
_UNKNOWN = "holds no weights that are known; `pattern` or `marker` can say that it is a checkpoint"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A checkpoint that was complete when it was looked at.

    Attributes:
        name: of the file or directory.
        number: its step; None for a single checkpoint.
        path: where it is.
        fingerprint: differs when any file's name, size, mtime or inode does;
            equals `snapshot.identity` of ``path`` until then.
        modified: newest mtime of its files, seconds since the epoch.
    """

    name: str
    number: int | None
    path: Path
    fingerprint: str
    modified: float


@dataclass(frozen=True, slots=True)
class Rule:
    """What counts as a checkpoint, and as a complete one.

    Attributes:
        marker: a file that must be there: inside a directory (of which it is a
            part like any other file, and travels); beside a file, which is
            ``x.safetensors.done`` for both ``done`` and ``.done``. The trainer
            must remove it before it writes the same checkpoint again. It decides
            where only habits of a family of checkpoints speak against it.
        quiet: seconds without a change.
        pattern: regular expression that matches whole names of numbered
            entries, whatever they are, with one group for the number. With a
            pattern a directory is a run; with the empty one, a single
            checkpoint.
    """

    marker: str | None = None
    quiet: float = 0.0
    pattern: str | None = None


@dataclass(frozen=True, slots=True)
class Survey:
    """What a source holds, all from the same looks. What vanished meanwhile is in no list.

    Attributes:
        complete: in numeric order.
        incomplete: names of those that are not, and why.
        others: names that carry a number and are of another sequence.
        numbers: of those that are not complete, by name.
    """

    complete: list[Candidate]
    incomplete: list[tuple[str, str]]
    others: list[str]
    numbers: dict[str, int | None] = field(default_factory=dict, compare=False)


def survey(
    source: Path,
    rule: Rule,
    *,
    after: int | None = None,
    since: float = float("inf"),
    last: Collection[str | None] = (),
    known: Iterable[str] = (),
) -> Survey:
    """Look for complete checkpoints.

    Args:
        source: a run directory, or a single checkpoint, file or directory.
        rule: what counts.
        after: in a run directory, look at higher numbers only,
        since: and at lower ones that were touched after this, seconds since the epoch,
        last: and at the one of this number, if there are any and its fingerprint is none of them.
        known: names of versions in the store, the latest first, which tell the sequence.

    Raises:
        UsageError: ``source`` is missing, two entries have the same number, or the
            rule is malformed.
        UnavailableError: ``source`` holds no checkpoint yet, or nothing that is known as one.
    """
    if rule.marker is not None:
        try:
            check_relative_name(rule.marker)
        except CorruptError as e:
            raise UsageError("unsafe name of a marker", found=e.found) from None
    found = find_entries(source, rule.pattern, any_file=not _needs_weights(rule), known=known)
    looks = []
    for entry in found.chosen:
        is_new = after is None or entry.number is None or entry.number > after
        if is_new or entry.touched > since or (last and entry.number == after):
            seen = _states_or_none(entry.path)
            if is_new or entry.touched > since or (seen and identity_of(seen) not in last):
                looks.append((entry, seen))
    now = time.time()
    waits = [_wait(entry, seen, rule, now) for entry, seen in looks if seen]
    time.sleep(max(waits, default=0.0))  # once for all of them
    complete: list[Candidate] = []
    incomplete: list[tuple[str, str]] = []
    for entry, seen in looks:
        try:
            _check(entry, seen, rule, now)
        except SparsediffError as e:
            if os.path.exists(entry.path):
                incomplete.append((entry.name, str(e)))
            continue
        assert seen is not None
        complete.append(
            Candidate(entry.name, entry.number, entry.path, identity_of(seen), _newest(seen))
        )
    if after is None and not complete and incomplete and all(w == _UNKNOWN for _, w in incomplete):
        raise UnavailableError(f"{incomplete[-1][0]} {_UNKNOWN}", file=source)
    numbers = {entry.name: entry.number for entry, _ in looks}
    return Survey(complete, incomplete, found.others, numbers)


def _needs_weights(rule: Rule) -> bool:
    return rule.pattern is None and rule.marker is None


def _states_or_none(path: Path) -> list[State] | None:
    try:
        return states(path)
    except SparsediffError:
        return None  # the second look says why, if it is so still


def _newest(seen: list[State]) -> float:
    return max(mtime for _, _, mtime, _ in seen) / 1e9


def _wait(entry: Entry, seen: list[State], rule: Rule, now: float) -> float:
    """Seconds that must lie between the two looks."""
    age = now - _newest(seen)
    if rule.quiet:
        return min(rule.quiet, _LONGEST_WAIT) if age < -rule.quiet else 0.0
    if rule.marker is not None:
        marked = _marked(entry, seen, rule.marker)
        if marked is None or marked >= _newest(seen):
            return 0.0
    return _WAIT if age < _RECENT else 0.0


def _marked(entry: Entry, seen: list[State], marker: str) -> float | None:
    """The mtime of the marker; None if there is none."""
    if seen and seen[0][0] == "":  # the checkpoint is a file
        try:
            return os.stat(f"{entry.path}.{marker.removeprefix('.')}").st_mtime_ns / 1e9
        except OSError:
            return None
    return next((mtime / 1e9 for name, _, mtime, _ in seen if name == marker), None)


def _check(entry: Entry, seen: list[State] | None, rule: Rule, now: float) -> None:
    """Raise the reason why the checkpoint is not complete; cheap reasons first."""
    if states(entry.path) != seen:
        raise UnavailableError("still being written")
    sizes = {name: size for name, size, *_ in seen}
    if not sizes:
        raise UnavailableError("holds no files")
    problem = why_unsafe(f"{entry.name}-000000")  # what a version of it may be called
    if problem is not None:
        raise UnsupportedError(f"{CANNOT_BE_CARRIED}: {problem}", file=repr(entry.name))
    if rule.marker is not None and _marked(entry, seen, rule.marker) is None:
        raise UnavailableError(f"marker {printable(rule.marker)} is missing")
    age = now - _newest(seen)
    if -rule.quiet <= age < rule.quiet:
        raise UnavailableError(f"changed less than {rule.quiet:g} s ago")
    if os.path.lexists(f"{entry.path}-unfinished"):  # as NeMo does it
        raise UnavailableError(f"{printable(entry.name)}-unfinished lies beside it")
    if "" in sizes:
        check_file(entry.path)
    else:
        check_directory(
            entry.path,
            sizes,
            number=entry.number,
            is_marked=rule.marker is not None,
            before=_names_in(entry.before),
        )
        if _needs_weights(rule) and not holds_weights(sizes):
            raise UnavailableError(_UNKNOWN)
    if states(entry.path) != seen:  # what was checked is what the fingerprint says
        raise UnavailableError("still being written")


def _names_in(path: Path | None) -> list[str]:
    """Names of the files of the step before; none if it has gone."""
    seen = None if path is None else _states_or_none(path)
    return [name for name, *_ in seen or () if name]
