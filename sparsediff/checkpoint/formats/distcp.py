"""Distributed checkpoints of torch: which tensor begins where in a ``.distcp`` file.

Enters: such a file, with ``.metadata`` beside it; or that. Leaves: names by offset; or
the parts it names and how long each is at least. A part is archives of torch in a row,
one for each tensor or part of one, and says nothing of names. ``.metadata`` is a pickle
and is read as inert data; if it is missing, changing or strange, there are no names.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, TypeGuard

from sparsediff.checkpoint.formats import pickles
from sparsediff.checkpoint.formats.pickles import Call, Dict
from sparsediff.checkpoint.formats.span import MalformedError, Reference
from sparsediff.disk.inputs import Input
from sparsediff.errors import SparsediffError

NAMES = r"(?:__\d+)?\.metadata"
"""What the files are called that name the parts: one for all ranks, or one of each."""


def claims(file: Input) -> bool:
    """Whether ``file`` is called like a part of a distributed checkpoint."""
    return file.path.name.endswith(".distcp")


def names_by_offset(file: Input) -> dict[int, str]:
    """Names of what begins at which byte of ``file``; empty if nothing says so."""
    try:
        beside = file.beside(".metadata")
        if not claims(file) or beside.size > pickles.MAX_BYTES:
            return {}
        return _read(beside).get(file.path.name, {})
    except SparsediffError:
        return {}


def references(file: Input) -> list[Reference]:
    """The parts that a ``.metadata`` names; none if it is too large to be looked at.

    Raises:
        MalformedError: it is no whole pickle, or none of a distributed checkpoint.
    """
    if file.size > pickles.MAX_BYTES:
        return []
    try:
        root, _ = pickles.load(file.read(0, file.size))
    except pickles.TooLargeError:
        return []
    except pickles.PickleError as e:
        raise MalformedError(
            f"malformed metadata of a distributed checkpoint: {e}", file=file.path
        ) from None
    table = _attributes(root).get("storage_data")
    ends: dict[str, int] = {}
    for _, info in table.pairs if isinstance(table, Dict) else ():
        place = _attributes(info)
        path, offset, length = (place.get(k) for k in ("relative_path", "offset", "length"))
        if _is_name(path):
            end = offset + length if type(offset) is int and type(length) is int else 0
            ends[path] = max(ends.get(path, 0), end)
    return [Reference(path, end) for path, end in sorted(ends.items())]


@lru_cache(maxsize=1)  # read once for all parts of a checkpoint; the key knows its identity
def _read(metadata: Input) -> dict[str, dict[int, str]]:
    """Names by offset, by file name."""
    try:
        root, _ = pickles.load(metadata.read(0, metadata.size))
    except pickles.PickleError:
        return {}
    found: dict[str, dict[int, str]] = {}
    table = _attributes(root).get("storage_data")
    for index, info in table.pairs if isinstance(table, Dict) else ():
        tensor, place = _attributes(index), _attributes(info)
        name, path, offset = tensor.get("fqn"), place.get("relative_path"), place.get("offset")
        if _is_name(name) and _is_name(path) and type(offset) is int and 0 <= offset < 1 << 60:
            found.setdefault(path, {})[offset] = name + _place(tensor.get("offset"))
    return found


def _is_name(value: Any) -> TypeGuard[str]:
    return isinstance(value, str) and 0 < len(value) < 1000


def _attributes(node: Any) -> dict[str, Any]:
    """The first few attributes of an object; more of them are shared to cost time."""
    found: dict[str, Any] = {}
    for state in node.state[:2] if isinstance(node, Call) else ():
        for part in state[:2] if isinstance(state, tuple) else (state,):
            for key, value in part.pairs[:16] if isinstance(part, Dict) else ():
                if isinstance(key, str):
                    found[key] = value
    return found


def _place(offset: Any) -> str:
    """Where in the whole tensor a part begins, empty at its first element."""
    if isinstance(offset, Call) and isinstance(offset.arguments, tuple) and offset.arguments:
        offset = offset.arguments[0]  # of torch.Size
    if not isinstance(offset, tuple) or not 0 < len(offset) < 64:
        return ""
    if not all(type(n) is int and 0 <= n < 1 << 60 for n in offset) or not any(offset):
        return ""
    return str(list(offset)).replace(" ", "")
