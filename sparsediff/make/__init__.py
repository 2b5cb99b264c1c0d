"""Two checkpoints to one patch, on one machine or in parts on several."""

from typing import TYPE_CHECKING

from sparsediff.lazy import names_of

if TYPE_CHECKING:
    from sparsediff.make.merge import merge_parts
    from sparsediff.make.shares import Share
    from sparsediff.make.write import MakeResult, PartResult, make_part, make_patch

_HOMES = {  # who makes no parts loads nothing of them
    "merge": ("merge_parts",),
    "shares": ("Share",),
    "write": ("MakeResult", "PartResult", "make_part", "make_patch"),
}
__getattr__ = names_of(__name__, _HOMES)

__all__ = ["MakeResult", "PartResult", "Share", "make_part", "make_patch", "merge_parts"]
