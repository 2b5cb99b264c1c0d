"""What a patch changes, as positions and words, for whoever holds the tensors."""

from sparsediff.updates.export import ExportResult, export_patch
from sparsediff.updates.iterate import Update, iter_updates, removed_tensors

__all__ = ["ExportResult", "Update", "export_patch", "iter_updates", "removed_tensors"]
