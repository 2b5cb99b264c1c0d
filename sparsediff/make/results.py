"""What was found out about payloads, and the manifest that it completes.

Enters: a plan, and for each task in stored order what encoding it found. Leaves: the complete
manifest. On one machine or many, in one process or from files: a patch is the same bytes
because all of them end here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import zip_longest

import numpy as np

from sparsediff.make.shares import Task
from sparsediff.patch.counts import Counts, median_step
from sparsediff.patch.manifest import Manifest

N_CLASSES = 128  # of |step| - 1


@dataclass(frozen=True, slots=True)
class PartSteps:
    """Steps from base to target in one part of a bucket.

    Attributes:
        by_class: how many, by class of |step| - 1, without the zeros at the end.
        largest: the largest |step|; 0 if nothing changed.
    """

    by_class: Counts
    largest: int


@dataclass(frozen=True, slots=True)
class Result:
    """What the manifest will say of one skeleton or bucket.

    Attributes:
        target: checksum of the skeleton, or of the bucket's target words.
        digest: SHA-256 of the payload; None if there is none, since the target is what
            it was in the base.
        base: checksum of a bucket's base words; None if there are none.
        locators: of those, one per part.
        steps: of each part of a bucket; empty if nothing changed, or nothing was compared.
    """

    target: str
    digest: str | None = None
    base: str | None = None
    locators: str = ""
    steps: list[PartSteps] = field(default_factory=list)


class Completion:
    """A plan on its way to a complete manifest.

    Attributes:
        sizes: bytes of each payload so far, by name, in stored order.
    """

    def __init__(self, manifest: Manifest) -> None:
        self.sizes: dict[str, int] = {}
        self._manifest = manifest
        self._steps: dict[int, Counts] = {}  # by tensor, until its last bucket is in

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
        for part, found in zip_longest(self._manifest.parts[bucket], result.steps):
            tensor = self._manifest.tensors[part.tensor]
            if found is not None and found.largest:
                by_class = self._steps.setdefault(part.tensor, np.zeros(N_CLASSES, np.int64))
                by_class[: found.by_class.size] += found.by_class
                tensor.largest = max(tensor.largest, found.largest)
            if part.start + part.n_words == tensor.n_based and part.tensor in self._steps:
                by_class = self._steps.pop(part.tensor)
                tensor.n_stepped, tensor.n_ones = int(by_class.sum()), int(by_class[0])
                tensor.median = median_step(by_class)
