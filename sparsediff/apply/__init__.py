"""Base and patches to the target, verified: written, checked, or made one patch again."""

from sparsediff.apply.squash import squash_patches
from sparsediff.apply.verify import VerifyResult, verify_patch
from sparsediff.apply.write import ApplyResult, apply_patch

__all__ = ["ApplyResult", "VerifyResult", "apply_patch", "squash_patches", "verify_patch"]
