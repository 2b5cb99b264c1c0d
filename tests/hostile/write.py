"""Writes the hostile files: ``python -m tests.hostile.write``.

Each function makes one kind of file, each entry of what it returns is one idea, which README.md
puts into words beside the verdict. Everything is written byte by byte, zstd frames included, so
that no version of any library changes them, and a reader can see how each was made.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import struct
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import xxhash
import zstandard

from tests.hostile import beside, hdf5, small
from tests.hostile.small import HASH, OTHER, SHA, TRUSTED, Entries, public, row
from tests.patch.rewriting import container, dumped

FILES = Path(__file__).parent / "files"
_BLOCK = 1 << 17  # bytes, of zstd
_RLE = 1


def main() -> None:
    """Write all of them."""
    FILES.mkdir(exist_ok=True)
    for name, data in everything().items():
        (FILES / name).write_bytes(data)


def everything() -> Entries:
    """All files, by name."""
    stores = (pointers, signed, parts)
    kinds = (
        patches,
        payloads,
        *stores,
        small_ones,
        beside.files,
        safetensors,
        pickles,
        gguf,
        npy,
        zips,
        tars,
        hdf5.files,
    )
    return {name: data for kind in kinds for name, data in kind().items()}


# --- patches -------------------------------------------------------------------------------------


def frame(*runs: bytes | tuple[bytes, int], size: int | None = None) -> bytes:
    """A zstd frame of bytes as they are, and of single bytes so and so many times.

    ``size`` is written instead of the true one.
    """
    blocks = []
    for run in runs:
        if isinstance(run, bytes):
            pieces = [run[i : i + _BLOCK] for i in range(0, len(run), _BLOCK)]
            blocks += [(0, len(piece), piece) for piece in pieces]
        else:
            byte, n = run
            blocks += [(_RLE, min(_BLOCK, n - i), byte) for i in range(0, n, _BLOCK)]
    blocks = blocks or [(0, 0, b"")]
    total = sum(n for _, n, _ in blocks) if size is None else size
    data = b"\x28\xb5\x2f\xfd\xe0" + total.to_bytes(8, "little")
    for i, (kind, n, content) in enumerate(blocks):
        is_last = i == len(blocks) - 1
        data += (is_last | kind << 1 | n << 3).to_bytes(3, "little") + content
    return data


def xxh3(data: bytes) -> str:
    return xxhash.xxh3_128_hexdigest(data)


def anchor(name: str = "w", n: int = 8, payload: bytes | None = None) -> dict[str, Any]:
    """The manifest of a patch from nothing to one file of n bytes, all zeros; a valid one."""
    return {
        "base": {"directory": True, "name": [], "size": [], "layout": [], "skeleton": []},
        "target": {
            "directory": True,
            "name": [name],
            "size": [n],
            "tensors": [1],
            "skeleton": [xxh3(b"")],
            "dictionary": [None],
            "sha256": [hashlib.sha256(frame()).hexdigest()],
        },
        "tensors": {
            "name": [""],
            "dtype": ["U8"],
            "shape": [[n]],
            "skip": [0],
            "base": [None],
            "base_skip": [0],
            "new": [n],
            "changed": [0],
            "wider": [0],
            "median": [0],
            "largest": [0],
        },
        "buckets": {
            "tensors": [[0, 1]],
            "words": [n],
            "base": [None],
            "locators": [""],
            "target": [xxh3(bytes.fromhex(xxh3(bytes(n))))],
            "sha256": [hashlib.sha256(payload or zeros(n)).hexdigest()],
        },
    }


def zeros(n: int, **lies: Any) -> bytes:
    """The payload of a bucket of n zero bytes."""
    return b"\2" + frame((b"\0", n), **lies)


def stored(manifest: dict[str, Any], payload: bytes | None = None) -> bytes:
    """A patch with this manifest, an empty skeleton and one bucket."""
    payload = zeros(manifest["buckets"]["words"][0]) if payload is None else payload
    text = dumped(manifest)
    return container({"manifest": frame(text), "skeleton.0": frame(), "bucket.0": payload})


def manifest_of(*runs: bytes | tuple[bytes, int], **lies: Any) -> bytes:
    """A patch with nothing but this text as its manifest."""
    return container({"manifest": frame(*runs, **lies)})


def padded(compressed: bytes, n: int) -> bytes:
    """A frame with ``n`` blocks of nothing before its own."""
    at = zstandard.frame_header_size(compressed)
    return compressed[:at] + bytes(3) * n + compressed[at:]


def one_column(size: int) -> bytes:
    """The frame of a manifest that is right, but for the commas of one column."""
    manifest = anchor()
    manifest["tensors"]["largest"] = "@"
    before, after = dumped(manifest).split(b'"@"')
    return frame(before + b"[0", (b",", size - len(before + after) - 4), b"0]" + after)


def header(text: bytes, data: bytes = b"") -> bytes:
    """Length, header, data; of a patch as of any safetensors file."""
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


def patches() -> Entries:
    """Patches whose header or manifest is refused, by each verb that takes a patch."""
    many = (1 << 25) - 100
    huge = anchor()
    huge["tensors"]["shape"] = [[1 << 53, 1 << 53]]
    overlap = anchor()
    overlap["tensors"]["skip"] = [-1]
    twice = anchor()
    for table in ("target", "tensors", "buckets"):
        twice[table] = {k: v if k == "directory" else v * 2 for k, v in twice[table].items()}
    twice["buckets"]["tensors"] = [[0, 1], [1, 1]]
    runs = anchor()
    runs["buckets"]["tensors"] = [[0, 1 << 50]]
    names = {
        "up": "../w",
        "root": "/w",
        "nul": "w\0",
        "backslash": "..\\w",
        "drive": "c:w",
        "unfinished": ".w.sparsediff-tmp.1",
        "surrogate": "w\ud800",
        "deep": "/".join("w" * 200),
    }
    metadata = b'{"__metadata__":{"format":"sparsediff","manifest_xxh3":"%b","version":"1"}'
    return {
        "patch-empty.sdiff": b"",
        "patch-cut.sdiff": stored(anchor())[:200],
        "patch-header-beyond-the-file.sdiff": b"\xff" * 8 + b"{}",
        "patch-header-nested.sdiff": header(b'{"__metadata__":' + b"[" * 20_000),
        "patch-header-hole.sdiff": header(
            metadata % xxh3(b"").encode()
            + b',"manifest":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}',
            b"ab",
        ),
        "patch-header-huge-entry.sdiff": header(
            metadata % xxh3(b"").encode()
            + b',"manifest":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}' % (1 << 62, 1 << 62)
        ),
        "patch-manifest-size-lie.sdiff": manifest_of(b"{}", size=1 << 62),
        "patch-manifest-short-lie.sdiff": manifest_of((b" ", 1 << 25), size=2),
        "patch-manifest-nested.sdiff": manifest_of((b"[", many)),
        "patch-manifest-digits.sdiff": manifest_of(b'{"a":', (b"9", many), b"}"),
        "patch-manifest-commas.sdiff": manifest_of(b'{"a":[0', (b",", many), b"]}"),
        "patch-manifest-backslashes.sdiff": manifest_of(b'{"a":"', (b"\\", many), b'"}'),
        "patch-manifest-text.sdiff": manifest_of(b'{"a":"', (b"a", many), b'"}'),
        "patch-manifest-blocks.sdiff": container({"manifest": padded(frame(b"{}"), 1000)}),
        "patch-manifest-column.sdiff": container({"manifest": padded(one_column(many), 1000)}),
        "patch-shape-overflow.sdiff": stored(huge),
        "patch-negative-offset.sdiff": stored(overlap),
        "patch-runs.sdiff": stored(runs),
        "patch-one-name-twice.sdiff": stored(twice),
        **{f"patch-name-{kind}.sdiff": stored(anchor(name)) for kind, name in names.items()},
    }


def payloads() -> Entries:
    """Patches that say nothing wrong until a payload is decoded."""
    n = 1 << 24
    lies = {
        "size-lie": zeros(n, size=1 << 62),
        "bomb": b"\2" + frame((b"\0", 1 << 26), size=n),
        "mode": b"\xff" + frame((b"\0", n)),
        "tiers-without-base": b"\1" * 8,
        "two-frames": zeros(n) + frame(),
        "skippable": b"\2\x50\x2a\x4d\x18\xff\xff\xff\xff",
        "other-words": b"\2" + frame((b"\1", n)),
    }
    made = {
        f"payload-{kind}.sdiff": stored(anchor("w", n, data), data) for kind, data in lies.items()
    }
    made["payload-other-digest.sdiff"] = stored(anchor("w", n), zeros(n)[:-1] + b"\1")
    return made


# --- stores --------------------------------------------------------------------------------------


def pointer(**changes: Any) -> dict[str, Any]:
    """A pointer of one version; a valid one, of objects that are not there."""
    patch = {"base": None, "key": "versions/1/a.sdiff", "n_bytes": 5, "sha256": SHA}
    version = {
        "version": 1,
        "name": "step_1",
        "number": 1,
        "source": "",
        "shipped": "2026-01-01T00:00:00Z",
        "n_bytes": 5,
        "n_elements": 5,
        "n_changed": None,
        "patches": [patch],
    }
    for key in version.keys() & changes.keys():
        version[key] = changes.pop(key)
    for key in patch.keys() & changes.keys():
        patch[key] = changes.pop(key)
    document = {"format": "sparsediff-store", "layout": 2, "id": HASH, "latest": 1, "pages": []}
    return document | {"versions": [version], "dropped": []} | changes


def sealed(document: dict[str, Any]) -> bytes:
    """A pointer with the right checksum."""
    return json.dumps(document | {"xxh3": xxh3(compact(document))}).encode()


def compact(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def page(**changes: Any) -> dict[str, Any]:
    """A row of a page that is not there."""
    row: dict[str, Any] = {
        "first": 1,
        "last": 32,
        "depth": 0,
        "n": 32,
        "patch_bytes": 5,
        "target_bytes": 5,
    }
    row |= {"names": ["a", "b"], "numbers": [1, 32], "since_anchor": [1, 5, 1]}
    return row | {"key": "versions/pages/p.json", "n_bytes": 5, "sha256": SHA} | changes


def pointers() -> Entries:
    """Pointers of a store, each of which is its ``latest.json``."""
    later = pointer(version=33, latest=33)
    two = pointer(latest=2)
    two["versions"] += [two["versions"][0] | {"version": 2}]
    return {
        "pointer-empty.json": b"",
        "pointer-null.json": b"null",
        "pointer-nested.json": b"[" * 20_000,
        "pointer-digits.json": b'{"latest":' + b"9" * 5_000 + b"}",
        "pointer-infinite.json": b'{"format":"sparsediff-store","layout":1e999}',
        "pointer-other-checksum.json": json.dumps(pointer() | {"xxh3": HASH}).encode(),
        "pointer-layout.json": sealed(pointer(layout=3)),
        "pointer-name-up.json": sealed(pointer(name="../../etc")),
        "pointer-name-nul.json": sealed(pointer(name="a\0b")),
        "pointer-name-two.json": sealed(two),
        "pointer-key-up.json": sealed(pointer(key="versions/../../secret")),
        "pointer-key-pointer.json": sealed(pointer(key="latest.json")),
        "pointer-backwards.json": sealed(pointer(base=1)),
        "pointer-number.json": sealed(pointer(version=1 << 63)),
        "pointer-time.json": sealed(pointer(shipped="9999-12-31T23:59:59-23:59")),
        "pointer-no-versions.json": sealed(pointer(versions=[])),
        "pointer-page-deep.json": sealed(later | {"pages": [page(depth=1 << 40)]}),
        "pointer-page-many.json": sealed(later | {"pages": [page(n=1 << 40)]}),
        "pointer-pages-overlap.json": sealed(later | {"pages": [page(), page()]}),
    }


def signed() -> Entries:
    """Pointers for somebody who trusts ``trusted.pub``, and that key."""
    document = pointer()
    data = compact(document)
    right = row(TRUSTED, "pointer", data)
    rows: dict[str, Any] = {
        "none": None,
        "by-another": [row(OTHER, "pointer", data, OTHER)],
        "by-another-in-its-name": [row(OTHER, "pointer", data)],
        "of-a-patch": [row(TRUSTED, "patch", data)],
        "of-zeros": [right | {"ed25519": base64.b64encode(bytes(64)).decode()}],
        "cut": [right | {"ed25519": right["ed25519"][:40]}],
        "no-base64": [right | {"ed25519": "\u202e" * 88}],
        "key-unprintable": [right | {"key": "\33[2J\u202e"}],
        "no-rows": {"key": "ed25519"},
        "too-many": [row(OTHER, "pointer", data)] * 65,
    }
    made = {
        f"signed-{kind}.json": sealed(document | ({} if r is None else {"signatures": r}))
        for kind, r in rows.items()
    }
    moved = document | {"signatures": [right], "latest": 1, "id": "1" * 32}
    made["signed-then-changed.json"] = sealed(moved)
    made["trusted.pub"] = public(TRUSTED)
    return made


def parts() -> Entries:
    """Lists of the parts of a patch of five bytes."""
    key = f"versions/000001-parts/{HASH}"

    def listed(*rows: dict[str, Any]) -> bytes:
        return json.dumps({"format": "sparsediff-parts", "parts": rows}).encode()

    part = {"key": key, "n_bytes": 5, "sha256": SHA}
    return {
        "parts-nested.json": b"[" * 20_000,
        "parts-none.json": listed(),
        "parts-key-up.json": listed(part | {"key": "versions/000001-parts/../../latest.json"}),
        "parts-negative.json": listed(part | {"n_bytes": -1}, part | {"n_bytes": 6}),
        "parts-huge.json": listed(part | {"n_bytes": (1 << 63) - 1}),
        "parts-missing.json": listed(part),
    }


def small_ones() -> Entries:
    """Keys, signatures of `signed_patch`, pages, acknowledgements."""
    files = small.signature_files(beginning()) | small.pages(*pointer()["versions"])
    return small.keys() | files | small.acks()


def beginning() -> bytes:
    """What is signed of `signed_patch`."""
    return signed_patch()[: -len(frame()) - len(zeros(8))]


def signed_patch() -> bytes:
    """A patch that is right, for the signatures that are beside it."""
    return stored(anchor())


# --- checkpoints ---------------------------------------------------------------------------------


def safetensors() -> Entries:
    """Headers of safetensors."""

    def tensor(shape: str, offsets: str, dtype: str = "U8") -> bytes:
        return f'{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}'.encode()

    return {
        "length.safetensors": b"\xff" * 8 + b"{",
        "nested.safetensors": header(b'{"a":' + b"[" * 20_000),
        "digits.safetensors": header(b'{"a":' + b"9" * 5_000 + b"}"),
        "overlap.safetensors": header(
            b'{"a":%b,"b":%b}' % (tensor("[2]", "[0,2]"), tensor("[2]", "[1,3]")), b"abc"
        ),
        "hole.safetensors": header(b'{"a":%b}' % tensor("[1]", "[1,2]"), b"ab"),
        "outside.safetensors": header(b'{"a":%b}' % tensor("[9]", "[0,9]"), b"ab"),
        "negative.safetensors": header(b'{"a":%b}' % tensor("[-1]", "[0,-1]"), b"ab"),
        "overflow.safetensors": header(
            b'{"a":%b}' % tensor(f"[{1 << 61},8]", "[0,0]", "F64"), b"ab"
        ),
        "true.safetensors": header(b'{"a":%b}' % tensor("[true]", "[0,true]"), b"a"),
        "name-twice.safetensors": header(
            b'{"a":%b,"a":%b}' % (tensor("[1]", "[0,1]"), tensor("[1]", "[0,1]")), b"a"
        ),
        "surrogate.safetensors": header(b'{"\\ud800":%b}' % tensor("[1]", "[0,1]"), b"a"),
        "objects.safetensors": header(
            b"{" + b",".join(b'"%d":{}' % i for i in range(2_000)) + b"}"
        ),
        "backwards.safetensors": header(b'{"a":%b}' % tensor("[2]", "[2,0]"), b"ab"),
        "more.safetensors": header(b'{"a":%b}' % tensor("[1]", "[0,1]"), b"ab"),
        "inside.safetensors": header(
            b'{"a":%b,"b":%b}' % (tensor("[2]", "[0,2]"), tensor("[0]", "[1,1]")), b"ab"
        ),
        "dtype.safetensors": header(b'{"a":%b}' % tensor("[1]", "[0,1]", "F32"), b"a"),
        "half-byte.safetensors": header(b'{"a":%b}' % tensor("[3]", "[0,1]", "F4"), b"a"),
        "unknown.safetensors": header(b'{"a":%b}' % tensor("[9]", "[0,1]", "F7"), b"a"),
        "latin.safetensors": header(b'{"\xe4":%b}' % tensor("[1]", "[0,1]"), b"a"),
        "mark.safetensors": header(b"\xef\xbb\xbf{}"),
        "documents.safetensors": header(b"{}{}"),
        "list.safetensors": header(b"[]"),
        "float.safetensors": header(b'{"a":%b}' % tensor("[1e0]", "[0,1]"), b"a"),
        "nan.safetensors": header(b'{"a":%b}' % tensor('[1],"x":NaN', "[0,1]"), b"a"),
        "escaped.safetensors": header(
            b'{"a":%b,"\\u0061":%b}' % (tensor("[1]", "[0,1]"), tensor("[1]", "[1,2]")), b"ab"
        ),
        "metadata-number.safetensors": header(b'{"__metadata__":{"a":1}}'),
        "metadata-list.safetensors": header(b'{"__metadata__":[]}'),
        "metadata-tensor.safetensors": header(
            b'{"\\u005f_metadata__":%b}' % tensor("[0]", "[0,0]")
        ),
        "metadata-surrogate.safetensors": header(b'{"__metadata__":{"a":"\\ud800"}}'),
        "bidi.safetensors": header(
            b'{"\\u202e\\u0000../\\u001b[2J":%b}' % tensor("[2]", "[0,2]"), b"ab"
        ),
    }


def pickles() -> Entries:
    """Pickles, in archives of torch and bare; what they would run makes a file."""
    touch = b"\x80\x02cos\nsystem\nX" + struct.pack("<I", 15) + b"touch was-run.x" + b"\x85R."
    magic = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
    # Each list holds the one before twice: 2^40 leaves, forty objects.
    billions = b"\x80\x02]q\0" + b"".join(b"](h%ch%ceq%c" % (i, i, i + 1) for i in range(40))
    return {
        "reduce.pt": archive({"a/data.pkl": touch, "a/version": b"3\n"}),
        "reduce-bare.pt": magic + b"\x80\x02M\xe9\x03." + touch + b"}." + bytes(64),
        "reduce-only.bin": touch + bytes(64),
        "escape-bare.pt": magic + b"\x80\x02M\xe9\x03.\x80\x02}.S'\\y'\n.\x80\x02].",
        "memo.pt": archive({"a/data.pkl": b"\x80\x02K\0r\xff\xff\xff\xff."}),
        "memos.pt": archive(
            {
                "a/data.pkl": b"\x80\x02K\0"
                + b"".join(b"r" + struct.pack("<I", i * 65536) for i in range(3_000))
                + b"."
            }
        ),
        "billions.pt": archive({"a/data.pkl": billions + b"."}),
        "nested.pt": archive({"a/data.pkl": b"\x80\x02" + b"]" * 5_000 + b"a" * 4_999 + b"."}),
        "itself.pt": archive({"a/data.pkl": b"\x80\x02]q\0h\0a."}),
        "dicts.pt": archive({"a/data.pkl": b"\x80\x02" + b"}" * 10_000 + b"."}),
        "long.pt": archive({"a/data.pkl": b"\x80\x02\x8b\xff\xff\xff\x7f."}),
        "string.pt": archive({"a/data.pkl": b"\x80\x04\x8d" + b"\xff" * 7 + b"\x7f."}),
        "frame.pt": archive({"a/data.pkl": b"\x80\x04\x95" + b"\xff" * 7 + b"\x7f."}),
        "underflow.pt": archive({"a/data.pkl": b"\x80\x02R."}),
        "inst.pt": archive({"a/data.pkl": b"\x80\x02(X\x0f\0\0\0touch was-run.xios\nsystem\n."}),
        "nothing.pt": b"PK",
        **{f"{name}.pt": archive({"a/data.pkl": data}) for name, data in _calls(touch).items()},
        "two.pt": archive({"a/version": b"3\n", "b/data.pkl": touch, "a/data.pkl": touch}),
        "names.pt": archive({"a/data.pkl": touch}).replace(b"a/data.pkl", b"a/data.txt", 1),
        "encrypted.pt": _flagged(archive({"a/data.pkl": touch}), 1),
    }


def _calls(touch: bytes) -> dict[str, bytes]:
    """The other ways in which a pickle calls something, and ways in which it hides that."""
    system, line = b"cos\nsystem\n", b"X\x0f\0\0\0touch was-run.x"
    return {
        "stack-global": b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94\x93" + line + b"\x85R.",
        "obj": b"\x80\x02(" + system + line + b"o.",
        "newobj": b"\x80\x02" + system + line + b"\x85\x81.",
        "newobj-ex": b"\x80\x04" + system + line + b"\x85}\x92.",
        "build": b"\x80\x02ccollections\nCounter\n)R}X\x0c\0\0\0__setstate__"
        + system + b"sb" + line + b"b.",
        "ext": b"\x80\x02\x84\xff\xff\xff\x7f" + line + b"\x85R.",
        "persistent": b"\x80\x02" + touch[2:-1] + b"Q.",
        "in-itself": b"\x80\x02cpickle\nloads\nC" + bytes([len(touch)]) + touch + b"\x85R.",
        "in-a-row": b"\x80\x02N." + touch,
        "never-ends": touch[:-1],
        "breaks-off": touch[:-1] + b"\xff.",
        "protocol": b"\x80\xff" + touch[2:],
        "comes-back": b"\x80\x02(N1" + touch[2:],
        "dotted": b"\x80\x04\x8c\x07pathlib\x8c\x09os.system\x93" + line + b"\x85R.",
    }  # fmt: skip


def _flagged(data: bytes, flags: int) -> bytes:
    """An archive whose entries have these flags, too, in the directory and before the data."""
    old, new = struct.pack("<H", 0x800), struct.pack("<H", 0x800 | flags)
    return data.replace(b"PK\3\4\0\0" + old, b"PK\3\4\0\0" + new).replace(
        b"PK\1\2" + bytes(4) + old, b"PK\1\2" + bytes(4) + new
    )


def gguf() -> Entries:
    """GGUF files of version 3."""

    def file(n_tensors: int, n_values: int, rest: bytes) -> bytes:
        return b"GGUF" + struct.pack("<IQQ", 3, n_tensors, n_values) + rest + bytes(64)

    def text(value: bytes) -> bytes:
        return struct.pack("<Q", len(value)) + value

    def tensor(name: bytes, sides: Iterable[int], kind: int = 0, offset: int = 0) -> bytes:
        sides = list(sides)
        return text(name) + struct.pack(f"<I{len(sides)}QIQ", len(sides), *sides, kind, offset)

    def aligned(n_bytes: int) -> bytes:
        return text(b"general.alignment") + struct.pack("<II", 4, n_bytes)

    top = (1 << 64) - 1
    array = text(b"a") + struct.pack("<I", 9)
    return {
        "tensors.gguf": file(top, 0, b""),
        "values.gguf": file(0, top, b""),
        "string.gguf": file(0, 1, struct.pack("<Q", top)),
        "array.gguf": file(0, 1, array + struct.pack("<IQ", 4, top)),
        "strings.gguf": file(0, 1, array + struct.pack("<IQ", 8, top)),
        "arrays.gguf": file(0, 1, array + struct.pack("<IQ", 9, 1) * 1_000),
        "alignment.gguf": file(0, 1, aligned(0)),
        "alignment-three.gguf": file(0, 1, aligned(3)),
        "alignment-twice.gguf": file(1, 2, aligned(32) + aligned(64) + tensor(b"a", [8])),
        "block.gguf": file(1, 0, tensor(b"a", [33], 8)),
        "unknown.gguf": file(1, 0, tensor(b"a", [1 << 40], 99)),
        "latin.gguf": file(1, 0, tensor(b"\xff\0", [8])),
        "version.gguf": file(1, 0, tensor(b"a", [8]))[:4] + b"\4" + bytes(60),
        "dimensions.gguf": file(1, 0, text(b"a") + b"\xff" * 4),
        "sides.gguf": file(1, 0, tensor(b"a", [1 << 40, 1 << 40])),
        "offset.gguf": file(1, 0, tensor(b"a", [1], offset=top - 31)),
        "overlap.gguf": file(2, 0, tensor(b"a", [8]) + tensor(b"b", [8])),
        "name-twice.gguf": file(2, 0, tensor(b"a", [8]) + tensor(b"a", [8], offset=32)),
    }


def npy_of(text: bytes, data: bytes = b"", length: int | None = None) -> bytes:
    """An array of version 2 with this header."""
    return (
        b"\x93NUMPY\2\0" + struct.pack("<I", len(text) if length is None else length) + text + data
    )


def npy() -> Entries:
    """Headers of npy, which numpy once evaluated."""
    head = "{{'descr': {}, 'fortran_order': False, 'shape': {}, }}\n"
    code = "__import__('os').system('touch was-run.x')"
    return {
        "code.npy": npy_of(head.format("'<f4'", f"({code},)").encode(), bytes(8)),
        "object.npy": npy_of(head.format("'|O'", "(1,)").encode(), b"\x80\x02cos\nsystem\n."),
        "shape.npy": npy_of(head.format("'<f4'", f"({1 << 50}, 8)").encode(), bytes(8)),
        "digits.npy": npy_of(head.format("'<f4'", "(" + "9" * 9_000 + ",)").encode(), bytes(8)),
        "dimensions.npy": npy_of(head.format("'<f4'", "(" + "1," * 9_000 + ")").encode(), bytes(8)),
        "itemsize.npy": npy_of(head.format("'<V999999999999'", "(1,)").encode(), bytes(8)),
        "header.npy": npy_of(b"{", length=(1 << 32) - 1),
        "negative.npy": npy_of(head.format("'<f4'", "(-2, -1)").encode(), bytes(8)),
        "fields.npy": npy_of(
            head.format("[('a', '|O'), ('b', '<f4')]", "(1,)").encode(), bytes(12)
        ),
        "twice.npy": npy_of(head.format("'<f4', 'descr': '<f8'", "(1,)").encode(), bytes(8)),
        "escaped.npy": npy_of(
            head.format("'<f4'", "(2,)").replace("d", "\\x64", 1).encode(), bytes(8)
        ),
        "version.npy": npy_of(head.format("'<f4'", "(2,)").encode(), bytes(8))[:6]
        + b"\4"
        + bytes(64),
    }


def archive(entries: Mapping[Any, bytes | int], **lies: Any) -> bytes:
    """A zip archive of stored entries.

    Args:
        entries: data by name, which is UTF-8, or given as bytes and not; or, of an entry that is
            in the directory only, where it says that it lies.
        lies: instead of the truth in the directory: ``size``, ``packed``, ``method`` of each
            entry; ``count``, ``directory`` in the end record; ``extra`` to each entry.
    """
    out, central = b"", b""
    method, extra = lies.get("method", 0), lies.get("extra", b"")
    for name, data in entries.items():
        raw = name if isinstance(name, bytes) else name.encode()
        n = 0 if isinstance(data, int) else len(data)
        size, packed = lies.get("size", n), lies.get("packed", n)
        at = data if isinstance(data, int) else len(out)
        utf8 = 0 if name is raw else 0x800
        fields = (utf8, method, 0, 0, 0, packed, size, len(raw), len(extra))
        central += struct.pack("<4sHHHHHHIIIHH", b"PK\1\2", 0, 0, *fields)
        central += struct.pack("<HHHII", 0, 0, 0, 0, at) + raw + extra
        if not isinstance(data, int):
            out += local(raw, method, packed, size) + data
    n, at = lies.get("count", len(entries)), lies.get("directory", len(out))
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, n, n, len(central), at, 0)
    return out + central + end


def local(name: bytes, method: int, packed: int, size: int) -> bytes:
    """What precedes the data of an entry."""
    fields = (0x800, method, 0, 0, 0, packed, size, len(name), 0)
    return struct.pack("<4sHHHHHIIIHH", b"PK\3\4", 0, *fields) + name


def zips() -> Entries:
    """Archives of arrays and of torch."""
    array = npy_of(b"{'descr': '|u1', 'fortran_order': False, 'shape': (8,), }\n", bytes(8))
    big = 0xFFFFFFFF
    quoting = local(b"b.npy", 0, 0, 0) + array  # the data of one is a header of the other
    wide = struct.pack("<HHQQQ", 1, 24, 1 << 62, 1 << 62, 0)
    deflated = b"\x4b\x04\0" * 30  # never looked into
    one = archive({"a.npy": array})
    return {
        "overlap.npz": archive({"a.npy": quoting, "b.npy": len(local(b"a.npy", 0, 0, 0))}),
        "same-data.npz": archive({"a.npy": array, "b.npy": 0}),
        "outside.npz": archive({"a.npy": array, "b.npy": big - 1}),
        "bomb.npz": archive({"a.npy": deflated}, method=8, size=big - 1, packed=len(deflated)),
        "zip64.npz": archive({"a.npy": array}, size=big, packed=big, extra=wide),
        "zip64-none.npz": archive({"a.npy": array}, size=big, packed=big),
        "count.npz": archive({"a.npy": array}, count=0xFFFE),
        "directory.npz": archive({"a.npy": array}, directory=big - 1),
        "two-sizes.npz": archive({"a.npy": array}, size=1),
        "traversal.npz": archive({"a.npy": array, "../../b.npy": array, "/c.npy": array}),
        "nul.npz": archive({"a.npy": array, "b\0.npy": array, "\u202eypn.npy": array}),
        "itself.npz": archive({"a.npy": archive({"a.npy": array})}),
        "twice.npz": archive({"a.npy": array, "a.npy\0b": array}),
        "twice-spelt.npz": archive({"\u00e9.npy": array, b"\x82.npy": array}),
        "case.npz": archive({"a.npy": array, "A.npy": array}),
        "hidden.npz": archive({"a.npy": array, "b.npy": array}, count=1),
        "names.npz": archive({"a.npy": array}).replace(b"a.npy", b"b.npy", 1),
        "prepended.npz": b"#!/bin/sh\n" + one,
        "in-a-row.npz": one + archive({"b.npy": array}),
        "comment.npz": one[:-2] + struct.pack("<H", len(one)) + one,
        "after.npz": one + b"more",
        "encrypted.npz": _flagged(one, 1),
        "disk.npz": one[:-18] + b"\1\0\1\0" + one[-14:],
        "zip64-end.npz": one[:-22] + _end64(2, len(one)) + one[-22:],
    }


def _end64(n: int, end: int) -> bytes:
    """The end record of zip64 and where it is, of n entries where the directory ends otherwise."""
    at = end - 22
    record = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, n, n, 51, at - 51)
    return record + struct.pack("<4sIQI", b"PK\6\7", 0, at, 1)


def tars() -> Entries:
    """Archives of tar, which are no format of weights: what is wrong with one is just bytes."""

    def packed(*members: tuple[str, bytes, bytes | str]) -> bytes:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as file:
            for name, kind, data in members:
                info = tarfile.TarInfo(name)
                info.type = kind
                if isinstance(data, str):
                    info.linkname = data
                    file.addfile(info)
                else:
                    info.size = len(data)
                    file.addfile(info, io.BytesIO(data))
        return out.getvalue()[:2_560]

    def resized(data: bytes, size: bytes) -> bytes:
        head = data[:124] + size + data[136:148] + b" " * 8 + data[156:512]
        total = b"%06o\0 " % sum(head)
        return head[:148] + total + head[156:] + data[512:]

    plain = packed(("a", tarfile.REGTYPE, bytes(600)))
    return {
        "traversal.tar": packed(("../../a", tarfile.REGTYPE, bytes(9)), ("/b", b"0", bytes(9))),
        "links.tar": packed(("a", tarfile.SYMTYPE, "/etc"), ("a/passwd", b"0", bytes(9))),
        "hard-link.tar": packed(("a", tarfile.LNKTYPE, "../../etc/passwd")),
        "size.tar": resized(plain, b"\x80" + b"\xff" * 11),
        "negative.tar": resized(plain, b"\xff" * 12),
        "pax-size.tar": packed(("p", b"x", b"30 size=9999999999999999999\n" + b"0\n")),
        "pax-of-all.tar": packed(("p", b"g", b"10 size=0\n"), ("a", b"0", bytes(600))),
        "pax-holes.tar": packed(("p", b"x", b"22 GNU.sparse.size=99\n"), ("a", b"0", bytes(9))),
        "holes.tar": packed(("a", b"S", bytes(600))),
        "twice.tar": packed(("a", b"0", bytes(9)), ("a", b"0", bytes(8))),
        "directory.tar": packed(("a/", b"5", bytes(600)), ("a/b", b"0", bytes(9))),
        "after-end.tar": packed(("a", b"0", bytes(9)))[:1_024] + bytes(1_024) + plain,
        "pax-line.tar": packed(("p", b"x", b"9999999 path=a\n")),
    }


if __name__ == "__main__":
    main()
