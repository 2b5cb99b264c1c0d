"""Two checkpoints to one patch."""

from sparsediff.make.write import MakeResult, make_patch

__all__ = ["MakeResult", "make_patch"]
