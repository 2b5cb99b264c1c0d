"""Patches taken apart and put together again with every checksum right, and two readers' verdicts.

Shares no code with the package but `apply_patch`, so a mistake there cannot hide here.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash
import zstandard

from sparsediff import SparsediffError, apply_patch
from tests import oracle
from tests.support.pairs import tree

EXIT_CODES = (10, 11, 12)  # wrong base, corrupt, unsupported: a mutant may be any of these


@dataclass
class Parts:
    """A patch taken apart: the manifest as JSON, payloads by name in stored order."""

    manifest: dict[str, Any]
    payloads: dict[str, bytes]

    @classmethod
    def of(cls, patch: bytes) -> Parts:
        n = int.from_bytes(patch[:8], "little")
        entries = {}
        for name, entry in json.loads(patch[8 : 8 + n]).items():
            if name != "__metadata__":
                start, end = entry["data_offsets"]
                entries[name] = patch[8 + n + start : 8 + n + end]
        text = zstandard.decompress(entries.pop("manifest"))
        return cls(json.loads(text), entries)

    def patch(self, text: bytes | None = None, frame: bytes | None = None) -> bytes:
        """The patch again; the manifest's text or its frame may be given."""
        for name, payload in self.payloads.items():
            kind, index = name.split(".")
            column = self.manifest["buckets" if kind == "bucket" else "target"]["sha256"]
            column[int(index)] = hashlib.sha256(payload).hexdigest()
        if text is None:
            text = dumped(self.manifest)
        if frame is None:
            frame = zstandard.compress(text)
        return container({"manifest": frame} | self.payloads)


def dumped(value: Any) -> bytes:
    """Canonical JSON."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii")


def container(entries: dict[str, bytes]) -> bytes:
    """The header that belongs to these entries, and the entries."""
    metadata = {
        "format": "sparsediff",
        "manifest_xxh3": xxhash.xxh3_128_hexdigest(entries["manifest"]),
        "version": "1",
    }
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, data in entries.items():
        start, end = end, end + len(data)
        header[name] = {"dtype": "U8", "shape": [len(data)], "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(entries.values())


def edited(patch: bytes, edit: Callable[[Parts], None]) -> bytes:
    """The patch with something changed, all checksums made right again."""
    parts = Parts.of(patch)
    edit(parts)
    return parts.patch()


Verdict = tuple[dict[str, bytes] | None, str]  # the target's files, None if refused, and why


def by_reader(base: Path, patch: bytes, out: Path) -> Verdict:
    """What `apply_patch` makes of a patch; ``out`` is gone afterwards."""
    try:
        apply_patch(base, io.BytesIO(patch), out, jobs=1)
        return tree(out), ""
    except SparsediffError as e:
        if e.exit_code not in EXIT_CODES:
            raise
        if out.exists():
            raise AssertionError(f"refused, but left {out}") from e
        return None, str(e)
    finally:
        shutil.rmtree(out, ignore_errors=True)
        out.unlink(missing_ok=True)


def by_oracle(base: Path, patch: bytes) -> Verdict:
    """What the independent reader makes of a patch."""
    try:
        return oracle.apply(tree(base), patch), ""
    except oracle.Refused as e:
        return None, str(e)
