"""Inputs below 1 MB that are made to cost much, for each reader.

``python -m tests.hostile.costly [TARGET ...]`` prints what each takes in a process of its own,
forked from this one, so that nothing another left behind counts: memory beyond what that process
began with, and processor time.
"""

from __future__ import annotations

import itertools
import json
import os
import struct
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sparsediff.codec.zstd import compress
from sparsediff.errors import SparsediffError
from sparsediff.shipping import catalog_json
from tests.checkpoint.test_archives import tar_bytes, zip_bytes
from tests.checkpoint.test_arrays import npy_bytes
from tests.fuzz.targets import TARGETS
from tests.hostile import write
from tests.hostile.costly_stores import STORE, stores, verbs
from tests.patch.rewriting import container, dumped
from tests.support import h5files

MAX_BYTES = 1_000_000  # of an input
MAX_PEAK = 300 << 20  # that it takes beyond what there was
MAX_SECONDS = 7.0  # of processor time; at rest 2, on a processor of half the speed 4; busy, more
_MOST = MAX_BYTES - 2_000  # with room for what is around them
Make = Callable[[], bytes]


def costly() -> dict[str, dict[str, Make]]:
    """For each of the fuzzer's readers, ideas and the inputs that they make."""
    return {
        "patch": patches(),
        "part": documents(most=1 << 22),  # of results; what is stored of them is smaller
        "frame": {"zeros": lambda: compress(bytes(1 << 20), level=19)},
        "pointer": pointers(),
        STORE: stores(),
        "page": documents(b'{"format":"sparsediff-page","a":', b"}"),
        "list": {"parts": lambda: rows('{"format":"sparsediff-parts","parts":[', (
            f'{{"key":"versions/000001-parts/{i:032x}","n_bytes":1,"sha256":"{i:064x}"}}'
            for i in itertools.count()), "]}")} | documents(),
        "ack": documents(),
        "record": documents() | {
            "versions": lambda: rows(
                '{"versions":{', (f'"{i}":"{i}"' for i in itertools.count(1)), "}}"),
            "waiting": lambda: rows('{"waiting":[', itertools.repeat(
                '{"name":"","reason":"","why":"","since":1,"n_bytes":1}'), "]}"),
        },
        "signatures": {"rows": lambda: rows(
            '{"format":"sparsediff-signatures","signatures":[', itertools.repeat("{}"), "]}"
        )[: 1 << 16]} | documents(),
        "key": {
            "begins": lambda: fill(b"-----BEGIN PUBLIC KEY-----\n"),
            "lines": lambda: fill(b"#\n"),
        },
        "safetensors": {
            "entries": lambda: write.header(rows("{", (
                f'"{n}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}' for n in names()), "}")),
            "names": lambda: write.header(rows("{", (f'"{n}":{{}}' for n in names()), "}")),
            "shapes": lambda: write.header(rows("{", (
                f'"{n}":{{"dtype":"U8","shape":[{a},{b},0],"data_offsets":[0,0]}}'
                for n, (a, b) in zip(names(), of_one_hash(), strict=False)), "}")),
        } | {name: partial(write.header, t) for name, t in texts().items()},
        "torch": {name: partial(zip_bytes, {"a/data.pkl": b}) for name, b in pickles().items()},
        "torch-legacy": {name: partial(legacy, b) for name, b in pickles().items()},
        "rank": {"ranks": lambda: zip_bytes({"a/data.pkl": b"\x80\x02}(" + b"".join(
            b"\x8c" + bytes([len(key)]) + key + value for key, value in (
                (b"mp_world_size", b"J\0\0\1\0"), (b"dp_world_size", b"J\0\0\1\0"),
                (b"ds_config", b"}\x8c\x11zero_optimization}\x8c\x05stageK\3ss"))) + b"u."})},
        "gguf": gguf(),
        "npy": {"header": lambda: b"\x93NUMPY\2\0" + (60_000).to_bytes(4, "little")
                + b"{'descr'" + b" " * 59_991 + b":"},
        "npz": {"entries": lambda: zip_bytes(
            {f"{n}.npy": npy_bytes(np.zeros(0)) for n in itertools.islice(names(), 3_000)})},
        "hdf5": {"messages": lambda: h5(struct.pack("<HHB3x", 0, 0, 0) * 124_000),
                 "latest": lambda: h5files.LATEST},
        "archive": {
            "members": lambda: tar_bytes(
                dict.fromkeys(
                    itertools.islice(names(), 55), legacy(b"\x80\2" + b"}" * 16_000 + b".")),
                "gnu"),
            "entries": lambda: zip_bytes(dict.fromkeys(itertools.islice(names(), 9000), b"")),
        },
        "listing": {
            "shards": lambda: rows('{"weight_map":{', (f'"{n}":"{n}"' for n in names()), "}}"),
            "folders": lambda: rows("{", (f'"{n}":["a","b"]' for n in names()), "}"),
        } | documents(),
        "metadata": {"dicts": lambda: pickles()["dicts"]},
        "onnx": {
            "fields": lambda: b"\x08\x07" + b"\x12\0" * 499_000 + b"\x42\0",
            "tensors": lambda: b"\x08\x07\x3a\xa0\xe8\x3b" + b"\x2a\0" * 490_000 + b"\x42\0",
        },
    }  # fmt: skip


def names() -> Iterator[str]:
    """Short ones, all different."""
    for i in itertools.count():
        yield f"{i:x}"


def of_one_hash() -> Iterator[tuple[int, int]]:
    """Pairs below 2^53 that Python gives one hash, which it makes of numbers without a secret."""
    first, second, start = (
        np.uint64(n) for n in (11400714785074694791, 14029467366897019727, 2870177450012600261)
    )
    inverse = np.uint64(pow(int(second), -1, 1 << 64))
    for block in itertools.count():
        a = np.arange(block << 20, block + 1 << 20, dtype=np.uint64)
        state = start + a * second  # modulo 2^64, as all of it
        b = -((state << np.uint64(31) | state >> np.uint64(33)) * first) * inverse
        usable = b < 1 << 53
        yield from zip(a[usable].tolist(), b[usable].tolist(), strict=True)


def fill(item: bytes, head: bytes = b"", tail: bytes = b"", most: int = _MOST) -> bytes:
    """As often as there is room."""
    return head + item * ((most - len(head) - len(tail)) // len(item)) + tail


def rows(head: str, items: Iterable[str], tail: str) -> bytes:
    """As many as there is room for."""
    found, left = [], _MOST
    for item in items:
        left -= len(item) + 1
        if left < 0:
            break
        found.append(item)
    return (head + ",".join(found) + tail).encode()


def texts(head: bytes = b"", tail: bytes = b"", most: int = _MOST) -> dict[str, bytes]:
    """JSON that unfolds to much."""
    items = {"objects": b"{},", "lists": b"[],", "numbers": b"999,", "floats": b"9e9,"}
    found = {k: fill(item, head + b'{"a":[', b"0]}" + tail, most) for k, item in items.items()}
    wide = "\U00010000".encode()
    return found | {
        "letters": fill(wide, head + b'{"a":"', b'"}' + tail, most),
        "nested": fill(b"[", head, b"", most),
        "colons": fill(b'\\":', head + b'{"a":"', b'"}' + tail, most),
    }


def documents(head: bytes = b"", tail: bytes = b"", most: int = _MOST) -> dict[str, Make]:
    """The same as inputs."""
    return {name: partial(bytes, t) for name, t in texts(head, tail, most).items()}


def patches() -> dict[str, Make]:
    def unfolding(item: bytes) -> Make:
        text = fill(item, b'{"a":[', b"0]}", (1 << 25) - 64)
        return lambda: container({"manifest": compress(text, level=3)})

    return {
        "numbers": unfolding(b"999,"),
        "lists": unfolding(b'[],"",'),
        "header": lambda: write.header(fill(b"{},", b'{"a":[', b"0]}")),
        "tensors": lambda: tensors(80_000),
        **{f"padded {name}": partial(padded, text, name) for name, text in manifests().items()},
    }


def padded(text: Make, name: str) -> bytes:
    """A patch with a manifest, which blocks of nothing make larger: they pay for nothing."""
    compressed = compress(text(), level=3)
    n = (_MOST - len(compressed)) // 4
    assert n > 0, name
    entries = {"manifest": write.padded(compressed, n), "skeleton.0": write.frame()}
    return container(entries | {"bucket.0": write.zeros(8)})


def manifests() -> dict[str, Make]:
    """Texts of 32 MiB, and those of manifests that take as much memory as they may."""

    def column(section: str, name: str, item: bytes, last: bytes, more: bytes = b"") -> Make:
        def make() -> bytes:
            manifest = write.anchor()
            manifest[section][name] = "@"
            head, tail = dumped(manifest).split(b'"@"')
            return fill(item, head + b"[" + more, last + b"]" + tail, (1 << 25) - 64)

        return make

    def files(side: str, n: int, after: str = "", **columns: Any) -> Make:
        def make() -> bytes:
            manifest = write.anchor()
            for section in ("tensors", "buckets") if side == "target" else ():
                manifest[section] = {key: [] for key in manifest[section]}
            row = {"size": 0, "skeleton": write.xxh3(b""), **columns}
            manifest["base"] = {"directory": True, "name": ["a"], "size": [0], "layout": [[0]],
                                "skeleton": [write.xxh3(b"")]}  # fmt: skip
            manifest[side] |= {k: [v] * n for k, v in row.items()}
            manifest[side]["name"] = [name + after for name in itertools.islice(names(), n)]
            return dumped(manifest)

        return make

    return {
        "values": lambda: fill(b"999,", b'{"a":[', b"0]}", (1 << 25) - 64),
        "numbers": column("tensors", "largest", b"999,", b"0"),
        "strings": column("tensors", "name", b'"aa",', b'""'),
        "lists": column("tensors", "shape", b"[1],", b"[8]"),
        "objects": column("target", "sha256", b'{"":{"":"aa"}},', b"null"),
        "shape": column("tensors", "shape", b"999,", b"8]", b"["),
        "long shape": lambda: dumped(shaped(1, 4_700_000)),
        "shapes": lambda: dumped(shaped(62_000, 64)),
        "digits": lambda: dumped(shaped(1, 8_500_000, side=7)),
        "one hash": lambda: dumped(
            empties([[a, b, 0] for a, b in itertools.islice(of_one_hash(), 50_000)])
        ),
        "tensors": lambda: dumped(alike(500_000)),
        "buckets": lambda: dumped(alike(1, 400_000)),
        "files": files("target", 500_000, tensors=0, dictionary=0, sha256=None),
        "base": files("base", 520_000, layout=[0]),
        "long names": files("base", 8_000, ("/" + "a" * 250) * 15, layout=[0]),
        "deep names": files("base", 110_000, "/a" * 99, layout=[0]),
    }


def alike(n_tensors: int, n_buckets: int = 1) -> dict[str, Any]:
    """A manifest that is right, of tensors that did not change; a byte in each, or each bucket."""
    n = max(n_tensors, n_buckets)
    manifest = write.anchor(n=n)
    manifest["base"] = {"directory": True, "name": ["a"], "size": [n], "layout": [[0, n]],
                        "skeleton": [write.xxh3(b"")]}  # fmt: skip
    manifest["target"]["tensors"] = [n_tensors]
    row = {k: column[0] for k, column in manifest["tensors"].items()}
    row |= {"shape": [n // n_tensors], "base": 0, "new": 0}
    manifest["tensors"] = {k: [v] * n_tensors for k, v in row.items()}
    manifest["tensors"]["name"] = list(itertools.islice(names(), n_tensors))
    row = {"tensors": [0, n_tensors], "words": n // n_buckets, "base": write.xxh3(b""),
           "locators": "00" * n_tensors, "target": None, "sha256": None}  # fmt: skip
    manifest["buckets"] = {k: [v] * n_buckets for k, v in row.items()}
    return manifest


def shaped(n: int, n_sides: int, side: int | None = None) -> dict[str, Any]:
    """The manifest of `empties` with so many sides."""
    return empties([[0, *([side or 300 + i % 600] * n_sides)] for i in range(n)])


def empties(shapes: list[list[int]]) -> dict[str, Any]:
    """A manifest that is right, of empty tensors of these shapes, and one that is not empty."""
    manifest, n = write.anchor(), len(shapes)
    one = {k: column[0] for k, column in manifest["tensors"].items()} | {"new": 0}
    manifest["tensors"] = {k: [v] * n + manifest["tensors"][k] for k, v in one.items()}
    manifest["tensors"]["shape"] = [*shapes, [8]]
    manifest["target"]["tensors"] = [n + 1]
    manifest["buckets"]["tensors"] = [[n, 1]]
    return manifest


def tensors(n: int) -> bytes:
    """A patch from nothing to as many tensors of a byte."""
    entries = {"manifest": compress(dumped(manifest_of_tensors(n)), level=19)}
    return container(entries | {"skeleton.0": write.frame(), "bucket.0": write.zeros(n)})


def manifest_of_tensors(n: int) -> dict[str, Any]:
    """The manifest of `tensors`."""
    manifest = write.anchor(n=n)
    manifest["target"]["tensors"] = [n]
    one = {k: column[0] for k, column in manifest["tensors"].items()} | {"shape": [1], "new": 1}
    manifest["tensors"] = {k: [v] * n for k, v in one.items()}
    manifest["tensors"]["name"] = list(itertools.islice(names(), n))
    manifest["buckets"]["tensors"] = [[0, n]]
    return manifest


def pointers() -> dict[str, Make]:
    def pointer(**more: Any) -> bytes:
        return write.sealed(write.pointer() | more)

    def versions() -> bytes:
        row = write.pointer()["versions"][0]
        many = [row | {"version": i, "name": str(i)} for i in range(1, 2_700)]
        return pointer(versions=many, latest=2_699)

    return {"versions": versions} | {
        name: partial(lambda text: pointer(more=json.loads(text)), text)
        for name, text in texts(most=300_000).items()
        if name not in ("nested", "floats", "colons")
    }


def pickles() -> dict[str, bytes]:
    bodies = {
        "dicts": b"](" + b"}" * 980_000 + b"e",
        "marks": b"(" * 990_000,
        "calls": b"](" + b"c\n\n)R" * 190_000 + b"e",
        "tuples": b")" + b"\x85" * 990_000,
        "memo": b"}\x94" * 495_000,
        "shared": b"c\n\nq\0(" + b"N" * 480_000 + b"tq\1](" + b"h\0h\1R" * 95_000 + b"e",
        "instances": b"(i\n\n" * 240_000,
        "lists": b"](" + b"]" * 980_000 + b"e",
        "pairs": b"](" + b")\x85" * 490_000 + b"e",
        "sets": b"](" + b"(\x91" * 490_000 + b"e",
        "states": b"c\n\n)R" + b"}b" * 490_000,
        "keys": b"K\1" + b"Q" * 980_000,
        "copies": b"}" + b"2" * 990_000,
        "long": b"\x8b" + (980_000).to_bytes(4, "little") + b"\x7f" * 980_000,
        "digits": b"L" + b"9" * 980_000 + b"L\n",
        "indices": b"N"
        + b"".join(b"p%d\n" % (sys.hash_info.modulus * i) for i in range(1, 40_000)),
        "texts": b"](" + b"X\0\0\0\0" * 196_000 + b"e",
        "nested": b"}X\xf4\1\0\0" + b"a" * 500 + b"q\1" + b"}h\1" * 240_000 + b"N" + b"s" * 240_001,
    }
    return {name: b"\x80\2" + body + b"." for name, body in bodies.items()}


def legacy(pickle: bytes) -> bytes:
    """A file of torch before 1.6."""
    head = b"\x80\2\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19." + b"\x80\2M\xe9\x03."
    return head + b"\x80\2}X\x0d\0\0\0little_endian\x88s." + pickle + b"\x80\2]."


def gguf() -> dict[str, Make]:
    def file(n_tensors: int, n_values: int, body: bytes) -> bytes:
        return b"GGUF" + struct.pack("<IQQ", 3, n_tensors, n_values) + body

    def array(kind: int, item: bytes) -> bytes:
        n = (MAX_BYTES - 100) // len(item)
        return file(0, 1, struct.pack("<Q1sIIQ", 1, b"a", 9, kind, n) + item * n)

    described = b"".join(
        struct.pack("<Q", len(name)) + name.encode() + struct.pack("<IQIQ", 1, 0, 0, 0)
        for name in itertools.islice(names(), 26_000)
    )
    return {
        "strings": lambda: array(8, bytes(8)),
        "arrays": lambda: array(9, struct.pack("<IQIQ", 9, 1, 0, 0)),
        "values": lambda: file(0, 76_000, struct.pack("<QIB", 0, 0, 0) * 76_000),
        "tensors": lambda: file(26_000, 0, described + bytes(64)),
    }


def h5(messages: bytes) -> bytes:
    """A file whose root has a header of these messages."""
    size = 96 + 16 + len(messages)
    start = b"\x89HDF\r\n\x1a\n" + bytes([2, 8, 8, 0])
    start += struct.pack("<4Q", 0, (1 << 64) - 1, size, 96)
    return start.ljust(96, b"\0") + struct.pack("<BBHII4x", 1, 0, 0, 1, len(messages)) + messages


def reader(target: str) -> Callable[[bytes], object]:
    """The fuzzer's, but for pointers, of which that one makes others first."""
    if target == STORE:
        return verbs
    return catalog_json.parse if target == "pointer" else TARGETS[target].read


def status(what: str) -> int:
    """Bytes that the system counts for this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith(what + ":")]
    return int(line.split()[1]) << 10


def taken(target: str, make: Make) -> tuple[str, int, int, float]:
    """What came of an input, its bytes, the bytes of memory that it took, and seconds."""
    data = apart(make)  # what making it leaves behind could be used again
    said, peak, seconds = json.loads(apart(partial(read, target, data)) or '["!died", 0, 0]')
    return said, len(data), peak, seconds


def apart(call: Callable[[], bytes]) -> bytes:
    """What a call returns in a process of its own; nothing if it died."""
    inlet, outlet = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            with open(outlet, "wb") as stream:
                stream.write(call())
        finally:
            os._exit(0)
    os.close(outlet)
    with open(inlet, "rb") as stream:
        found = stream.read()
    os.waitpid(pid, 0)
    return found


def read(target: str, data: bytes) -> bytes:
    """Read an input, and say as JSON what came of it, the bytes of memory, and seconds."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, began, said = status("VmRSS"), os.times(), "taken"
    try:
        reader(target)(data)
    except TARGETS["pointer" if target == STORE else target].refusals as e:
        said = f"refused: {e}"[:150]
    except SparsediffError as e:
        said = f"!{type(e).__name__}: {e}"[:150]
    now = os.times()
    seconds = now.user - began.user + now.system - began.system
    return json.dumps((said, status("VmHWM") - before, seconds)).encode()


def main() -> int:
    """Print all of them, or those of the targets that are named; 1 if one takes too much."""
    wrong = 0
    for target, ideas in costly().items():
        for idea, make in ideas.items():
            if sys.argv[1:] and target not in sys.argv[1:]:
                continue
            said, n_bytes, peak, seconds = taken(target, make)
            bad = peak > MAX_PEAK or seconds > MAX_SECONDS or said.startswith("!")
            wrong += bad
            row = (
                f"{target:12} {idea:10} {n_bytes:8,} B {peak / (1 << 20):4.0f} MiB {seconds:5.2f} s"
            )
            print(f"{'!' if bad else ' '} {row}  {said}", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
