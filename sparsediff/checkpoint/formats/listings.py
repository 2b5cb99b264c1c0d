"""JSON files that name other files: which files and folders belong to them.

Enters: such a file: an index of shards, a pipeline of diffusers, a model of
sentence-transformers, what Megatron and orbax write beside their arrays; or any other
JSON. Leaves: what it names. A file that ends inside its document was cut off; other
mistakes are left to whoever reads it, but for an index, which must be right.
"""

from __future__ import annotations

import json
import re
from typing import Any

from sparsediff.checkpoint.formats.span import MalformedError, Reference
from sparsediff.disk.inputs import InputFile

NAMES = r".*\.json|_METADATA|_CHECKPOINT_METADATA"
INDEX = ".index.json"
_MAX_INDEX = 100_000_000  # bytes
_MAX_OTHER = 1 << 24
_NO_WEIGHTS = re.compile(r".*(?:Tokenizer|TokenizerFast|Scheduler|Processor|Extractor)")


def references(file: InputFile) -> list[Reference]:
    """Files and folders that ``file`` names.

    Raises:
        MalformedError: it was cut off, or is an index of shards that cannot be read.
    """
    if file.path.name.endswith(INDEX):
        return [Reference(shard) for shard in _shards(file)]
    document = _read(file)
    if not isinstance(document, dict | list):
        return []
    try:
        return _KINDS.get(file.path.name, lambda _: [])(document)
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError):
        return []  # called like one, and something else


def _read(file: InputFile) -> Any:
    """The document; None if it is too large or is no proper JSON, but goes to its end."""
    if file.size > _MAX_OTHER:
        return None
    text = file.read(0, file.size).decode("utf-8", "replace").rstrip()
    try:
        return json.loads(text)
    except json.JSONDecodeError as e:
        is_cut = e.pos >= len(text) - 1 or e.msg.startswith("Unterminated string")
        if not is_cut and text.strip("\0"):
            return None
        raise MalformedError(
            "JSON document has no end (cut off?)",
            file=file.path,
            offset=e.pos,
            found=f"{file.size} bytes",
        ) from None
    except (ValueError, RecursionError):
        return None


def _shards(file: InputFile) -> list[str]:
    """Names of the files that an index of shards names, sorted."""
    if file.size > _MAX_INDEX:
        raise MalformedError(
            "index of shards is too large", file=file.path, found=f"{file.size} bytes"
        )
    try:
        shards = {*json.loads(file.read(0, file.size))["weight_map"].values()}
        if not all(isinstance(shard, str) for shard in shards):
            raise TypeError
        return sorted(shards)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise MalformedError("malformed index of shards", file=file.path) from None


def _pipeline(document: Any) -> list[Reference]:
    """``"unet": ["diffusers", "UNet2DModel"]``: a folder of that name; of weights, mostly."""
    found = []
    for name, value in document.items():
        if isinstance(value, list) and len(value) == 2 and all(isinstance(v, str) for v in value):
            found.append(Reference(f"{name}/", weights=not _NO_WEIGHTS.fullmatch(value[1])))
    return found


def _modules(document: Any) -> list[Reference]:
    """``{"path": "1_Pooling", "type": ...}``: a folder, but for the first, which lies beside."""
    return [
        Reference(f"{m['path']}/", weights=m["type"].endswith((".Dense", ".Transformer")))
        for m in document
        if m["path"]
    ]


def _megatron(document: Any) -> list[Reference]:
    found = {"torch_dist": ".metadata", "torch": "common.pt"}
    kinds = (document[key] for key in ("sharded_backend", "common_backend"))
    return [Reference(found[kind]) for kind in kinds if kind in found]


def _items(document: Any) -> list[Reference]:
    """Folders of the items in a step of orbax; a step that is one item has no folder."""
    handlers = document["item_handlers"]
    if not isinstance(handlers, dict):
        return [Reference("_METADATA")] if handlers and "Array" not in str(handlers) else []
    return [Reference(f"{name}/") for name in handlers]


def _arrays(document: Any) -> list[Reference]:
    return [Reference("manifest.ocdbt")] if document["use_ocdbt"] is True else []


_KINDS = {
    "model_index.json": _pipeline,
    "modules.json": _modules,
    "metadata.json": _megatron,
    "_CHECKPOINT_METADATA": _items,
    "_METADATA": _arrays,
}
