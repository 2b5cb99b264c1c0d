"""What a command keeps between its runs, in a small JSON file.

Enters and leaves: a record of a kind: `Pulled`, `Sent`, or `Seen`. Replaced by rename,
so the file is whole or as it was, and a missing one is an empty record. It is input like any
other: of a file that is there, everything is checked, and one that cannot be read or is
malformed is an error, because whoever takes it for empty forgets what is on the disk.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeVar

from sparsediff.disk.outputs import staged_file
from sparsediff.errors import CorruptError, UsageError, from_os_error, os_errors
from sparsediff.shipping import fields
from sparsediff.shipping.fields import FieldError, Row

NAME = "state.json"
SEEN = "seen.json"
_MAX_BYTES = 1 << 24

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Updating:
    """An update in place that has begun.

    Attributes:
        version: what the destination becomes.
        patches: SHA-256 of each patch that makes it so, in order.
    """

    version: int
    patches: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Pulled:
    """What `pull` remembers of a destination.

    Attributes:
        id: of the store that all numbers belong to.
        versions: names of the versions that are whole, by number; not in place.
        stale: names of versions to be removed.
        building: name of the version being built.
        version: what a destination in place is.
        updating: what it is becoming.
        told: the version that the command after a switch was last run for.
        store: its name, for messages.
        files: patterns of the files that the destination holds; empty for all.
        newest: number of the newest version that the store has had; None in records of earlier
            releases.
        rewind: of the store, as in its catalog.
    """

    id: str | None = None
    versions: dict[int, str] = field(default_factory=dict)
    stale: tuple[str, ...] = ()
    building: str | None = None
    version: int | None = None
    updating: Updating | None = None
    told: str | None = None
    store: str | None = None
    files: tuple[str, ...] = ()
    newest: int | None = None
    rewind: int = 0

    def known_newest(self) -> int:
        """The least that the newest version of the store must be now, or it has gone back."""
        known = [*self.versions, self.version, self.newest]
        return max((v for v in known if v is not None), default=0)


@dataclass(frozen=True, slots=True)
class Pending:
    """What `ship` is about to publish.

    Attributes:
        id: of the store.
        version: number of the new version.
        sha256: of all its patches.
        identity: of the snapshot.
        squash_from: where the next shortcut starts from once it is published.
    """

    id: str
    version: int
    sha256: tuple[str, ...]
    identity: str
    squash_from: int | None


@dataclass(frozen=True, slots=True)
class Sent:
    """What `ship` remembers of a store.

    Attributes:
        store: its name, for messages.
        id: of the store; None if nothing was published yet.
        kept: identity of each snapshot, by version.
        squash_from: version that the next shortcut starts from.
        pending: what was about to be published.
        run: id of the run that a store was bound to.
        newest: number of the newest version that the store has had; None in records of earlier
            releases.
        rewind: the highest that its catalog has had.
    """

    store: str | None = None
    id: str | None = None
    kept: dict[int, str] = field(default_factory=dict)
    squash_from: int | None = None
    pending: Pending | None = None
    run: str | None = None
    newest: int | None = None
    rewind: int = 0


@dataclass(frozen=True, slots=True)
class Waiting:
    """A checkpoint that was seen and is not in the store.

    Attributes:
        name: of the file or directory.
        number: its step; None for a single checkpoint.
        reason: one of `look.REASONS`.
        why: the same in words, with what is missing.
        since: when it was seen first or changed last, whichever was earlier, in seconds since
            the epoch.
        n_bytes: of its files, as far as they can be looked at.
    """

    name: str
    number: int | None
    reason: str
    why: str
    since: float
    n_bytes: int


@dataclass(frozen=True, slots=True)
class Seen:
    """What earlier looks at a source have seen.

    Attributes:
        first: when each checkpoint that waits was seen first, in seconds since the epoch.
        newest: mtime of the newest checkpoint there ever was; 0 if there was none.
        looked: when, the last time.
        waiting: what waited then, the longest waiting first.
        latest: name of the latest version in the store; None if there was none.
        shipped: when that was shipped.
        same: fingerprint of a checkpoint that was found to hold what the latest version does,
            touched perhaps; None if none was.
    """

    first: dict[str, float] = field(default_factory=dict)
    newest: float = 0.0
    looked: float = 0.0
    waiting: tuple[Waiting, ...] = ()
    latest: str | None = None
    shipped: float | None = None
    same: str | None = None


def check_own(path: Path) -> None:
    """Raise UsageError if what is at ``path`` is anything but a true directory.

    Whoever put a link there chose where we write and delete.
    """
    with os_errors(path):
        if os.path.lexists(path) and not stat.S_ISDIR(os.lstat(path).st_mode):
            raise UsageError(
                "a directory that is written here is a link or a file; move it away", file=path
            )


def own_directory(path: Path, mode: int = 0o777) -> Path:
    """Make a directory that holds what a command keeps, unless it is there; see `check_own`."""
    check_own(path)
    with os_errors(path):
        path.mkdir(mode, exist_ok=True)
    return path


def load_pulled(directory: Path, advice: str) -> Pulled:
    """The record of a destination, which is bound to no store before a version is whole there.

    Args:
        directory: where `save` put it.
        advice: for people, what to do if it cannot be used.

    Raises:
        CorruptError: it is malformed.
        UsageError: it may not be read.
        UnavailableError: the disk fails.
    """
    record = _load(directory / NAME, _pulled, advice) or Pulled()
    began = record.building is not None and not (record.versions or record.stale)
    return Pulled(building=record.building) if began else record


def load_sent(directory: Path) -> Sent:
    """The record of a source; raises what `load_pulled` does."""
    advice = "move it away, and the next version is stored whole"
    return _load(directory / NAME, _sent, advice) or Sent()


def load_seen(directory: Path) -> Seen:
    """What was seen of a source; raises what `load_pulled` does."""
    return _load(directory / SEEN, _seen, "remove it, and all waiting begins anew") or Seen()


def save(directory: Path, record: Pulled | Sent | Seen) -> None:
    """Replace the record.

    Raises:
        UnavailableError: the disk is full, or fails.
    """
    data = (json.dumps(asdict(record), indent=1) + "\n").encode()
    path = directory / (SEEN if isinstance(record, Seen) else NAME)
    with staged_file(path, force=True) as stream, os_errors(path):
        stream.write(data)


def _load(path: Path, read: Callable[[Row], S], advice: str) -> S | None:
    """The record in a file; None if there is no such file."""
    try:
        return read(Row(fields.parsed(_bytes(path))))
    except FileNotFoundError:
        return None
    except FieldError as e:
        raise CorruptError(
            f"the record of earlier runs is damaged; {advice}",
            file=path,
            expected=e.text,
            found=e.found,
        ) from None
    except OSError as e:
        error = from_os_error(e, path)
        error.problem = f"the record of earlier runs cannot be read ({error.problem}); {advice}"
        raise error from e


def _bytes(path: Path) -> bytes:
    # NONBLOCK: a pipe must not hold us up. Nobody but `save` makes this file, so it is no link.
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise FieldError("a regular file", stat.filemode(status.st_mode))
        if status.st_size > _MAX_BYTES:
            raise FieldError(f"at most {_MAX_BYTES} bytes", status.st_size)
        with open(fd, "rb", closefd=False) as stream:
            return stream.read(_MAX_BYTES)
    finally:
        os.close(fd)


def _pulled(row: Row) -> Pulled:
    # The first release wrote all of these; without them nobody would know of an old pointer.
    return Pulled(
        row.get("id", fields.history),
        row.get("versions", fields.table(fields.numeral, fields.file_name)),
        tuple(row.get("stale", fields.listed(fields.file_name))),
        row.get("building", fields.optional(fields.file_name)),
        row.get("version", fields.optional(fields.version)),
        row.get("updating", fields.optional(_updating)),
        row.get("told", fields.optional(fields.any_text)),
        row.find("store", fields.any_text),
        tuple(row.find("files", fields.listed(fields.any_text)) or ()),
        row.find("newest", fields.version),
        row.find("rewind", fields.count) or 0,
    )


def _updating(value: object) -> Updating:
    row = Row(value)
    return Updating(
        row.get("version", fields.version),
        tuple(row.get("patches", fields.listed(fields.sha256))),
    )


def _sent(row: Row) -> Sent:
    return Sent(
        row.find("store", fields.any_text),
        row.find("id", fields.history),
        row.find("kept", fields.table(fields.numeral, fields.any_text)) or {},
        row.find("squash_from", fields.version),
        row.find("pending", _pending),
        row.find("run", fields.history),
        row.find("newest", fields.version),
        row.find("rewind", fields.count) or 0,
    )


def _seen(row: Row) -> Seen:
    return Seen(
        row.find("first", fields.table(fields.any_text, fields.seconds)) or {},
        row.find("newest", fields.seconds) or 0.0,
        row.find("looked", fields.seconds) or 0.0,
        tuple(row.find("waiting", fields.listed(_waiting)) or ()),
        row.find("latest", fields.any_text),
        row.find("shipped", fields.seconds),
        row.find("same", fields.any_text),
    )


def _waiting(value: object) -> Waiting:
    row = Row(value)
    return Waiting(
        row.get("name", fields.any_text),
        row.find("number", fields.count),
        row.get("reason", fields.any_text),
        row.get("why", fields.any_text),
        row.get("since", fields.seconds),
        row.get("n_bytes", fields.count),
    )


def _pending(value: object) -> Pending:
    row = Row(value)
    return Pending(
        row.get("id", fields.history),
        row.get("version", fields.version),
        tuple(row.get("sha256", fields.listed(fields.sha256))),
        row.get("identity", fields.any_text),
        row.find("squash_from", fields.version),
    )


def default_state(path: Path) -> Path:
    """Where `ship` keeps what the next patch needs: next to the source, on the same disk."""
    path = Path(os.path.abspath(path))
    return path.parent / f".{path.name}.sparsediff-ship"
