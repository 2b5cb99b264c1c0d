"""What one machine of several encodes: the payloads of a patch, cut into runs of like size.

Enters: a plan. Leaves: its tasks in stored order, and those of one share. Every machine that
has the same plan cuts it the same way.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from sparsediff.errors import UsageError
from sparsediff.patch import words
from sparsediff.patch.manifest import Manifest

T = TypeVar("T")

MAX_SHARES = 1 << 16


@dataclass(frozen=True, slots=True)
class Share:
    """One of several shares of the work.

    Attributes:
        index: which, from 1 on.
        count: of how many.
    """

    index: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count <= MAX_SHARES:
            raise UsageError(
                "there is no such part", expected=f"1/N to N/N, N up to {MAX_SHARES}", found=self
            )

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @classmethod
    def parse(cls, text: str) -> Share:
        """From text like ``3/16``.

        Raises:
            UsageError: it is none.
        """
        found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
        if found is None:
            raise UsageError("not a part", expected="something like 3/16", found=repr(text))
        return cls(int(found[1]), int(found[2]))


WHOLE = Share(1, 1)


class Task(NamedTuple):
    """One skeleton (``bucket`` is None) or one bucket of target file ``file``."""

    file: int
    bucket: int | None


def runs(items: Sequence[T], sizes: Sequence[int], count: int) -> list[list[T]]:
    """Items in order, cut into ``count`` runs of like size, some of which may be empty."""
    # An item without bytes counts as one, so that there is always something to divide.
    weights = [max(1, size) for size in sizes]
    total, start = sum(weights), 0
    found: list[list[T]] = [[] for _ in range(count)]
    for item, weight in zip(items, weights, strict=True):
        found[start * count // total].append(item)
        start += weight
    return found


def cut(manifest: Manifest, count: int = 1) -> list[list[Task]]:
    """Everything there is to encode, in stored order, cut into shares.

    A task belongs to the share in which its first byte lies, if the bytes of all tasks in
    order are cut into ``count`` runs of the same length. So a share may be empty.
    """
    found = [
        task
        for file, buckets in enumerate(manifest.file_buckets)
        for task in (Task(file, None), *(Task(file, b) for b in buckets))
    ]
    return runs(found, [n_bytes(manifest, task) for task in found], count)


def tasks(manifest: Manifest, share: Share = WHOLE) -> list[Task]:
    """What there is to encode for one share."""
    return cut(manifest, share.count)[share.index - 1]


def n_bytes(manifest: Manifest, task: Task) -> int:
    """Target bytes that a task encodes."""
    if task.bucket is None:
        return manifest.skeleton_size(task.file)
    return words.n_bytes(manifest, task.bucket)
