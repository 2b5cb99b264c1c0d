"""Figures of what changed: of a pair, of a patch, of a series of checkpoints."""

from sparsediff.stats.pair import (
    CheckpointStats,
    Group,
    TensorStats,
    checkpoint_stats,
    patch_stats,
    stats_of_result,
)
from sparsediff.stats.series import SeriesStep, series_stats

__all__ = [
    "CheckpointStats",
    "Group",
    "SeriesStep",
    "TensorStats",
    "checkpoint_stats",
    "patch_stats",
    "series_stats",
    "stats_of_result",
]
