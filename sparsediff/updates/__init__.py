"""What a patch changes, as positions and words, for whoever holds the tensors."""

from sparsediff.updates.export import ExportResult, export_patch
from sparsediff.updates.iterate import Update, iter_updates, removed_tensors
from sparsediff.updates.slime import export_slime

__all__ = [
    "ExportResult",
    "Update",
    "export_patch",
    "export_slime",
    "iter_updates",
    "removed_tensors",
]
