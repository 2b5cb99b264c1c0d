"""A checkpoint, on disk or in memory, as files, and each file as tensor spans and a skeleton."""

from sparsediff.checkpoint.open import Checkpoint, CheckpointFile, open_checkpoint

__all__ = ["Checkpoint", "CheckpointFile", "open_checkpoint"]
