"""Two checkpoints to one patch, on one machine or in parts on several."""

from typing import TYPE_CHECKING

from sparsediff.lazy import names_of

if TYPE_CHECKING:
    from sparsediff.make.merge import merge_parts
    from sparsediff.make.shares import Share
    from sparsediff.make.write import MakeResult, make_patch
    from sparsediff.make.write_part import PartResult, make_part

_HOMES = {  # who makes no parts loads nothing of them
    "merge": ("merge_parts",),
    "shares": ("Share",),
    "write": ("MakeResult", "make_patch"),
    "write_part": ("PartResult", "make_part"),
}
__getattr__ = names_of(__name__, _HOMES)

__all__ = ["MakeResult", "PartResult", "Share", "make_part", "make_patch", "merge_parts"]
