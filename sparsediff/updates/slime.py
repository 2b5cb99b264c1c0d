"""export to the directories that slime's receivers pull: one per version, a delta each.

Enters: a patch and its base. Leaves: ``weight_v{N:06d}``, which appears whole: of every
tensor that changed the zstd frame of old bytes XOR new, the checksum of the new ones, and
an index that says from which version it leads. Never holds a tensor, only what changes in
it: its bytes are read a piece at a time.
"""

from __future__ import annotations

import json
import os
import re
from itertools import accumulate, groupby
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import numpy as np
import xxhash
import zstandard

from sparsediff.apply.base import Base
from sparsediff.apply.chain import check_declared
from sparsediff.checkpoint.formats import safetensors
from sparsediff.disk.inputs import OpenFiles
from sparsediff.disk.outputs import check_room, staged_directory
from sparsediff.disk.replace import check_output
from sparsediff.dtypes import DTYPES
from sparsediff.errors import UnsupportedError, UsageError, os_errors
from sparsediff.parallel import Progress, threads
from sparsediff.patch.container import PatchSource, open_patch, paths
from sparsediff.patch.manifest import Manifest
from sparsediff.updates.changes import Change
from sparsediff.updates.composed import compose
from sparsediff.updates.export import ExportResult
from sparsediff.updates.named import check_names, open_base, removed

INDEX = "model.safetensors.index.json"
_FILE = "model-00000-of-00001.safetensors"
_NAME = re.compile(r"weight_v(\d{6,})")
_PIECE = 1 << 22  # bytes


def export_slime(
    patch: PatchSource,
    base: Path | str,
    output: Path | str,
    *,
    base_version: int | None = None,
    jobs: int | None = None,
    force: bool = False,
    max_bytes: int | None = None,
    progress: Progress | None = None,
) -> ExportResult:
    """Write what a patch changes as a version directory of slime's weight synchronisation.

    Args:
        patch: path, ``-`` for standard input, or a binary stream.
        base: the checkpoint it was made from.
        output: the directory, called ``weight_v`` and the version's number in six digits.
        base_version: number of the version that the receiver has; default the one before.
        jobs: threads; default all processors.
        force: replace an existing output.
        max_bytes: most bytes that the patch's target may have, as with `apply_patch`; default any.
        progress: told of words of the tensors that change.

    Raises:
        UsageError: a path is unusable, the output exists or has another name.
        UnsupportedError: a tensor is new, gone, or has another size: that takes a whole version.
        SparsediffError: as `export_patch` does.
    """
    output = Path(os.path.abspath(output))
    named = _NAME.fullmatch(output.name)
    if named is None:
        raise UsageError(
            "is no name that slime's receivers look for", file=output, expected="weight_v000101"
        )
    number, jobs = int(named[1]), threads(jobs)
    check_output(output, force=force, inputs=[base, *paths([patch])])
    frames: list[tuple[str, int, str]] = []  # name, bytes, checksum
    n_changed = n_words = done = 0
    with (
        open_patch(patch) as opened,
        staged_directory(output, force=force, replaceable=(INDEX, _FILE)) as room,
        os_errors(output),
        TemporaryFile(dir=room) as spool,
    ):
        check_declared([opened], max_bytes)
        manifest = opened.manifest
        check_names(manifest)
        source = open_base(base, manifest)
        if gone := removed(manifest, manifest, source):
            raise UnsupportedError("is gone, and slime's receivers would keep it", tensor=gone[0])
        composed = compose([opened], source, jobs)
        n_touched = sum(t.n_words for t in manifest.tensors if t.n_changed)
        for row, own in groupby(composed.changes, key=lambda c: c.tensor):
            tensor = manifest.tensors[row]
            if composed.n_based[row] < tensor.n_words:
                raise UnsupportedError(
                    "is new or grew: slime's receivers need a whole version", tensor=tensor.name
                )
            begin, found = spool.tell(), list(own)
            digest = _encode(manifest, row, source, found, spool)
            frames.append((tensor.name, spool.tell() - begin, digest))
            n_changed += sum(c.values.size for c in found)
            done += tensor.n_words
            if progress is not None:
                progress(done, n_touched)
        n_words = sum(
            n
            for n, name in zip(manifest.tensors.n_words, manifest.names, strict=True)
            if name is not None
        )
        size = _write(room / _FILE, frames, spool) if frames else 0
        index = {
            "metadata": {
                "version": f"{number:06d}",
                "base_version": f"{number - 1 if base_version is None else base_version:06d}",
                "delta_encoding": "xor",
                "compression_format": "zstd",
                "checksum_format": "xxh3-128",
            },
            "weight_map": {name: _FILE for name, _, _ in frames},
        }
        (room / INDEX).write_text(json.dumps(index))
    names = [name for name, _, _ in frames]
    return ExportResult(output, n_changed, n_words, names, [], [], size)


def _encode(manifest: Manifest, row: int, base: Base, found: list[Change], spool: IO[bytes]) -> str:
    """Append the frame of a tensor's old bytes XOR its new ones; the checksum of the new ones."""
    tensor = manifest.tensors[row]
    at = np.concatenate([c.indices(np.int64) for c in found])
    values = np.concatenate([c.values for c in found])
    digest = xxhash.xxh3_128()
    encoder = zstandard.ZstdCompressor(level=1).compressobj(size=tensor.n_bytes)
    step = _PIECE // tensor.dtype.word_bytes
    with OpenFiles() as files:
        source = base.source(files)
        file, begin = source.place(row)
        for start in range(0, tensor.n_words, step):
            old = np.empty(min(step, tensor.n_words - start), tensor.dtype.numpy)
            source.read(file, begin + start * tensor.dtype.word_bytes, old)
            new = old.copy()
            a, b = np.searchsorted(at, (start, start + old.size))
            new[at[a:b] - start] = values[a:b]
            digest.update(new.data)
            spool.write(encoder.compress((old ^ new).tobytes()))
    spool.write(encoder.flush())
    return digest.hexdigest()


def _write(path: Path, frames: list[tuple[str, int, str]], spool: IO[bytes]) -> int:
    """The one file of a version; returns its size."""
    head, spans = safetensors.compose(
        ((name, DTYPES["U8"], (n,)) for name, n, _ in frames),
        {name: digest for name, _, digest in frames},
    )
    lengths = {name: n for name, n, _ in frames}
    check_room(path.parent, len(head) + spool.tell(), 2)  # beside the frames as they are spooled
    begins = dict(zip(lengths, accumulate(lengths.values(), initial=0), strict=False))
    with open(path, "wb") as out:
        out.write(head)
        for span in spans:
            spool.seek(begins[span.name])
            left = span.nbytes
            while left:
                left -= out.write(spool.read(min(left, _PIECE)))
        return out.tell()
