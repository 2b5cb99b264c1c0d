"""Part of a patch: what one machine of several encoded, as a file.

Enters: a plan, a share of it, and what encoding that share found. Leaves: a file that says so,
payloads included; or from such a file, all of it checked, what `merge` needs. A part is no
patch: it lies between machines for minutes, and only the version that wrote it reads it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

from sparsediff.checksum import checksum, digest
from sparsediff.codec.zstd import compress, decompress, stated_size
from sparsediff.disk.inputs import InputFile, Readable, Window
from sparsediff.errors import (
    CorruptError,
    SparsediffError,
    UnsupportedError,
    UsageError,
    os_errors,
)
from sparsediff.make.results import N_CLASSES, NO_STEPS, Result, Steps
from sparsediff.make.shares import Share, Task
from sparsediff.patch import manifest_json
from sparsediff.patch.columns import Check, hexes, integers, lists_of, or_none, texts
from sparsediff.patch.container import MAX_MANIFEST, PART_FORMAT, too_many
from sparsediff.patch.entries import EntryReader, compose_header
from sparsediff.patch.manifest import Manifest
from sparsediff.unfolding import uncollected
from sparsediff.version import __version__

_WHAT = "part of a patch"
_MAX_RESULTS = 1 << 26  # bytes, decompressed
# Lists and commas in them, whatever their frame takes, and for each byte of it: each list of steps
# has a locator, which no frame makes smaller, and numbers of steps are hardly alike.
_MAX_LISTS, _LISTS_PER_BYTE = 1 << 17, 4
_MAX_COMMAS, _COMMAS_PER_BYTE = 1 << 20, 64
_NATURAL = integers(0, (1 << 63) - 1)
_COLUMNS: dict[str, Check] = {
    "target": hexes(32),
    "sha256": or_none(hexes(64)),
    "base": or_none(hexes(32)),
    "locators": texts,
    "largest": lists_of(_NATURAL),
    "steps": lists_of(lists_of(_NATURAL)),
}

Read = dict[str, int]
"""Time of the last change, in ns, of each file that was read, by ``base/`` or ``target/``, name."""


class Findings(NamedTuple):
    """What encoding a share found.

    Attributes:
        share: of the plan.
        read: which files were read.
        results: one for each task of the share, in order.
        sizes: bytes of each payload, by name, in stored order.
    """

    share: Share
    read: Read
    results: list[Result]
    sizes: dict[str, int]


def plan_text(manifest: Manifest) -> bytes:
    """A plan, as all parts of a patch have it."""
    return manifest_json.dump(manifest)


def changed_at(file: Readable) -> int:
    """When a file was changed last, in ns; 0 for what is no file."""
    if isinstance(file, Window):
        file = file.outer
    return file.identity[2] if isinstance(file, InputFile) else 0


def pack_part(plan: bytes, found: Findings, *, with_plan: bool = True) -> bytes:
    """Everything of a part before its payloads.

    Args:
        plan: what `plan_text` gave, before anything was entered.
        found: by encoding.
        with_plan: without it there is only its checksum: one part of all must have it.

    Raises:
        UnsupportedError: the plan is too large for a patch, or the results for a part.
    """
    if len(plan) > MAX_MANIFEST:
        raise too_many(len(plan))
    results = json.dumps(
        {
            "part": [found.share.index, found.share.count],
            "read": found.read,
            "target": [r.target for r in found.results],
            "sha256": [r.digest for r in found.results],
            "base": [r.base for r in found.results],
            "locators": [r.locators for r in found.results],
            "largest": [r.steps.largest for r in found.results],
            "steps": [r.steps.by_class for r in found.results],
        },
        separators=(",", ":"),
    ).encode("ascii")
    frames = compress(plan if with_plan else b"", level=3), compress(results, level=3)
    try:
        if len(results) > _MAX_RESULTS:
            raise CorruptError("results are too large")
        _check_paid(results, len(frames[1]))
        if with_plan:
            manifest_json.find_columns(plan, len(frames[0]))
    except CorruptError as e:
        raise UnsupportedError(f"too many tensors for a part of a patch ({e.problem})") from e
    sizes = {"plan": len(frames[0]), "results": len(frames[1])} | found.sizes
    return compose_header(_metadata(checksum(plan), checksum(results)), sizes) + b"".join(frames)


def _metadata(plan: str, results: str) -> dict[str, str]:
    return {
        "format": PART_FORMAT,
        "plan_xxh3": plan,
        "results_xxh3": results,
        "version": __version__,
    }


class Part:
    """An open part.

    Attributes:
        name: where it comes from, for messages.
        plan: what `plan_text` gave; empty if only its checksum is here.
        plan_checksum: of it.
        found: what it holds; nothing is known of its payloads but their sizes.
    """

    def __init__(self, path: Path | str) -> None:
        """Read everything but the payloads.

        Raises:
            UsageError: there is no such file.
            CorruptError: this is no part, or a damaged one.
            UnsupportedError: another version of sparsediff wrote it.
        """
        self.name = str(path)
        self._file = InputFile.of(Path(path))
        with self._opened() as stream:
            self._read(stream)

    @contextmanager
    def _opened(self) -> Iterator[BinaryIO]:
        """The file, as long as it is what it was; errors of reading it name it."""
        with os_errors(self.name), open(self._file.open(), "rb") as stream:
            yield stream

    def _read(self, stream: BinaryIO) -> None:
        try:
            self._entries = EntryReader(stream, self.name, _WHAT)
            metadata = self._entries.metadata
            if metadata.get("format") != PART_FORMAT:
                raise CorruptError("not a part of a patch, which make writes when `part` is given")
            if metadata.get("version") != __version__:
                raise UnsupportedError(
                    "part was made by another version of sparsediff",
                    expected=__version__,
                    found=metadata.get("version"),
                )
            if list(self._entries.sizes)[:2] != ["plan", "results"]:
                raise CorruptError("header of the part has the wrong entries")
            sums = str(metadata.get("plan_xxh3")), str(metadata.get("results_xxh3"))
            self._entries.check_header(_metadata(*sums))
            self.plan_checksum = sums[0]
            stored = dict(self._entries.sizes)
            self.plan = self._frame("plan", MAX_MANIFEST)
            if self.plan:
                manifest_json.find_columns(self.plan, stored["plan"])
            if self.plan and checksum(self.plan) != sums[0]:
                raise CorruptError("plan does not match its checksum", expected=sums[0])
            results = self._frame("results", _MAX_RESULTS)
            _check_paid(results, stored["results"])
            if checksum(results) != sums[1]:
                raise CorruptError("results do not match their checksum", expected=sums[1])
            self.found = _parse(results, self._entries.sizes)
        except SparsediffError as e:
            e.file = self.name
            raise
        self._start = stream.tell()

    def check_fits(self, manifest: Manifest, mine: list[Task]) -> None:
        """Check that results and payloads are those of the plan.

        Args:
            manifest: the plan, not completed yet.
            mine: the tasks of this share.

        Raises:
            CorruptError: they are not.
        """
        fits = len(self.found.results) == len(mine) and list(self.found.sizes) == [
            payload_name(task)
            for task, result in zip(mine, self.found.results, strict=True)
            if result.digest is not None
        ]
        if not fits or not all(
            len(result.steps.largest) in (0, len(manifest.parts[task.bucket]))
            if task.bucket is not None
            else not result.steps.largest
            for task, result in zip(mine, self.found.results, strict=True)
        ):
            raise CorruptError("results are not those of the plan", file=self.name)

    def payloads(self) -> Iterator[bytes]:
        """Each payload in stored order, checked by its SHA-256.

        Raises:
            CorruptError: one is damaged.
            UnavailableError: the file changed since it was opened.
        """
        digests = (r.digest for r in self.found.results if r.digest is not None)
        with self._opened() as stream:
            stream.seek(self._start)
            for (name, size), expected in zip(self.found.sizes.items(), digests, strict=True):
                data = stream.read(size)
                if digest(data) != expected:
                    raise CorruptError(f"{name} does not match its SHA-256", file=self.name)
                yield data

    def _frame(self, name: str, limit: int) -> bytes:
        size = self._entries.sizes.pop(name)
        if size > limit:
            raise CorruptError(f"{name} is too large", found=f"{size} bytes")
        frame = self._entries.read(size)
        if stated_size(frame) > limit:
            raise CorruptError(f"{name} is too large", found=f"{stated_size(frame)} bytes")
        return decompress(frame, stated_size(frame))


def payload_name(task: Task) -> str:
    """What the payload of a task is called in the patch."""
    return f"skeleton.{task.file}" if task.bucket is None else f"bucket.{task.bucket}"


def _check_paid(results: bytes, stored_bytes: int) -> None:
    """Refuse results that would unfold to more than what is stored of them has a claim to."""
    if (
        results.count(b"[") + results.count(b"{") > _MAX_LISTS + _LISTS_PER_BYTE * stored_bytes
        or results.count(b",") > _MAX_COMMAS + _COMMAS_PER_BYTE * stored_bytes
    ):
        raise CorruptError("results of the part are malformed (too many values for their size)")


@uncollected()
def _parse(raw: bytes, sizes: dict[str, int]) -> Findings:
    """Findings from JSON, checked as far as they can be without the plan.

    Raises:
        CorruptError: something is not as `pack_part` writes it.
    """
    try:
        table = json.loads(raw)
        columns = [table[name] for name in _COLUMNS]
        if not all(type(table[n]) is list and check(table[n]) for n, check in _COLUMNS.items()):
            raise ValueError
        index, count = table["part"]
        read = table["read"]
        if not _NATURAL([index, count, *read.values()]):
            raise ValueError
        results = [
            Result(target, sha256, base, locators, _steps(largest, by_class))
            for target, sha256, base, locators, largest, by_class in zip(*columns, strict=True)
        ]
        return Findings(Share(index, count), read, results, sizes)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, UsageError):
        raise CorruptError("results of the part are malformed") from None


def _steps(largest: list[int], by_class: list[list[int]]) -> Steps:
    if len(largest) != len(by_class):
        raise ValueError
    n_classes = {*map(len, by_class)}
    if len(n_classes) > 1 or (n_classes and not 1 <= max(n_classes) <= N_CLASSES):
        raise ValueError
    return Steps(by_class, largest) if largest else NO_STEPS
