"""Figures of what changed: of a pair, of a patch, of a series of checkpoints."""

from sparsediff.stats.history import (
    ExponentStats,
    SeriesGroup,
    SeriesStats,
    SeriesStep,
    SeriesTensor,
    StepSize,
)
from sparsediff.stats.pair import (
    CheckpointStats,
    Group,
    TensorStats,
    checkpoint_stats,
    patch_stats,
    stats_of_result,
)
from sparsediff.stats.series import SeriesReader, series_stats
from sparsediff.stats.spread import Spread, spread

__all__ = [
    "CheckpointStats",
    "ExponentStats",
    "Group",
    "SeriesGroup",
    "SeriesReader",
    "SeriesStats",
    "SeriesStep",
    "SeriesTensor",
    "Spread",
    "StepSize",
    "TensorStats",
    "checkpoint_stats",
    "patch_stats",
    "series_stats",
    "spread",
    "stats_of_result",
]
