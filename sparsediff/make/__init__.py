"""Two checkpoints to one patch, on one machine or in parts on several."""

from sparsediff.make.merge import merge_parts
from sparsediff.make.shares import Share
from sparsediff.make.write import MakeResult, PartResult, make_part, make_patch

__all__ = ["MakeResult", "PartResult", "Share", "make_part", "make_patch", "merge_parts"]
