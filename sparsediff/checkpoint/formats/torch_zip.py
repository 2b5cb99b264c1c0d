"""torch.save and TorchScript archives, also several in a row as in ``.distcp`` files.

Enters: a file. Leaves: a span for each storage that is stored uncompressed,
named by its path in the pickle next to it. Everything else, the pickle
included, is skeleton; what of it is large is a span of bytes. The zip
directory must be right, or the file is malformed; the pickle need not be: what
it does not explain is called ``data/17`` and is made of bytes. Never imports
torch, never executes or decompresses anything.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sparsediff.checkpoint.formats import distcp, opaque, pickles, zips
from sparsediff.checkpoint.formats.span import MalformedError, Reference, Span
from sparsediff.checkpoint.formats.torch_tensors import Names, Stored, find_storages, plain_span
from sparsediff.checkpoint.formats.zips import Archive, Entry
from sparsediff.disk.inputs import Input

_SHORTEST = 64  # bytes; no archive and no pickle of a state dict is shorter
_MAX_ENTRIES = 1 << 19
_MAX_SPANS = 1 << 17  # what a manifest can list, and more
_MAX_REST = 1 << 27  # bytes of skeleton that a patch can hold
_STORAGES = ("data", "constants")  # each beside a pickle of that name


def looks_like(file: Input) -> bool:
    """Whether it opens with an entry of a zip archive."""
    return zips.first_name(file) is not None


def references(file: Input) -> list[Reference]:
    """None: such a file stands for itself.

    Raises:
        MalformedError: it is a zip archive that was cut off, or too short to be anything.
    """
    if file.size < _SHORTEST:
        raise MalformedError(
            "too short to hold anything (cut off?)", file=file.path, found=f"{file.size} bytes"
        )
    if file.read(0, 2) == b"PK":
        zips.find_archive(file, file.size)
    return []


def read_root(file: Input) -> Any:
    """What the pickle in an archive of torch describes, as inert data; None without one."""
    try:
        for entry in zips.read_entries(file, zips.find_archive(file, file.size)):
            if entry.name.endswith("/data.pkl") and entry.nbytes <= pickles.MAX_BYTES:
                return pickles.load(file.read(entry.offset, entry.nbytes))[0]
    except (MalformedError, pickles.PickleError):
        pass
    return None


def find_spans(file: Input) -> list[Span] | None:
    """Spans of ``file`` by offset; None if it is no archive of torch, or too large a one.

    Raises:
        MalformedError: the zip directory contradicts itself or the file.
    """
    try:
        archives = _find_archives(file)
        if archives is None:
            return None
        listed = [(archive, zips.read_entries(file, archive)) for archive in archives]
    except MalformedError:
        if (zips.first_name(file) or "").endswith("/data.pkl"):
            raise
        return None
    if not any(_directory(entries) for _, entries in listed):
        return None
    titles = distcp.names_by_offset(file) if len(archives) > 1 or distcp.claims(file) else {}
    names = Names()
    spans: list[Span] = []
    for i, (archive, entries) in enumerate(listed):
        untitled = f"{file.path.name}:{i}" if len(listed) > 1 else ""
        title = titles.get(archive.offset, untitled)
        spans += _archive_spans(file, entries, title, names)
    if len(spans) > _MAX_SPANS or file.size - sum(s.nbytes for s in spans) > _MAX_REST:
        return None
    return spans or opaque.find_spans(file)


def _find_archives(file: Input) -> list[Archive] | None:
    """All archives in ``file``, from its end back to its start; None if they hold too much."""
    archives: list[Archive] = []
    end, n_entries = file.size, 0
    while end > 0:
        archives.append(zips.find_archive(file, end))
        end = archives[-1].offset
        n_entries += archives[-1].n_entries
        if n_entries > _MAX_ENTRIES or len(archives) > _MAX_ENTRIES:
            return None
    return archives[::-1]


def _directory(entries: list[Entry]) -> str | None:
    """The directory that an archive of torch keeps everything in, None if it is of another kind."""
    for entry in entries:
        directory, _, name = entry.name.partition("/")
        if name == "data.pkl":
            return f"{directory}/"
    return None


def _archive_spans(file: Input, entries: list[Entry], title: str, names: Names) -> list[Span]:
    """Spans of one archive; their names begin with ``title``."""
    directory = _directory(entries) or ""
    by_name = {e.name.removeprefix(directory): e for e in entries}
    known: dict[str, Stored] = {}
    for kind in _STORAGES:
        for key, stored in _read_pickle(file, by_name.get(f"{kind}.pkl")).items():
            at = f"{kind}/{key}"
            # Constants of TorchScript are an unnamed tuple.
            known[at] = stored if kind == "data" else replace(stored, name=at)
    is_little = _byte_order(file, by_name.get("byteorder")) != b"big"
    # Named in the order of the pickle, so that numbers of equal names do not depend on offsets.
    named = {at: names.unique(_title(title, s.name) or at) for at, s in known.items()}
    spans = []
    for at, entry in by_name.items():
        is_storage = entry.is_stored and at.rpartition("/")[0] in _STORAGES
        if not is_storage and entry.nbytes <= opaque.MAX_SKELETON:
            continue
        name = named.get(at) or names.unique(_title(title, at))
        if is_storage and is_little and at in known:
            spans.append(known[at].span(name, entry.offset, entry.nbytes))
        else:
            spans.append(plain_span(name, entry.offset, entry.nbytes))
    return spans


def _title(title: str, name: str) -> str:
    return f"{title}.{name}" if title and name else title or name


def _read_pickle(file: Input, entry: Entry | None) -> dict[str, Stored]:
    """What a pickle says about storages; nothing if there is none that can be read."""
    if entry is None or not entry.is_stored or entry.nbytes > pickles.MAX_BYTES:
        return {}
    try:
        root, _ = pickles.load(file.read(entry.offset, entry.nbytes))
    except pickles.PickleError:
        return {}
    return find_storages(root)


def _byte_order(file: Input, entry: Entry | None) -> bytes:
    if entry is None or not entry.is_stored:
        return b""
    return file.read(entry.offset, min(entry.nbytes, 8)).strip()
