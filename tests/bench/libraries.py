"""Tools that come as Python libraries, each run as a process of its own like every tool.

    python -m tests.bench.libraries VERB LIBRARY BASE TARGET PATCH OUT

VERB is prepare, make or apply; every verb reads only what it may.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

from tests.bench.tensors import spans

THREADS = 2  # as many as sparsediff gets


def hdiffpatch(verb: str, base: Path, target: Path, patch: Path, out: Path) -> None:
    """bzip2 made the smallest patches of its compressors: the differences are mostly zeros."""
    import hdiffpatch as library

    old = base.read_bytes()
    if verb == "make":
        options = {"validate": False, "big_cache_match": True}
        patch.write_bytes(library.diff(old, target.read_bytes(), "bzip2", **options))
    else:
        out.write_bytes(library.apply(old, patch.read_bytes()))


def zipnn(verb: str, base: Path, target: Path, patch: Path, out: Path) -> None:
    """Its delta mode: XOR, bytes grouped by the width of a word, Huffman or zstd per chunk.

    Version 0.5.4 corrupts its memory when the length is not a multiple of four,
    so the files are padded here.
    """
    from zipnn import ZipNN

    wide = any(span.dtype == "F32" for span in spans(base).values())
    codec = ZipNN(
        input_format="byte",
        bytearray_dtype="float32" if wide else "bfloat16",
        delta_compressed_type="byte",
        threads=THREADS,
    )
    old = base.read_bytes()
    pad = bytes(-len(old) % 4)
    if verb == "make":
        new = target.read_bytes()
        if len(new) != len(old):
            sys.exit("base and target differ in size")
        patch.write_bytes(codec.compress(new + pad, delta_second_data=old + pad))
    else:
        data = codec.decompress(patch.read_bytes(), delta_second_data=old + pad)
        out.write_bytes(data[: len(old)])


def fireworks(verb: str, base: Path, target: Path, patch: Path, out: Path) -> None:
    """arc_v3; applies in place, so to a copy of the base."""
    import fireworks_delta_compression as library

    if verb == "make":
        library.delta_compress_files_to_file(
            src=str(base), dst=str(target), diff_file=str(patch), compression_format="arc_v3"
        )
    else:
        shutil.copyfile(base, out)
        library.delta_decompress_inplace(
            base_path=str(out), diff_path=str(patch), compression_format="arc_v3"
        )


def moonclip(
    verb: str, base: Path, target: Path, patch: Path, out: Path, *, level: int = 3
) -> None:
    """A store of snapshots: prepare puts the base there, make the target."""
    from moonclip import MoonclipManager

    store = MoonclipManager(storage_root=str(patch), async_save=False, compression_level=level)

    def tensors(path: Path) -> dict[str, Any]:
        data = path.read_bytes()
        return {
            name: (list(s.shape), s.dtype.lower(), data[s.offset : s.offset + s.nbytes])
            for name, s in spans(path).items()
        }

    if verb == "apply":
        _, loaded = store.load_latest()
        shutil.copyfile(base, out)  # for its header
        with out.open("r+b") as f:
            for name, span in spans(out).items():
                f.seek(span.offset)
                f.write(loaded[name])
    elif verb == "prepare":
        store.save_tensors(0, tensors(base))
    else:
        store.save_tensors(1, tensors(target))


LIBRARIES = {
    "hdiffpatch": hdiffpatch,
    "zipnn": zipnn,
    "fireworks": fireworks,
    "moonclip": moonclip,
}

if __name__ == "__main__":
    name, _, level = sys.argv[2].partition(":")
    options: dict[str, Any] = {"level": int(level)} if level else {}
    LIBRARIES[name](sys.argv[1], *map(Path, sys.argv[3:7]), **options)
