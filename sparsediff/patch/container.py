"""The container: a patch is a safetensors file holding a manifest and payloads.

Enters: a manifest and payloads, or a patch to read front to back. Leaves: the
patch's bytes, or payloads that match their digests (format.md, "Container").
The header is canonical, so every byte of a patch is checked by something:
header by reconstruction, manifest by XXH3-128, payloads
by the SHA-256 that the manifest holds.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from sparsediff.checksum import Verified, checksum, digest
from sparsediff.codec.zstd import compress, decompress, stated_size
from sparsediff.disk.inputs import InputFile, InputStream, OpenFiles
from sparsediff.errors import CorruptError, UnsupportedError, UsageError, os_errors
from sparsediff.patch import manifest_json
from sparsediff.patch.manifest import MAX_BUCKET_BYTES, MAX_SKELETON_BYTES, Manifest
from sparsediff.version import FORMAT_VERSION

FORMAT = "sparsediff"
SUFFIX = ".sdiff"
MAX_HEADER = 1 << 24  # bytes
MAX_MANIFEST = 1 << 25  # bytes, decompressed
_SLACK = 1 << 20  # a payload may exceed what it decodes to by no more than this


def pack(manifest: Manifest, sizes: dict[str, int]) -> bytes:
    """Header and manifest of a patch: everything before its payloads.

    Args:
        manifest: complete, digests included.
        sizes: bytes of each payload, by name.

    Raises:
        UnsupportedError: they would pass the limits of the format.
    """
    text = manifest_json.dump(manifest)
    frame = compress(text, level=19)
    entries = {"manifest": len(frame)} | {name: sizes[name] for name in manifest.payload_names()}
    header = _header(checksum(frame), entries)
    if len(text) > MAX_MANIFEST or len(header) - 8 > MAX_HEADER:
        raise UnsupportedError(
            "checkpoint has too many files or tensors for one patch",
            expected=f"a manifest of at most {MAX_MANIFEST} bytes",
            found=f"{len(text)} bytes",
        )
    return header + frame


def _header(manifest_checksum: str, sizes: dict[str, int]) -> bytes:
    header: dict[str, object] = {
        "__metadata__": {
            "format": FORMAT,
            "manifest_xxh3": manifest_checksum,
            "version": str(FORMAT_VERSION),
        }
    }
    end = 0
    for name, size in sizes.items():
        header[name] = {"dtype": "U8", "shape": [size], "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header, separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


PatchSource = Path | str | BinaryIO
"""Where a patch is read from: a path, ``-`` for standard input, or a binary stream."""


@dataclass(frozen=True, slots=True)
class StoredPayload:
    """A payload as it was read: its bytes are to be had from `verified` only.

    Attributes:
        patch: name of the patch, for messages.
        name: of the payload.
    """

    patch: str
    name: str
    _data: bytes = field(repr=False)
    _digest: str | None

    def verified(self) -> Verified:
        """The payload's bytes.

        Raises:
            CorruptError: they do not have the SHA-256 that the manifest says.
        """
        if digest(self._data) != self._digest:
            raise CorruptError(f"{self.name} does not match its SHA-256", file=self.patch)
        return Verified(self._data)


class Patch:
    """An open patch: its manifest, and its payloads front to back.

    Attributes:
        name: where it comes from, for messages.
        manifest: the validated manifest.
        n_bytes: size of the whole patch.
        sizes: bytes of each stored payload, by name.
    """

    def __init__(self, stream: BinaryIO | InputStream, name: str) -> None:
        """Read and check header and manifest.

        Raises:
            CorruptError: this is no patch, or a damaged one.
            UnsupportedError: its format version is unknown.
        """
        self.name = name
        self._stream = stream
        try:
            length = int.from_bytes(self._read(8), "little")
            if length > MAX_HEADER:
                raise CorruptError("not a sparsediff patch", found=f"header of {length} bytes")
            raw = self._read(length)
            manifest_checksum, sizes = _parse_header(raw)
            self.n_bytes = 8 + length + sum(sizes.values())
            self._check_size()
            if sizes["manifest"] > MAX_MANIFEST:
                raise CorruptError("manifest is too large", found=f"{sizes['manifest']} bytes")
            frame = self._read(sizes.pop("manifest"))
            if checksum(frame) != manifest_checksum:
                raise CorruptError(
                    "manifest does not match its checksum", expected=manifest_checksum
                )
            self.manifest = manifest_json.parse(_decompress_manifest(frame))
            self.sizes = sizes
            if list(sizes) != self.manifest.payload_names():
                raise CorruptError("payloads are not those the manifest lists")
        except (CorruptError, UnsupportedError) as e:
            e.file = name
            raise

    def payloads(self) -> Iterator[tuple[str, Verified]]:
        """Name and bytes of each payload, in stored order, each checked by its SHA-256.

        May be consumed once.

        Raises:
            CorruptError: a payload is damaged, cut short, or followed by more.
        """
        for payload in self.stored():
            yield payload.name, payload.verified()

    def stored(self) -> Iterator[StoredPayload]:
        """Each payload in stored order, as it was read: not verified yet.

        May be consumed once.

        Raises:
            CorruptError: the patch is cut short, or followed by more.
        """
        for name, size in self.sizes.items():
            limit = MAX_BUCKET_BYTES if name.startswith("bucket.") else MAX_SKELETON_BYTES
            if size > limit + _SLACK:
                raise CorruptError(f"{name} is too large", file=self.name, found=f"{size} bytes")
            yield StoredPayload(self.name, name, self._read(size), self._digest_of(name))
        if self._stream.read(1):
            raise CorruptError(
                "bytes after the end of the patch", file=self.name, offset=self.n_bytes
            )

    def check_payloads(self) -> None:
        """Check all payloads now, if the patch can be read twice, and go back to the first.

        Raises:
            CorruptError: as `payloads` does.
        """
        if self._stream.seekable():
            with os_errors(self.name):
                here = self._stream.tell()
                for _ in self.payloads():
                    pass
                self._stream.seek(here)

    def _digest_of(self, name: str) -> str | None:
        kind, index = name.split(".")
        if kind == "bucket":
            return self.manifest.buckets[int(index)].digest
        return self.manifest.target_files[int(index)].skeleton_digest

    def _read(self, size: int) -> bytes:
        with os_errors(self.name):
            data = self._stream.read(size) or b""
        if len(data) != size:
            raise CorruptError(
                "patch is cut short",
                file=self.name,
                expected=f"{size} more bytes",
                found=f"{len(data)} bytes",
            )
        return data

    def _check_size(self) -> None:
        if not self._stream.seekable():
            return
        with os_errors(self.name):
            here = self._stream.tell()
            size = self._stream.seek(0, 2)
            self._stream.seek(here)
        if size != self.n_bytes:
            what = (
                "patch is cut short" if size < self.n_bytes else "bytes after the end of the patch"
            )
            raise CorruptError(what, expected=f"{self.n_bytes} bytes", found=f"{size} bytes")


@contextmanager
def open_patch(source: PatchSource, files: OpenFiles | None = None) -> Iterator[Patch]:
    """Open a patch for reading.

    Args:
        source: path, or ``-`` for standard input, or a binary stream.
        files: holds the descriptors of many patches that are read by turns, as far as
            there are enough; default: one for this patch alone.

    Raises:
        UsageError: there is no such file.
        CorruptError: it is not an intact patch.
        UnsupportedError: its format version is unknown.
    """
    if not isinstance(source, (str, Path)):
        yield Patch(source, "<stream>")
        return
    if str(source) == "-":
        if sys.stdin is None:
            raise UsageError("standard input is closed")
        yield Patch(sys.stdin.buffer, "<stdin>")
        return
    with ExitStack() as stack:
        with os_errors(source):
            if Path(source).is_dir():
                raise UsageError("is a directory, not a patch", file=source)
            if not Path(source).is_file():  # a pipe, which is read once; or nothing
                stream: BinaryIO | InputStream = stack.enter_context(open(source, "rb"))
            else:
                files = files or stack.enter_context(OpenFiles())
                stream = InputStream(InputFile.of(Path(source)), files)
        yield Patch(stream, str(source))


def paths(sources: Sequence[PatchSource]) -> list[Path | str]:
    """Those of the sources that are files."""
    return [s for s in sources if isinstance(s, (str, Path)) and str(s) != "-"]


def is_patch(path: Path | str) -> bool:
    """Whether the file at ``path`` says it is a patch; for hints in messages."""
    try:
        if not Path(path).is_file():
            return False
        with open(path, "rb") as f:
            start = f.read(80)
    except OSError:
        return False
    return start[8:].startswith(b'{"__metadata__":{"format":"' + FORMAT.encode() + b'"')


def _parse_header(raw: bytes) -> tuple[str, dict[str, int]]:
    """Checksum of the manifest and size of each entry, of a canonical header."""
    try:
        header = json.loads(raw)
        metadata = header["__metadata__"]
        if metadata["format"] != FORMAT:
            raise CorruptError("not a sparsediff patch")
        version = metadata["version"]
        if version != str(FORMAT_VERSION):
            raise UnsupportedError(
                "unknown patch format version", expected=FORMAT_VERSION, found=version
            )
        manifest_checksum = metadata["manifest_xxh3"]
        sizes: dict[str, int] = {}
        for name, entry in header.items():
            if name != "__metadata__":
                (sizes[name],) = entry["shape"]
        if next(iter(sizes)) != "manifest" or not all(
            type(s) is int and 0 <= s < 1 << 53 for s in sizes.values()
        ):
            raise CorruptError("header of the patch has the wrong entries")
        canonical = _header(manifest_checksum, sizes)[8:]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, StopIteration):
        raise CorruptError("not a sparsediff patch") from None
    if raw != canonical:
        raise CorruptError("header of the patch is not canonical")
    return manifest_checksum, sizes


def _decompress_manifest(frame: bytes) -> bytes:
    size = stated_size(frame)
    if size > MAX_MANIFEST:
        raise CorruptError("manifest is too large", found=f"{size} bytes")
    return decompress(frame, size)
