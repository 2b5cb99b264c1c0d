"""Finding the complete checkpoints of a run.

Enters: a run directory, or one checkpoint that is overwritten again and again,
and a rule for what is complete. Leaves: complete checkpoints in numeric order,
each with a fingerprint of the files that were looked at, and why the others
are not. Reads names, headers and indices only, writes nothing, and never waits
longer than `_LONGEST_WAIT`, whatever the clocks say.

A **run directory** is one with an entry that carries a number (`Rule.pattern`);
any other source is a **single checkpoint**. A name carries a number if digits
end it (``step_000100``, ``epoch=3-step=100``), or end it before the suffix of
weights (``iter_0000500.safetensors``); a file must have such a suffix. No step
number is what follows a decimal point, ``v``, or the word for a part of one
checkpoint (``mp_rank_00``, ``model-00001-of-00002``). Hidden and temporary
names are passed over. Numbered files beside shards or their index belong to
one checkpoint.

A checkpoint is **complete** if all of this holds:

- it holds weights, unless a pattern or a marker already says what it is;
- all shards that an index names, or that are counted ``-of-``, are there;
- every file of a format that tells is whole: safetensors and GGUF by their headers,
  archives of torch and NumPy by the directory at their end;
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

import json
import os
import posixpath
import re
import stat
import time
from dataclasses import dataclass
from pathlib import Path

from sparsediff.checkpoint import open_checkpoint
from sparsediff.checkpoint.formats import PART_SUFFIXES, WEIGHT_SUFFIXES
from sparsediff.disk.inputs import InputFile
from sparsediff.disk.names import check_relative_name, is_temp
from sparsediff.errors import (
    CorruptError,
    SparsediffError,
    UnavailableError,
    UsageError,
    os_errors,
    printable,
)
from sparsediff.shipping.snapshot import State, identity_of, states

_WEIGHTS = (*WEIGHT_SUFFIXES, *PART_SUFFIXES)
_SUFFIX = "|".join(map(re.escape, WEIGHT_SUFFIXES))
_INDICES = (".safetensors.index.json", ".bin.index.json")
_MAX_INDEX = 100_000_000  # bytes

_NUMBERED = re.compile(rf"(|.*[^0-9])([0-9]+)(?:{_SUFFIX})?", re.DOTALL)
_NO_STEP = re.compile(
    r"(?:[0-9]\.|(?:^|[^a-z])(?:of|v|part|rank|shard|fsdp|optimizer|states?|consolidated)[-_.=]?)$",
    re.IGNORECASE,
)
_UNFINISHED = re.compile(r"(?:^|[-_.])(?:tmp|partial)(?:[-_.]|$)", re.IGNORECASE)
_SHARD = re.compile(rf"(.*)-([0-9]{{1,9}})-of-([0-9]{{1,9}})({_SUFFIX})", re.DOTALL)

_RECENT = 10.0  # seconds within which a change asks for a second look …
_WAIT = 1.0  # … so much later
_LONGEST_WAIT = 5.0


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
            must remove it before it writes the same checkpoint again.
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
class _Entry:
    name: str
    number: int | None
    path: Path
    touched: float  # its own mtime: when files in it came and went


def survey(
    source: Path, rule: Rule, *, after: int | None = None, since: float = float("inf")
) -> tuple[list[Candidate], list[tuple[str, str]]]:
    """Complete checkpoints in numeric order, and why the others are not, from the same looks.

    What vanishes meanwhile is in neither list.

    Args:
        source: a run directory, or a single checkpoint, file or directory.
        rule: what counts.
        after: in a run directory, look at higher numbers only,
        since: and at lower ones that were touched after this, seconds since the epoch.

    Raises:
        UsageError: ``source`` is missing, two entries have the same number, or the
            rule is malformed.
        UnavailableError: ``source`` holds no checkpoint yet.
    """
    if rule.marker is not None:
        try:
            check_relative_name(rule.marker)
        except CorruptError as e:
            raise UsageError("unsafe name of a marker", found=e.found) from None
    entries = [
        e
        for e in _entries(source, rule)
        if after is None or e.number is None or e.number > after or e.touched > since
    ]
    first = [_states_or_none(e.path) for e in entries]
    now = time.time()
    waits = [_wait(e, s, rule, now) for e, s in zip(entries, first, strict=True) if s]
    time.sleep(max(waits, default=0.0))  # once for all of them
    complete, others = [], []
    for entry, seen in zip(entries, first, strict=True):
        try:
            _check(entry, seen, rule, now)
        except SparsediffError as e:
            if os.path.exists(entry.path):
                others.append((entry.name, str(e)))
            continue
        assert seen is not None
        complete.append(
            Candidate(entry.name, entry.number, entry.path, identity_of(seen), _newest(seen))
        )
    return complete, others


# Which entries


def _entries(source: Path, rule: Rule) -> list[_Entry]:
    """What to look at, in numeric order."""
    single = [_Entry(Path(os.path.abspath(source)).name, None, source, 0.0)]
    with os_errors(source):
        if not stat.S_ISDIR(os.stat(source).st_mode):
            return single
        with os.scandir(source) as listing:
            # What a link leads to comes before the link.
            listed = sorted(listing, key=lambda e: (e.is_symlink(), e.name))
    listed = [e for e in listed if not is_temp(e.name)]
    numbered = None if rule.pattern == "" else _numbered(source, listed, rule.pattern)
    if numbered is not None:
        return numbered
    if rule.pattern:
        raise UnavailableError(
            "no entry of the directory matches the pattern", file=source, expected=rule.pattern
        )
    with os_errors(source):
        files = [e.name for e in listed if e.is_file()]
    plain = (*_WEIGHTS, "index.json") if _needs_weights(rule) else ""
    if not any(name.endswith(plain) for name in files):
        raise UnavailableError(
            "no checkpoint here",
            file=source,
            expected="entries numbered like step_000100 or checkpoint-1200, or files of weights"
            " (a pattern or a marker says otherwise)",
        )
    return single


def _numbered(
    source: Path, listed: list[os.DirEntry[str]], pattern: str | None
) -> list[_Entry] | None:
    """Entries that carry a number, in its order; None if there never were any."""
    expression = None if pattern is None else _compile(pattern)
    one_checkpoint = any(e.name.endswith(_INDICES) or _SHARD.fullmatch(e.name) for e in listed)
    found: dict[int, _Entry] = {}
    seen = set()
    pruned = False
    for entry in listed:
        number = number_in(entry.name) if expression is None else _group(expression, entry.name)
        if number is None:
            continue
        try:
            status = os.stat(source / entry.name)
        except OSError:  # pruned meanwhile, or a link that leads nowhere
            pruned = pruned or not entry.is_symlink()
            continue
        here = (status.st_dev, status.st_ino)
        if entry.is_symlink() and here in seen:
            continue
        if not stat.S_ISDIR(status.st_mode) and (
            not stat.S_ISREG(status.st_mode)
            or (expression is None and (one_checkpoint or not entry.name.endswith(_WEIGHTS)))
        ):
            continue
        if number in found:
            raise UsageError(
                f"two entries have number {number}; give a `pattern` to say which counts",
                file=source,
                found=f"{found[number].name} and {entry.name}",
            )
        seen.add(here)
        found[number] = _Entry(entry.name, number, source / entry.name, status.st_mtime)
    if not found and not pruned:
        return None
    return [found[number] for number in sorted(found)]


def number_in(name: str) -> int | None:
    """Number that ``name`` carries by the default rule."""
    match = _NUMBERED.fullmatch(name)
    if (
        match is None
        or name.startswith(".")
        or _UNFINISHED.search(name)
        or _NO_STEP.search(match[1])
    ):
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


# Whether they are complete


def _needs_weights(rule: Rule) -> bool:
    return rule.pattern is None and rule.marker is None


def _states_or_none(path: Path) -> list[State] | None:
    try:
        return states(path)
    except SparsediffError:
        return None  # the second look says why, if it is so still


def _newest(seen: list[State]) -> float:
    return max(mtime for _, _, mtime, _ in seen) / 1e9


def _wait(entry: _Entry, seen: list[State], rule: Rule, now: float) -> float:
    """Seconds that must lie between the two looks."""
    age = now - _newest(seen)
    if rule.quiet:
        return min(rule.quiet, _LONGEST_WAIT) if age < -rule.quiet else 0.0
    if rule.marker is not None:
        marked = _marked(entry, seen, rule.marker)
        if marked is None or marked >= _newest(seen):
            return 0.0
    return _WAIT if age < _RECENT else 0.0


def _marked(entry: _Entry, seen: list[State], marker: str) -> float | None:
    """The mtime of the marker; None if there is none."""
    if seen and seen[0][0] == "":  # the checkpoint is a file
        try:
            return os.stat(f"{entry.path}.{marker.removeprefix('.')}").st_mtime_ns / 1e9
        except OSError:
            return None
    return next((mtime / 1e9 for name, _, mtime, _ in seen if name == marker), None)


def _check(entry: _Entry, seen: list[State] | None, rule: Rule, now: float) -> None:
    """Raise the reason why the checkpoint is not complete; cheap reasons first."""
    if states(entry.path) != seen:
        raise UnavailableError("still being written")
    names = {name for name, *_ in seen}
    if not names:
        raise UnavailableError("holds no files")
    if rule.marker is not None and _marked(entry, seen, rule.marker) is None:
        raise UnavailableError(f"marker {printable(rule.marker)} is missing")
    age = now - _newest(seen)
    if -rule.quiet <= age < rule.quiet:
        raise UnavailableError(f"changed less than {rule.quiet:g} s ago")
    if names != {""}:
        if _needs_weights(rule) and not any(n.endswith(_WEIGHTS) for n in names):
            raise UnavailableError("holds no weights")
        _check_shards(entry.path, names)
    open_checkpoint(entry.path)
    if states(entry.path) != seen:  # what was checked is what the fingerprint says
        raise UnavailableError("still being written")


def _check_shards(path: Path, names: set[str]) -> None:
    """Raise an error unless all shards are there that an index names or that are counted."""
    indices = [name for name in names if name.endswith(_INDICES)]
    for index in sorted(indices):
        for shard in _shards_of(path / index):
            if posixpath.join(posixpath.dirname(index), shard) not in names:
                raise UnavailableError("a shard is missing", file=path / index, expected=shard)
    indexed = {posixpath.dirname(index) for index in indices}
    counted: dict[tuple[str, int, str], set[int]] = {}
    for name in names:
        match = _SHARD.fullmatch(name)
        if match and posixpath.dirname(name) not in indexed:
            prefix, number, total, suffix = match.groups()
            counted.setdefault((prefix, int(total), suffix), set()).add(int(number))
    for (prefix, total, suffix), numbers in sorted(counted.items()):
        if len(numbers) < total:
            raise UnavailableError(
                f"shards of {printable(prefix)}*{suffix} are missing",
                expected=total,
                found=len(numbers),
            )


def _shards_of(path: Path) -> list[str]:
    """Names of the files that an index of shards names, sorted."""
    file = InputFile.of(path)
    if file.size > _MAX_INDEX:
        raise CorruptError("index of shards is too large", file=path, found=f"{file.size} bytes")
    try:
        weight_map = json.loads(file.read(0, file.size))["weight_map"]
        return sorted({os.fspath(shard) for shard in weight_map.values()})
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise CorruptError("malformed index of shards", file=path) from None
