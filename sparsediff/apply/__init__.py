"""Base and patches to the target, verified: written, checked, or made one patch again."""

from typing import TYPE_CHECKING

from sparsediff.lazy import names_of

if TYPE_CHECKING:
    from sparsediff.apply.squash import squash_patches
    from sparsediff.apply.verify import VerifyResult, verify_patch
    from sparsediff.apply.write import ApplyResult, apply_patch

_HOMES = {  # who applies loads nothing of squash, which makes patches
    "squash": ("squash_patches",),
    "verify": ("VerifyResult", "verify_patch"),
    "write": ("ApplyResult", "apply_patch"),
}
__getattr__ = names_of(__name__, _HOMES)

__all__ = ["ApplyResult", "VerifyResult", "apply_patch", "squash_patches", "verify_patch"]
