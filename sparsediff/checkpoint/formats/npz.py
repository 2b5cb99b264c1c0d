"""npz: a zip archive of npy files.

Enters: a file. Leaves: a span for each array that is stored as it is, named by
its entry without ``.npy``. What is no such array (deflated ones foremost) stays
skeleton while that is small; else each is a span of bytes, which costs nothing
where the entry did not change.
"""

from __future__ import annotations

from sparsediff.checkpoint.formats import npy, opaque, zips
from sparsediff.checkpoint.formats.span import Reference, Span
from sparsediff.disk.inputs import Input
from sparsediff.dtypes import DTYPES

MAX_ENTRIES = 100_000


def looks_like(file: Input) -> bool:
    """Whether the first entry is named like an array."""
    return (zips.first_name(file) or "").endswith(".npy")


def references(file: Input) -> list[Reference]:
    """None: such a file stands for itself.

    Raises:
        MalformedError: it is no zip archive, or one that was cut off.
    """
    zips.find_archive(file, file.size)
    return []


def find_spans(file: Input) -> list[Span] | None:
    """Spans by offset; None if the file is no zip archive or too large a one.

    Raises:
        MalformedError: the archive or an array in it contradicts itself.
    """
    if zips.first_name(file) is None:
        return None
    archive = zips.find_archive(file, file.size)
    if archive.n_entries > MAX_ENTRIES:
        return None
    entries = zips.read_entries(file, archive)
    names = {e.name for e in entries}
    spans, rest = [], []
    for entry in entries:
        name = entry.name.removesuffix(".npy")
        span = None
        if entry.is_stored and name != entry.name:
            if not name or name in names:  # no name, or that of another entry
                name = entry.name
            span = npy.find_array(file, name, entry.offset, entry.offset + entry.nbytes)
        if span is not None:
            spans.append(span)
        else:
            rest.append(Span(entry.name, DTYPES["U8"], (entry.nbytes,), entry.offset, entry.nbytes))
    if sum(s.nbytes for s in rest) > opaque.MAX_SKELETON:
        spans = sorted(spans + rest, key=lambda s: (s.offset, s.nbytes))
    return spans
