"""sparsediff: small exact patches between model checkpoints.

The library behind the command line. Functions take paths, return dataclasses,
raise `SparsediffError` and print nothing.
"""

from sparsediff.apply import ApplyResult, apply_patch
from sparsediff.errors import (
    CorruptError,
    LockedError,
    SparsediffError,
    UnavailableError,
    UnsupportedError,
    UsageError,
    WrongBaseError,
)
from sparsediff.make import MakeResult, make_patch
from sparsediff.manifest import Manifest
from sparsediff.patch import Patch, open_patch
from sparsediff.series import SeriesStep, series_stats
from sparsediff.stats import CheckpointStats, Group, TensorStats, checkpoint_stats, patch_stats
from sparsediff.verify import VerifyResult, verify_patch
from sparsediff.version import __version__

__all__ = [
    "ApplyResult",
    "CheckpointStats",
    "CorruptError",
    "Group",
    "LockedError",
    "MakeResult",
    "Manifest",
    "Patch",
    "SeriesStep",
    "SparsediffError",
    "TensorStats",
    "UnavailableError",
    "UnsupportedError",
    "UsageError",
    "VerifyResult",
    "WrongBaseError",
    "__version__",
    "apply_patch",
    "checkpoint_stats",
    "make_patch",
    "open_patch",
    "patch_stats",
    "series_stats",
    "verify_patch",
]
