"""What was found out about payloads, and the manifest that it completes.

Enters: a plan, and for each task in stored order what encoding it found. Leaves: the complete
manifest. On one machine or many, in one process or from files: a patch is the same bytes
because all of them end here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sparsediff.make.shares import Task
from sparsediff.patch.manifest import Manifest
from sparsediff.patch.measures import median_step
from sparsediff.patch.tensors import Tensors

N_CLASSES = 128  # of |step| - 1


class Steps(NamedTuple):
    """Steps from base to target in each part of a bucket; without parts where nothing changed.

    Attributes:
        by_class: how many, by class of |step| - 1: as many classes for each part.
        largest: the largest |step| of each part, (n_parts,); 0 if nothing changed.
    """

    by_class: list[list[int]]
    largest: list[int]

    @classmethod
    def joined(cls, found: Sequence[Steps]) -> Steps:
        """Of the parts of all of them."""
        rows = [row for s in found for row in s.by_class]
        widest = max(map(len, rows), default=0)
        rows = [row + [0] * (widest - len(row)) for row in rows]
        return cls(rows, [n for s in found for n in s.largest])


NO_STEPS = Steps([], [])


class Result(NamedTuple):
    """What the manifest will say of one skeleton or bucket.

    Attributes:
        target: checksum of the skeleton, or of the bucket's target words.
        digest: SHA-256 of the payload; None if there is none, since the target is what
            it was in the base.
        base: checksum of a bucket's base words; None if there are none.
        locators: of those, one per part.
        steps: of a bucket; without parts if nothing changed, or nothing was compared.
    """

    target: str
    digest: str | None = None
    base: str | None = None
    locators: str = ""
    steps: Steps = NO_STEPS


class Completion:
    """A plan on its way to a complete manifest.

    Attributes:
        sizes: bytes of each payload so far, by name, in stored order.
    """

    def __init__(self, manifest: Manifest) -> None:
        self.sizes: dict[str, int] = {}
        self._manifest = manifest
        self._steps: dict[int, list[int]] = {}  # by tensor, until its last bucket is in

    def enter(self, task: Task, result: Result, payload_bytes: int) -> None:
        """Take the result of the next task, in stored order."""
        if task.bucket is None:
            file = self._manifest.target_files[task.file]
            file.skeleton, file.skeleton_digest = result.target, result.digest
            name = f"skeleton.{task.file}"
        else:
            self._enter_bucket(task.bucket, result)
            name = f"bucket.{task.bucket}"
        if result.digest is not None:
            self.sizes[name] = payload_bytes

    def _enter_bucket(self, bucket: int, result: Result) -> None:
        record = self._manifest.buckets[bucket]
        record.base, record.locators = result.base, result.locators
        if result.digest is not None:
            record.target, record.digest = result.target, result.digest
        tensors, parts, steps = self._manifest.tensors, self._manifest.parts[bucket], result.steps
        for part, by_class, largest in zip(parts, steps.by_class, steps.largest, strict=False):
            row = part.tensor
            if not largest:
                continue
            tensors.largest[row] = max(tensors.largest[row], largest)
            if part.n_words == tensors.n_based[row]:
                _enter_steps(tensors, row, by_class)
            else:
                counts = self._steps.setdefault(row, [0] * N_CLASSES)
                for i, n in enumerate(by_class):
                    counts[i] += n
        for part in (parts[0], parts[-1]):  # only there a tensor ends that began before
            row = part.tensor
            if part.start + part.n_words == tensors.n_based[row] and row in self._steps:
                _enter_steps(tensors, row, self._steps.pop(row))


def _enter_steps(tensors: Tensors, row: int, by_class: list[int]) -> None:
    tensors.n_stepped[row], tensors.n_ones[row] = sum(by_class), by_class[0]
    tensors.medians[row] = median_step(by_class)
