"""What torch.save wrote before it wrote zip archives, and still does if asked.

Enters: a file: five pickles (magic number, version, system, object, keys of the
storages), then each storage in the order of the keys, as 8 bytes of length in
elements and its data. Leaves: a span for each storage, named by its path in
the object. Such a file says nowhere how long it is or where a storage begins,
so all of it must add up, to the last byte; a file that does not is bytes.
Never imports torch, never executes anything.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from sparsediff.checkpoint.formats import opaque, pickles
from sparsediff.checkpoint.formats.pickles import Dict
from sparsediff.checkpoint.formats.span import MalformedError, Reference, Span
from sparsediff.checkpoint.formats.torch_tensors import Names, find_storages
from sparsediff.disk.inputs import Input, OpenFiles

_MAGIC = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
_MAX_SPANS = 1 << 17
_FIRST_LOOK = 1 << 16  # bytes; most pickles are shorter


def looks_like(file: Input) -> bool:
    """Whether it opens with a pickle of the magic number."""
    return _MAGIC in file.read(0, min(file.size, 32))


def references(file: Input) -> list[Reference]:
    """None: such a file stands for itself.

    Raises:
        MalformedError: it was cut off.
    """
    if looks_like(file):
        find_spans(file)
    return []


def find_spans(file: Input) -> list[Span] | None:
    """Spans of ``file`` by offset; None if its parts do not add up to it.

    Raises:
        MalformedError: it ends before all of them.
    """
    spans = _find_spans(file)
    return None if spans is None else list(spans)


@lru_cache(maxsize=1)  # for who asks what it refers to first; the key knows its identity
def _find_spans(file: Input) -> tuple[Span, ...] | None:
    """See `find_spans`."""
    at = 0
    parts: list[Any] = []
    try:
        for _ in range(5):
            root, length = _load(file, at)
            parts.append(root)
            at += length
    except pickles.TooLargeError:
        return None
    except pickles.PickleError as e:
        raise _cut(file, at, str(e)) from None
    _, _, system, root, keys = parts
    if not isinstance(system, Dict) or ("little_endian", False) in system.pairs:
        return None
    if not isinstance(keys, list) or len(keys) > _MAX_SPANS:
        return None
    stored = find_storages(root)
    if not all(isinstance(key, str) and key in stored for key in keys):
        return None
    if len(set(keys)) != len(keys):
        return None
    names = Names()
    named = {key: names.unique(s.name or f"data/{key}") for key, s in stored.items()}
    spans = []
    with OpenFiles() as files:
        for key in keys:
            if at + 8 > file.size:
                raise _cut(file, at, "no storage")
            size = bytearray(8)
            files.read(file, at, size)
            n_bytes = int.from_bytes(size, "little") * (stored[key].unit or file.size)
            at += 8
            if n_bytes > file.size - at:
                if stored[key].unit is None:
                    return None
                raise _cut(file, at, f"storage of {n_bytes} bytes")
            spans.append(stored[key].span(named[key], at, n_bytes))
            at += n_bytes
    if at != file.size:
        return None
    return tuple(spans or opaque.find_spans(file))


def _cut(file: Input, at: int, what: str) -> MalformedError:
    return MalformedError(
        "file of torch ends before its last storage (cut off?)",
        file=file.path,
        offset=at,
        found=what,
    )


def _load(file: Input, at: int) -> tuple[Any, int]:
    """The pickle at ``at`` and its length, which only its end tells."""
    left = min(file.size - at, pickles.MAX_BYTES)
    try:
        return pickles.load(file.read(at, min(left, _FIRST_LOOK)))
    except pickles.PickleError:
        return pickles.load(file.read(at, left))
