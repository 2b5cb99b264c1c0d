"""sparsediff: small exact patches between model checkpoints.

The library behind the command line. Functions take paths, return dataclasses,
raise `SparsediffError` and print nothing. Names are imported when first used,
so that the command line answers ``--help`` without loading NumPy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sparsediff.version import __version__

if TYPE_CHECKING:
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
    from sparsediff.export import ExportResult, export_patch
    from sparsediff.make import MakeResult, make_patch
    from sparsediff.manifest import Manifest
    from sparsediff.patch import Patch, open_patch
    from sparsediff.series import SeriesStep, series_stats
    from sparsediff.squash import squash_patches
    from sparsediff.stats import CheckpointStats, Group, TensorStats, checkpoint_stats, patch_stats
    from sparsediff.updates import Update, iter_updates, removed_tensors
    from sparsediff.verify import VerifyResult, verify_patch

_HOMES = {
    "apply": ("ApplyResult", "apply_patch"),
    "errors": (
        "CorruptError",
        "LockedError",
        "SparsediffError",
        "UnavailableError",
        "UnsupportedError",
        "UsageError",
        "WrongBaseError",
    ),
    "export": ("ExportResult", "export_patch"),
    "make": ("MakeResult", "make_patch"),
    "manifest": ("Manifest",),
    "patch": ("Patch", "open_patch"),
    "series": ("SeriesStep", "series_stats"),
    "squash": ("squash_patches",),
    "stats": ("CheckpointStats", "Group", "TensorStats", "checkpoint_stats", "patch_stats"),
    "updates": ("Update", "iter_updates", "removed_tensors"),
    "verify": ("VerifyResult", "verify_patch"),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"sparsediff.{home}"), name)
    raise AttributeError(f"module 'sparsediff' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__


__all__ = [
    "ApplyResult",
    "CheckpointStats",
    "CorruptError",
    "ExportResult",
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
    "Update",
    "UsageError",
    "VerifyResult",
    "WrongBaseError",
    "__version__",
    "apply_patch",
    "checkpoint_stats",
    "export_patch",
    "iter_updates",
    "make_patch",
    "open_patch",
    "patch_stats",
    "removed_tensors",
    "series_stats",
    "squash_patches",
    "verify_patch",
]
