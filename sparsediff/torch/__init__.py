"""Live models: patches applied to tensors where they are, and made from tensors.

The only part of the package that imports PyTorch, and only when it is imported itself;
`PatchWriterCallback` imports transformers when it is first asked for, `publish` what
torch.distributed needs.
"""

from typing import TYPE_CHECKING

from sparsediff.lazy import names_of
from sparsediff.torch.emit import PatchWriter, Snapshot, cast, make_patch, snapshot
from sparsediff.torch.iterate import TensorUpdate, iter_updates
from sparsediff.torch.live import LiveResult, apply_to_module, apply_to_state_dict
from sparsediff.torch.tensors import in_memory

if TYPE_CHECKING:
    from sparsediff.torch.publisher import Published, Publisher, publish, ship_stream
    from sparsediff.torch.trainer import PatchWriterCallback

_HOMES = {  # of what takes seconds to import: torch.distributed.tensor, transformers
    "publisher": ("Published", "Publisher", "publish", "ship_stream"),
    "trainer": ("PatchWriterCallback",),
}
__getattr__ = names_of(__name__, _HOMES)

__all__ = [
    "LiveResult",
    "PatchWriter",
    "PatchWriterCallback",
    "Published",
    "Publisher",
    "Snapshot",
    "TensorUpdate",
    "apply_to_module",
    "apply_to_state_dict",
    "cast",
    "in_memory",
    "iter_updates",
    "make_patch",
    "publish",
    "ship_stream",
    "snapshot",
]
