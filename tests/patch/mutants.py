"""Mutants of a patch: bytes, manifest, payloads, zstd frames; most with their checksums made right.

A mutant whose payload still decodes also gets the target's checksum made right, so that the two
readers are compared in what they decode and not only in what they refuse.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import xxhash
import zstandard

from tests import oracle
from tests.patch.rewriting import Parts, dumped

_INTS = (0, 1, 2, 3, 2**24, 2**26, 2**27, 2**53, 2**53 + 1, 2**63, 2**63 + 1, 2**64, -1, -(2**53))
_NAMES: tuple[str, ...] = (
    "",
    "a",
    "a/b",
    "../a",
    "/a",
    "a/",
    "a\\b",
    "c:x",
    "\u00e9",
    "\x7f",
    "\ud800",
    ".",
)
_NAMES += (".x.sparsediff-tmp", ".x.sparsediff-tmp.", ".x.sparsediff-tmp.7", ".x.sparsediff-tmp7")
_NAMES += ("x" * 255, "x" * 256, "\u00e9" * 128, "d/" * 99 + "x", "d/" * 100 + "x", "a\0b")
_OTHERS: tuple[Any, ...] = (None, True, 1.0, "x", [], {}, [0], "0" * 32, "0" * 64)


def mutants(base: dict[str, bytes], patch: bytes, n: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """``n`` mutants of a patch, each with a name that says what was done."""
    rng = random.Random(seed)
    kinds: list[Callable[[dict[str, bytes], bytes, random.Random], bytes]]
    kinds = [_raw, _text, _value, _value, _row, _payload, _payload, _payload, _frame]
    for i in range(n):
        kind = kinds[i % len(kinds)]
        yield f"{seed}.{i}{kind.__name__}", kind(base, patch, rng)


def _raw(_: dict[str, bytes], patch: bytes, rng: random.Random) -> bytes:
    return _bytes(patch, rng, 400 if rng.random() < 0.5 else len(patch))


def _text(_: dict[str, bytes], patch: bytes, rng: random.Random) -> bytes:
    parts = Parts.of(patch)
    text = dumped(parts.manifest)
    if rng.random() < 0.5:
        return parts.patch(text=_bytes(text, rng, len(text)))
    i = rng.randrange(len(text))
    extra = rng.choice([b" ", b"0", b"-", b".0", b"e0", b"\\u0061", b"[],", b'"":0,', b"NaN", b"/"])
    return parts.patch(text=text[:i] + extra + text[i + rng.randrange(2) :])


def _value(_: dict[str, bytes], patch: bytes, rng: random.Random) -> bytes:
    parts = Parts.of(patch)
    for _again in range(rng.choice([1, 1, 1, 2])):
        table = parts.manifest[rng.choice(list(parts.manifest))]
        name = rng.choice(list(table))
        if name == "directory":
            table[name] = rng.choice([not table[name], 0, 1, None])
        elif table[name]:
            row = rng.randrange(len(table[name]))
            table[name][row] = _other(table[name][row], rng, name == "name")
    return _put(parts)


def _row(_: dict[str, bytes], patch: bytes, rng: random.Random) -> bytes:
    parts = Parts.of(patch)
    table = parts.manifest[rng.choice(list(parts.manifest))]
    columns = [c for c in table.values() if type(c) is list]
    what, size = rng.randrange(6), len(columns[0])
    if what == 0:
        del table[rng.choice(list(table))]
    elif what == 1:
        table[rng.choice(["x", "zz"])] = rng.choice(columns)
    elif what == 2:
        del parts.manifest[rng.choice(list(parts.manifest))]
    elif size:
        i, j = rng.randrange(size), rng.randrange(size)
        for column in columns:
            if what == 3:
                del column[i]
            elif what == 4:
                column.insert(j, column[i])
            else:
                column[i], column[j] = column[j], column[i]
    return _put(parts)


def _payload(base: dict[str, bytes], patch: bytes, rng: random.Random) -> bytes:
    parts = Parts.of(patch)
    if not parts.payloads:
        return patch
    name = rng.choice(list(parts.payloads))
    payload = parts.payloads[name]
    # Where tables and counts are, half of the time.
    parts.payloads[name] = _bytes(payload, rng, 40 if rng.random() < 0.5 else len(payload))
    _believe(base, parts, name)
    return parts.patch()


def _frame(base: dict[str, bytes], patch: bytes, rng: random.Random) -> bytes:
    """A frame whose header says the same, or nearly, in another way."""
    parts = Parts.of(patch)
    frames = [n for n, p in parts.payloads.items() if n[0] == "s" or p[:1] in (b"\x02", b"\x03")]
    name = rng.choice(["manifest", *frames])
    if name == "manifest":
        return parts.patch(frame=_reframed(zstandard.compress(dumped(parts.manifest)), rng))
    payload = parts.payloads[name]
    mode = b"" if name[0] == "s" else payload[:1]
    parts.payloads[name] = mode + _reframed(payload[len(mode) :], rng)
    _believe(base, parts, name)
    return parts.patch()


def _reframed(frame: bytes, rng: random.Random) -> bytes:
    known = zstandard.get_frame_parameters(frame)
    head = zstandard.frame_header_size(frame)
    body, size = frame[head:], known.content_size
    descriptor = frame[4] & 4  # whether a checksum follows
    content = b""
    width = rng.choice([w for w in (0, 1, 2, 3) if size < 256 ** (1 << w) or w == 3])
    if width == 1 and size < 256:
        width = 2
    single = width == 0 or rng.random() < 0.5
    if single:
        descriptor |= 0x20
    else:
        content = bytes([rng.choice([80, 96, 17 << 3, (17 << 3) + 1, 21 << 3, 255])])
    flag = rng.choice([0, 0, 1, 2, 3])
    content += bytes((0, 1, 2, 4)[flag])
    if flag and rng.random() < 0.3:
        content = content[:-1] + b"\1"
    stated = size + rng.choice([0, 0, 0, 0, 0, 1, -1 if size else 0])
    number = (1, 2, 4, 8)[width]
    content += (stated - (256 if width == 1 else 0)).to_bytes(number, "little", signed=False)
    descriptor |= width << 6 | flag | rng.choice([0, 0, 0, 0, 8, 16])
    tail = rng.choice([b""] * 6 + [b"\0", frame, b"\x50\x2a\x4d\x18\0\0\0\0"])
    front = rng.choice([b""] * 6 + [b"\x50\x2a\x4d\x18\0\0\0\0"])
    blocks = rng.choice([0, 0, 0, 1, 5]) * b"\0\0\0"  # raw blocks of nothing
    return front + frame[:4] + bytes([descriptor]) + content + blocks + body + tail


def _put(parts: Parts) -> bytes:
    try:
        return parts.patch()
    except (LookupError, TypeError, AttributeError):  # digests have no place any more
        return Parts(parts.manifest, {}).patch()


def _bytes(data: bytes, rng: random.Random, near: int) -> bytes:
    """A byte or two changed, added, taken out, or the rest cut off; before ``near``."""
    out = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2])):
        i = rng.randrange(max(1, min(near, len(out))))
        what = rng.randrange(12)
        if what < 4 and i < len(out):
            out[i] ^= 1 << rng.randrange(8)
        elif what < 7 and i < len(out):
            out[i] = (out[i] + rng.choice([1, -1])) % 256
        elif what < 8 and i < len(out):
            out[i] = rng.randrange(256)
        elif what < 9:
            out.insert(i, rng.choice([0, 128, 255, rng.randrange(256)]))
        elif what < 10:
            del out[i : i + 1]
        elif what < 11:
            out += bytes([rng.choice([0, rng.randrange(256)])])
        else:
            del out[i:]
    return bytes(out)


def _other(value: Any, rng: random.Random, is_name: bool) -> Any:
    if rng.random() < 0.1:
        return rng.choice(_OTHERS)
    if type(value) is int:
        return rng.choice([*_INTS, value + 1, value - 1, value * 2, value // 2, -value])
    if type(value) is list:
        out = list(value)
        i = rng.randrange(len(out) + 1)
        if rng.randrange(3) and i < len(out):
            out[i] = _other(out[i], rng, False)
        elif rng.randrange(2):
            out.insert(i, rng.choice([0, 1, *_INTS]))
        else:
            del out[i : i + 1]
        return out
    if type(value) is str:
        if is_name:
            return rng.choice(_NAMES)
        i = rng.randrange(len(value) + 1)
        return rng.choice(
            [
                None,
                value.upper(),
                value[:i] + value[i + 1 :],
                value[:i] + rng.choice("0af gG\u0660") + value[i + 1 :],
                value + rng.choice(["0", "00", "\n"]),
                rng.choice(list(oracle.DTYPES)),
            ]
        )
    return rng.choice([*_INTS, "0" * 32, "0" * 64])


def _believe(base: dict[str, bytes], parts: Parts, name: str) -> None:
    """Make the checksum of what ``name`` decodes to right, if it decodes to anything."""
    kind, index = name.split(".")
    manifest, i = parts.manifest, int(index)
    old, new, buckets = (manifest[t] for t in ("base", "target", "buckets"))
    tensors = oracle.place_tensors(manifest)
    try:
        if kind == "bucket":
            placed = oracle.place_buckets(buckets, tensors)[i]
            sizes, dtype = oracle.part_sizes(tensors, placed), tensors[placed[0][0]].dtype
            before = oracle.base_words(base, old, tensors, placed) if buckets["base"][i] else None
            words = oracle.decode_bucket(parts.payloads[name], before, sum(sizes), dtype)
            buckets["target"][i] = oracle.checksum(words, sizes)
        else:
            row = new["dictionary"][i]
            dictionary = b"" if row is None else oracle.base_skeleton(base, old, row)
            size = oracle.skeleton_length(new, tensors, i)
            skeleton = oracle.frame(parts.payloads[name], size, size, dictionary)
            new["skeleton"][i] = xxhash.xxh3_128_hexdigest(skeleton)
    except oracle.Refused:
        pass
