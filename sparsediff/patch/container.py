"""The container: a patch is a safetensors file holding a manifest and payloads.

Enters: a manifest and payloads, or a patch to read front to back. Leaves: the
patch's bytes, or payloads that match their digests (format.md, "Container").
The header is canonical, so every byte of a patch is checked by something:
header by reconstruction, manifest by XXH3-128, payloads
by the SHA-256 that the manifest holds.
"""

from __future__ import annotations

import hashlib  # noqa: F401 - for `digest`, and now, when nothing is begun
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from sparsediff.checksum import Verified, checksum, digest
from sparsediff.codec.zstd import compress_columns, decompress, stated_size
from sparsediff.disk.inputs import InputFile, InputStream, OpenFiles
from sparsediff.errors import CorruptError, UnsupportedError, UsageError, os_errors
from sparsediff.patch import manifest_json
from sparsediff.patch.entries import MAX_HEADER, EntryReader, compose_header
from sparsediff.patch.manifest import MAX_BUCKET_BYTES, MAX_SKELETON_BYTES, Manifest
from sparsediff.patch.narrow import narrowed
from sparsediff.patch.signed import Signed, beside, check_signatures_may_go, write_signatures
from sparsediff.version import FORMAT_VERSION

if TYPE_CHECKING:
    from sparsediff.signing import Signer

FORMAT = "sparsediff"
PART_FORMAT = "sparsediff-part"  # of `make.part`, which is no patch yet
SUFFIX = ".sdiff"
MAX_MANIFEST = 1 << 25  # bytes, decompressed
_MIN_ROW = 27  # characters of a tensor besides its name
_DIGEST = 62  # characters by which a digest is longer than null
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
    frame = compress_columns(text)
    entries = {"manifest": len(frame)} | {name: sizes[name] for name in manifest.payload_names()}
    header = compose_header(_metadata(checksum(frame)), entries)
    if len(text) > MAX_MANIFEST or len(header) - 8 > MAX_HEADER:
        raise too_many(len(text))
    try:
        manifest_json.find_columns(text, len(frame))
    except CorruptError as e:
        raise UnsupportedError(
            "checkpoint has too many files, tensors or sizes of shapes for a patch this small",
            expected=e.expected,
            found=e.found,
        ) from e
    return header + frame


def check_fits(plan: Manifest) -> None:
    """Refuse a plan whose manifest must become too large, before any words are read.

    Raises:
        UnsupportedError: it must. One that is only just too large `pack` finds in the end.
    """
    names = sum(map(len, plan.tensors.names))
    if names + _MIN_ROW * len(plan.tensors) <= MAX_MANIFEST // 2:
        return  # far from it: most plans need not be written down for this
    # Zeros only become longer numbers; of each file a digest may turn out not to be needed.
    least = len(manifest_json.dump(plan)) - _DIGEST * len(plan.target_files)
    if least > MAX_MANIFEST:
        raise too_many(least)


def too_many(n_bytes: int) -> UnsupportedError:
    """What is said of a manifest that is too large, of so many bytes."""
    return UnsupportedError(
        "checkpoint has too many files or tensors for one patch (`include` chooses files for a "
        "smaller one)",
        expected=f"a manifest of at most {MAX_MANIFEST} bytes",
        found=f"{n_bytes} bytes",
    )


def _metadata(manifest_checksum: str) -> dict[str, str]:
    return {
        "format": FORMAT,
        "manifest_xxh3": manifest_checksum,
        "version": str(FORMAT_VERSION),
    }


PatchSource = Path | str | BinaryIO | Signed
"""Where a patch is read from: a path, ``-`` for standard input, or a binary stream; or a path,
and who must have signed it."""


class StoredPayload:
    """A payload as it was read: its bytes are to be had from `verified` only.

    Attributes:
        patch: name of the patch, for messages.
        name: of the payload.
    """

    def __init__(self, patch: str, name: str, data: bytes, digest: str | None) -> None:
        self.patch, self.name = patch, name
        self._data, self._digest = data, digest

    @property
    def n_bytes(self) -> int:
        """How many there are."""
        return len(self._data)

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
        identity: SHA-256 of header and manifest, which has the SHA-256 of every payload: what
            is signed, and equal only for the same patch.
        n_bytes: size of the whole patch.
        sizes: bytes of each stored payload that belongs to the manifest, by name.
    """

    def __init__(
        self,
        stream: BinaryIO | InputStream,
        name: str,
        accept: Callable[[bytes], None] = lambda _: None,
    ) -> None:
        """Read and check header and manifest.

        Args:
            stream: at the beginning of the patch.
            name: where it comes from, for messages.
            accept: called with header and manifest before anything of the latter is believed;
                raises if they are not to be.

        Raises:
            CorruptError: this is no patch, or a damaged one.
            UnsupportedError: its format version is unknown.
        """
        self.name = name
        try:
            self._entries = EntryReader(stream, name, "patch")
            manifest_checksum = _check_metadata(self._entries)
            self.sizes, self.n_bytes = self._entries.sizes, self._entries.n_bytes
            if self.sizes["manifest"] > MAX_MANIFEST:
                raise CorruptError("manifest is too large", found=f"{self.sizes['manifest']} bytes")
            header = compose_header(_metadata(manifest_checksum), self.sizes)
            frame = self._entries.read(self.sizes.pop("manifest"))
            if checksum(frame) != manifest_checksum:
                raise CorruptError(
                    "manifest does not match its checksum", expected=manifest_checksum
                )
            accept(header + frame)
            self.identity = digest(header + frame)
            self.manifest = manifest_json.parse(_decompress_manifest(frame), len(frame))
            if list(self.sizes) != self.manifest.payload_names():
                raise CorruptError("payloads are not those the manifest lists")
            self._stored = {name: (name, size) for name, size in self.sizes.items()}
        except (CorruptError, UnsupportedError, UsageError) as e:
            if not isinstance(e, UsageError) or e.file is None:  # else it is of the signatures
                e.file = name
            raise

    def narrow(self, wanted: Collection[str], keeps: Callable[[str], bool]) -> None:
        """Become the share that leads to some files of the target; see `narrow.narrowed`.

        The payloads of the others are passed over when payloads are read, and not checked.
        """
        self.manifest, names = narrowed(self.manifest, wanted, keeps)
        self._stored = {
            name: (names.get(now, ""), size) for name, (now, size) in self._stored.items()
        }
        self.sizes = {now: size for now, size in self._stored.values() if now}

    def places(self) -> list[tuple[int, int]]:
        """Offset in the file, and bytes, of each payload that belongs to the manifest."""
        ends = list(accumulate(size for _, size in self._stored.values()))
        start = self.n_bytes - (ends[-1] if ends else 0)
        return [
            (start + end - size, size)
            for end, (now, size) in zip(ends, self._stored.values(), strict=True)
            if now
        ]

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
        for name, (now, size) in self._stored.items():
            if not now:
                self._entries.skip(size)
                continue
            limit = MAX_BUCKET_BYTES if name.startswith("bucket.") else MAX_SKELETON_BYTES
            if size > limit + _SLACK:
                raise CorruptError(f"{name} is too large", file=self.name, found=f"{size} bytes")
            data = self._entries.read(size)
            yield StoredPayload(self.name, name, data, self._digest_of(now))
        self._entries.check_end()

    def check_payloads(self) -> None:
        """Check all payloads now, if the patch can be read twice, and go back to the first.

        Raises:
            CorruptError: as `payloads` does.
        """
        with os_errors(self.name):
            here = self._entries.place()
            if here is not None:
                for _ in self.payloads():
                    pass
                self._entries.go_to(here)

    def _digest_of(self, name: str) -> str | None:
        kind, index = name.split(".")
        if kind == "bucket":
            return self.manifest.buckets[int(index)].digest
        return self.manifest.target_files[int(index)].skeleton_digest


@contextmanager
def open_patch(source: PatchSource, files: OpenFiles | None = None) -> Iterator[Patch]:
    """Open a patch for reading.

    Args:
        source: path, or ``-`` for standard input, or a binary stream; or `Signed`.
        files: holds the descriptors of many patches that are read by turns, as far as
            there are enough; default: one for this patch alone.

    Raises:
        UsageError: there is no such file.
        CorruptError: it is not an intact patch.
        UntrustedError: nobody who is trusted signed it.
        UnsupportedError: its format version is unknown.
    """
    accept: Callable[[bytes], None] = lambda _: None  # noqa: E731
    if isinstance(source, Signed):
        beside(source)
        accept = source.check
        source = source.path
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
        yield Patch(stream, str(source), accept)


def sign_patch(source: Path | str | Signed, signer: Signer) -> Path:
    """Sign a patch: header and manifest, which has the SHA-256 of every payload.

    Args:
        source: its path; or `Signed`, and then it must be signed already.
        signer: whose signatures take the place of those that are there.

    Returns:
        The file of signatures, ``path.sig``, which replaces one that is there.

    Raises:
        UsageError: there is no such file, a key has expired, or ``path.sig`` is something else.
        CorruptError: it is not an intact patch.
        UntrustedError: nobody who is trusted signed it before.
        UnavailableError: the disk is full.
    """
    beginnings: list[bytes] = []

    def accept(beginning: bytes) -> None:
        if isinstance(source, Signed):
            source.check(beginning)
        beginnings.append(beginning)

    check_signatures_may_go(source, "move it away")
    with os_errors(source), open(source, "rb") as stream:
        Patch(stream, str(source), accept).check_payloads()
    return write_signatures(source, beginnings[0], signer)


def paths(sources: Sequence[PatchSource]) -> list[Path | str]:
    """Those of the sources that are files."""
    named = [s.path if isinstance(s, Signed) else s for s in sources]
    return [s for s in named if isinstance(s, (str, Path)) and str(s) != "-"]


def is_patch(path: Path | str | Signed) -> bool:
    """Whether the file at ``path`` says it is a patch; for hints in messages."""
    try:
        if not Path(path).is_file():
            return False
        with open(path, "rb") as f:
            start = f.read(80)
    except OSError:
        return False
    return start[8:].startswith(b'{"__metadata__":{"format":"' + FORMAT.encode() + b'"')


def _check_metadata(entries: EntryReader) -> str:
    """Checksum of the manifest, as the checked header of a patch has it."""
    found = entries.metadata
    if found.get("format") == PART_FORMAT:
        raise UsageError("is one part of a patch; merge makes the patch of all parts")
    if found.get("format") != FORMAT:
        raise CorruptError("not a sparsediff patch")
    if found.get("version") != str(FORMAT_VERSION):
        raise UnsupportedError(
            "unknown patch format version", expected=FORMAT_VERSION, found=found.get("version")
        )
    manifest_checksum = found.get("manifest_xxh3")
    if not isinstance(manifest_checksum, str):
        raise CorruptError("not a sparsediff patch")
    if next(iter(entries.sizes), "") != "manifest":
        raise CorruptError("header of the patch has the wrong entries")
    entries.check_header(_metadata(manifest_checksum))
    return manifest_checksum


def _decompress_manifest(frame: bytes) -> bytes:
    size = stated_size(frame)
    if size > MAX_MANIFEST:
        raise CorruptError("manifest is too large", found=f"{size} bytes")
    return decompress(frame, size)
