"""Figures of what changed: of a pair, of a patch, of a series of checkpoints."""

from typing import TYPE_CHECKING

from sparsediff.lazy import names_of

if TYPE_CHECKING:
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
    from sparsediff.stats.spread import Spread

_HOMES = {  # of a pair, a patch and a series: who wants one loads no other
    "history": (
        "ExponentStats",
        "SeriesGroup",
        "SeriesStats",
        "SeriesStep",
        "SeriesTensor",
        "StepSize",
    ),
    "pair": (
        "CheckpointStats",
        "Group",
        "TensorStats",
        "checkpoint_stats",
        "patch_stats",
        "stats_of_result",
    ),
    "series": ("SeriesReader", "series_stats"),
    "spread": ("Spread",),
}
__getattr__ = names_of(__name__, _HOMES)

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
    "stats_of_result",
]
