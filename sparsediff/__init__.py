"""sparsediff: small exact patches between model checkpoints.

The library behind the command line. Functions take paths, return dataclasses,
raise `SparsediffError` and print nothing. Names are imported when first used,
so that the command line answers ``--help`` without loading NumPy.
"""

from __future__ import annotations

from sparsediff.lazy import names_of
from sparsediff.version import __version__

TYPE_CHECKING = False  # `typing` takes longer to import than all of this
if TYPE_CHECKING:
    from sparsediff.apply import (
        ApplyResult,
        VerifyResult,
        apply_patch,
        squash_patches,
        verify_patch,
    )
    from sparsediff.errors import (
        CorruptError,
        LockedError,
        SparsediffError,
        UnavailableError,
        UnsupportedError,
        UsageError,
        WrongBaseError,
    )
    from sparsediff.make import (
        MakeResult,
        PartResult,
        Share,
        make_part,
        make_patch,
        merge_parts,
    )
    from sparsediff.patch.container import Patch, open_patch
    from sparsediff.patch.manifest import Manifest
    from sparsediff.shipping.bring import PullResult
    from sparsediff.shipping.catalog import Version
    from sparsediff.shipping.follow import Arrival, Follower, versions
    from sparsediff.shipping.policy import Policy
    from sparsediff.shipping.pull import pull
    from sparsediff.shipping.ship import ShipResult, ship
    from sparsediff.stats import (
        CheckpointStats,
        Group,
        SeriesStats,
        SeriesStep,
        TensorStats,
        checkpoint_stats,
        patch_stats,
        series_stats,
    )
    from sparsediff.stores import Store, open_store
    from sparsediff.updates import (
        ExportResult,
        Update,
        export_patch,
        iter_updates,
        removed_tensors,
    )

_HOMES = {
    "apply": ("ApplyResult", "VerifyResult", "apply_patch", "squash_patches", "verify_patch"),
    "errors": (
        "CorruptError",
        "LockedError",
        "SparsediffError",
        "UnavailableError",
        "UnsupportedError",
        "UsageError",
        "WrongBaseError",
    ),
    "make": ("MakeResult", "PartResult", "Share", "make_part", "make_patch", "merge_parts"),
    "patch.container": ("Patch", "open_patch"),
    "patch.manifest": ("Manifest",),
    "shipping.catalog": ("Version",),
    "shipping.follow": ("Arrival", "Follower", "versions"),
    "shipping.policy": ("Policy",),
    "shipping.bring": ("PullResult",),
    "shipping.pull": ("pull",),
    "shipping.ship": ("ShipResult", "ship"),
    "stats": (
        "CheckpointStats",
        "Group",
        "SeriesStats",
        "SeriesStep",
        "TensorStats",
        "checkpoint_stats",
        "patch_stats",
        "series_stats",
    ),
    "stores": ("Store", "open_store"),
    "updates": (
        "ExportResult",
        "Update",
        "export_patch",
        "iter_updates",
        "removed_tensors",
    ),
}


__getattr__ = names_of(__name__, _HOMES)


def __dir__() -> list[str]:
    return __all__


__all__ = [
    "ApplyResult",
    "Arrival",
    "CheckpointStats",
    "CorruptError",
    "ExportResult",
    "Follower",
    "Group",
    "LockedError",
    "MakeResult",
    "Manifest",
    "PartResult",
    "Patch",
    "Policy",
    "PullResult",
    "SeriesStats",
    "SeriesStep",
    "Share",
    "ShipResult",
    "SparsediffError",
    "Store",
    "TensorStats",
    "UnavailableError",
    "UnsupportedError",
    "Update",
    "UsageError",
    "VerifyResult",
    "Version",
    "WrongBaseError",
    "__version__",
    "apply_patch",
    "checkpoint_stats",
    "export_patch",
    "iter_updates",
    "make_part",
    "make_patch",
    "merge_parts",
    "open_patch",
    "open_store",
    "patch_stats",
    "pull",
    "removed_tensors",
    "series_stats",
    "ship",
    "squash_patches",
    "verify_patch",
    "versions",
]
