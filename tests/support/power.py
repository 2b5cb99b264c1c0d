"""What a disk may hold after the power failed, at each point of a run.

A name that was made, changed or removed is on the disk for sure once its directory was synced,
and the content of a file once the file was. Of all else any part may be there: some of the
names and not others, of any age, and of a file what it held, all zeros, its first half, or all.
That is what POSIX allows, and more than most file systems do.
"""

from __future__ import annotations

import os
import random
import shutil
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from sparsediff.disk import outputs

# What changes names; each is a point. Whatever else does is seen at the next one.
_CHANGES: list[tuple[Any, str]] = [
    *((os, n) for n in ("link", "mkdir", "rename", "replace", "rmdir", "symlink", "unlink")),
    (outputs, "_exchange"),
]
_MANY = 4  # names, all of whose subsets are tried


class _Node(NamedTuple):
    """Something that has a name: how it was made, and under which path it was there at first."""

    mode: int
    link: str | None
    origin: Path | None


class Entry(NamedTuple):
    """What a name stands for after the failure.

    Attributes:
        mode: as of `os.stat`.
        link: where it leads, if it is a symbolic link.
        node: files with the same one are one file.
        origin: path of the same file, unchanged, in the copy of what was there at first.
        content: else its content, if it is a file.
    """

    mode: int
    link: str | None
    node: int
    origin: Path | None
    content: bytes | None


State = tuple[tuple[str, Entry], ...]
_Change = list[tuple[int, str, int | None]]  # directory, name, what it stands for then


class Recorder:
    """Follows what is in a directory while it is changed.

    Args:
        place: the directory; what is in it now is taken to be on the disk.
        origin: where a copy of it will be, made of hard links.
        seed: for what is tried of many possibilities.
    """

    def __init__(self, place: Path, origin: Path, seed: int = 0) -> None:
        self.states: dict[State, str] = {}  # in order, with the first point of each
        self._place, self._origin = place, origin
        self._random = random.Random(seed)
        self._lock = threading.RLock()
        self._nodes: list[_Node] = []
        self._known: dict[tuple[int, int], int] = {}
        self._paths: dict[int, Path] = {}
        self._now = self._scan(first=True)
        self._synced = {directory: dict(names) for directory, names in self._now.items()}
        self._pending: list[_Change] = []
        self._contents: dict[int, bytes] = {}  # of files that were synced since

    def watch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Have whatever changes names, or syncs, tell of it."""
        for owner, name in _CHANGES:
            monkeypatch.setattr(owner, name, self._changing(name, getattr(owner, name)))
        fsync = os.fsync

        def syncing(fd: int) -> None:
            with self._lock:
                self.point("before fsync")
                fsync(fd)
                about = os.fstat(fd)
                node = self._known.get((about.st_dev, about.st_ino))
                if node is not None:
                    self._sync(node)

        monkeypatch.setattr(os, "fsync", syncing)

    def _changing(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with self._lock:
                self.point(f"before {name} {args[-1]}")
                result = function(*args, **kwargs)
                self._notice(together=True)
                return result

        return wrapped

    def point(self, what: str) -> None:
        """Add all states that the disk may have if the power fails now."""
        with self._lock:
            self._notice(together=False)
            for chosen in self._choices(len(self._pending)):
                for state in self._crash(chosen):
                    self.states.setdefault(state, what)

    def _scan(self, *, first: bool = False) -> dict[int, dict[str, int]]:
        """The names in each directory now; the place itself is node 0."""
        found: dict[int, dict[str, int]] = {}
        seen: dict[tuple[int, int], int] = {}

        def visit(path: Path, about: os.stat_result) -> int:
            key = about.st_dev, about.st_ino
            node = seen.get(key)
            if node is None:
                node = self._known.get(key)
                if node is None:
                    origin = self._origin / path.relative_to(self._place) if first else None
                    link = os.readlink(path) if stat.S_ISLNK(about.st_mode) else None
                    node = len(self._nodes)
                    self._nodes.append(_Node(about.st_mode, link, origin))
                seen[key] = node
                self._paths[node] = path
                if stat.S_ISDIR(about.st_mode):
                    names = found[node] = {}
                    for entry in os.scandir(path):
                        below = entry.stat(follow_symlinks=False)
                        names[entry.name] = visit(Path(entry.path), below)
            self._nodes[node] = self._nodes[node]._replace(mode=about.st_mode)
            return node

        visit(self._place, os.stat(self._place))
        self._known = seen  # the number of one that is gone may be given to another
        return found

    def _notice(self, *, together: bool) -> None:
        """Note what has another name than when it was looked at last."""
        before, self._now = self._now, self._scan()
        changes: _Change = []
        for directory in before.keys() | self._now.keys():
            old, new = before.get(directory, {}), self._now.get(directory, {})
            if directory in self._now:
                for name in sorted(old.keys() | new.keys()):
                    if old.get(name) != new.get(name):
                        changes.append((directory, name, new.get(name)))
        if together and changes:
            self._pending.append(changes)
        else:
            self._pending += [[change] for change in changes]

    def _sync(self, node: int) -> None:
        """Note that a file or a directory is on the disk as it is."""
        if not stat.S_ISDIR(self._nodes[node].mode):
            self._contents[node] = self._paths[node].read_bytes()
            return
        rest = []
        for change in self._pending:
            if any(directory == node for directory, *_ in change):
                _apply(self._synced, change)
            else:
                rest.append(change)
        self._pending = rest

    def _choices(self, n: int) -> Iterator[tuple[int, ...]]:
        """Of changes that may be on the disk or not, those that are."""
        everything = tuple(range(n))
        if n <= _MANY:
            for mask in range(1 << n):
                yield tuple(i for i in everything if mask >> i & 1)
            return
        for i in everything:
            yield everything[:i]
            yield everything[:i] + everything[i + 1 :]
            yield (i,)
        yield everything
        for _ in range(n):
            yield tuple(i for i in everything if self._random.random() < 0.5)

    def _crash(self, chosen: tuple[int, ...]) -> Iterator[State]:
        """The states with these of the pending changes."""
        names = {directory: dict(entries) for directory, entries in self._synced.items()}
        for i in chosen:
            _apply(names, self._pending[i])
        paths: list[tuple[str, int]] = []

        def visit(directory: int, prefix: str) -> None:
            for name, node in sorted(names.get(directory, {}).items()):
                paths.append((prefix + name, node))
                if stat.S_ISDIR(self._nodes[node].mode):
                    visit(node, f"{prefix}{name}/")

        visit(0, "")
        may_hold = {node: self._may_hold(node) for _, node in paths}
        for i in range(max(map(len, may_hold.values()), default=1)):
            held = {node: options[i % len(options)] for node, options in may_hold.items()}
            yield tuple((path, self._entry(node, held[node])) for path, node in paths)

    def _may_hold(self, node: int) -> list[bytes | None]:
        """What a file may hold; None for what it held at first, and for what is no file."""
        about = self._nodes[node]
        if about.origin is not None or not stat.S_ISREG(about.mode):
            return [None]
        synced = self._contents.get(node, b"")
        known = self._known.values()
        now = self._paths[node].read_bytes() if node in known else synced
        if now == synced:
            return [now]
        return [now, synced, bytes(len(now)), now[: len(now) // 2]]

    def _entry(self, node: int, content: bytes | None) -> Entry:
        about = self._nodes[node]
        return Entry(about.mode, about.link, node, about.origin, content)


def _apply(names: dict[int, dict[str, int]], change: _Change) -> None:
    for directory, name, node in change:
        entries = names.setdefault(directory, {})
        if node is None:
            entries.pop(name, None)
        else:
            entries[name] = node


def restore(state: State, place: Path) -> None:
    """Make ``place`` what the disk holds after the failure."""
    shutil.rmtree(place)
    place.mkdir()
    made: dict[int, Path] = {}
    for name, entry in state:
        path = place / name
        if stat.S_ISDIR(entry.mode):
            path.mkdir()
        elif entry.link is not None:
            path.symlink_to(entry.link)
        elif entry.node in made:
            os.link(made[entry.node], path)
        elif entry.content is None:
            assert entry.origin is not None
            os.link(entry.origin, path)
        else:
            path.write_bytes(entry.content)
            path.chmod(stat.S_IMODE(entry.mode))
        made[entry.node] = path
    for name, entry in reversed(state):
        if stat.S_ISDIR(entry.mode):
            (place / name).chmod(stat.S_IMODE(entry.mode))
