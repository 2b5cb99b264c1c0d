"""Archives of files, tar (a ``.nemo``) or zip (a ``.keras``): the tensors of what is in them.

Enters: a file, and what finds spans in one. Leaves: the spans of its members, called as
in the member alone where no other member has one of this name, else
``member::tensor``. Members of no known format, and compressed ones, stay skeleton while
they are small together; else each that is worth it is a span of bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sparsediff.checkpoint.formats import opaque, tars, zips
from sparsediff.checkpoint.formats.span import Span
from sparsediff.checkpoint.formats.torch_tensors import Names, plain_span
from sparsediff.disk.inputs import Input, Window

_MIN_LOOKED_INTO = 1 << 14  # bytes; a look costs a dozen reads, whatever is found
_MIN_SPAN = 1 << 16  # bytes; a row in a manifest takes about 100
_MAX_SPANS = 1 << 16
_MAX_NAMES = 1 << 22  # characters, of all together: what a manifest can hold
_MAX_NAME = 1000


@dataclass(frozen=True, slots=True)
class _Member:
    name: str
    offset: int
    nbytes: int
    is_plain: bool


def find_spans(file: Input, look: Callable[[Input], list[Span]]) -> list[Span] | None:
    """Spans of ``file`` by offset; None if it is no archive of anything worth it, or of too much.

    Args:
        file: maybe an archive.
        look: finds the spans of a member.

    Raises:
        MalformedError: the archive contradicts itself.
    """
    members = _find_members(file)
    outer, first = (file.outer, file.start) if isinstance(file, Window) else (file, 0)
    places = {m.name: (first + m.offset, m.nbytes) for m in members if m.is_plain}
    found: list[tuple[str, Span]] = []
    rest: list[tuple[str, Span]] = []
    for member in members:
        spans = []
        if member.is_plain and member.nbytes >= _MIN_LOOKED_INTO:
            path, start = Path(member.name), first + member.offset
            spans = look(Window(path, member.nbytes, outer, start, places))
        found += ((member.name, s._replace(offset=member.offset + s.offset)) for s in spans)
        if not spans:
            rest.append((member.name, plain_span("", member.offset, member.nbytes)))
        if len(found) > _MAX_SPANS:
            return None
    if sum(span.nbytes for _, span in rest) > opaque.MAX_SKELETON:
        found += (r for r in rest if r[1].nbytes >= _MIN_SPAN)
        found.sort(key=lambda f: (f[1].offset, f[1].nbytes))
    if len(found) > _MAX_SPANS:
        return None
    spans = _named(found)
    return spans if spans and sum(len(s.name) for s in spans) <= _MAX_NAMES else None


def _find_members(file: Input) -> list[_Member]:
    """By offset; none if ``file`` is no archive, or one of too many members."""
    if tars.looks_like(file):
        listed = tars.find_members(file) or ()
        return [_Member(m.name, m.offset, m.nbytes, True) for m in listed]
    if zips.first_name(file) is None:
        return []
    archive = zips.find_archive(file, file.size)
    if archive.n_entries > tars.MAX_HEADERS:
        return []
    entries = zips.read_entries(file, archive)
    return [_Member(e.name, e.offset, e.nbytes, e.is_stored) for e in entries]


def _named(found: list[tuple[str, Span]]) -> list[Span]:
    """The spans with names that say which is which, whatever the members call theirs."""
    times = Counter(span.name for _, span in found)
    names = Names()
    spans = []
    for member, span in found:
        name = span.name
        if not name or times[name] > 1:
            name = f"{member}::{name}" if name else member
        spans.append(span._replace(name=names.unique(name[-_MAX_NAME:])))
    return spans
