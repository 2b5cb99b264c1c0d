"""An independent reader of the patch format, used by the tests as an oracle.

It is written from docs/format.md alone and shares no code with the package: plain
integers, bytes and loops, clarity before speed. `apply` returns the target's files or
raises `Refused`.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import xxhash
import zstandard

# dtype: bits of an element, bytes of a word, kind, mantissa bits
DTYPES: dict[str, tuple[int, int, str, int]] = {
    **dict.fromkeys(("BOOL", "U8", "F8_E8M0"), (8, 1, "unsigned", 0)),
    "I8": (8, 1, "signed", 0),
    "F4": (4, 1, "unsigned", 0),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), (6, 1, "unsigned", 0)),
    **dict.fromkeys(("F8_E5M2", "F8_E5M2FNUZ"), (8, 1, "float", 2)),
    **dict.fromkeys(("F8_E4M3", "F8_E4M3FNUZ"), (8, 1, "float", 3)),
    **{f"U{w}": (w, w // 8, "unsigned", 0) for w in (16, 32, 64)},
    **{f"I{w}": (w, w // 8, "signed", 0) for w in (16, 32, 64)},
    "F16": (16, 2, "float", 10),
    "BF16": (16, 2, "float", 7),
    "F32": (32, 4, "float", 23),
    "C64": (64, 4, "float", 23),
    "F64": (64, 8, "float", 52),
}
# table: column: what its values look like ("?" or null)
COLUMNS = {
    "base": {"name": "text", "size": "int", "layout": "ints", "skeleton": "hex32"},
    "target": {"name": "text", "size": "int", "tensors": "int", "skeleton": "hex32",
               "dictionary": "int?", "sha256": "hex64?"},
    "tensors": {"name": "text", "dtype": "text", "shape": "ints", "skip": "int", "base": "int?",
                "base_skip": "signed", "new": "int", "changed": "int", "wider": "int",
                "median": "step", "largest": "step"},
    "buckets": {"tensors": "ints", "words": "int", "base": "hex32?", "locators": "text",
                "target": "hex32?", "sha256": "hex64?"},
}  # fmt: skip


class Refused(Exception):  # noqa: N818 - reads as what it says
    """The patch breaks the format, or the base is not the one it was made from."""


class Table(NamedTuple):
    """A frequency table: the symbol of each slot, f(s) and F(s)."""

    slots: bytes
    f: list[int]
    F: list[int]


class Tensor(NamedTuple):
    """Where a target tensor and its base are; a cursor for each side (with base, new)."""

    file: int
    dtype: str
    offset: int
    base: int | None
    base_offset: int
    cursors: list[int]
    ends: list[int]


class Source:
    """A payload read front to back, never past its end."""

    def __init__(self, data: bytes) -> None:
        """Start at the first byte of data."""
        self.data, self.at = data, 0

    def take(self, size: int) -> bytes:
        """Return the next size bytes."""
        need(size <= len(self.data) - self.at, "payload ends early")
        self.at += size
        return self.data[self.at - size : self.at]

    def varint(self) -> int:
        """Read a LEB128 number of at most 9 bytes."""
        value = 0
        for i in range(9):
            byte = self.take(1)[0]
            value |= (byte & 127) << (7 * i)
            if byte < 128:
                return value
        raise Refused("varint too long")


def need(ok: object, why: str) -> None:
    """Refuse unless ok."""
    if not ok:
        raise Refused(why)


def frame_sizes(data: bytes) -> tuple[int, int]:
    """Return the content size that a zstd frame states, and the window it needs."""
    src = Source(data)
    need(src.take(4) == b"\x28\xb5\x2f\xfd", "not a zstd frame")
    descriptor = src.take(1)[0]
    single = bool(descriptor & 0x20)
    exponent, mantissa = divmod(0 if single else src.take(1)[0], 8)
    window = (8 + mantissa) << (exponent + 7)
    need(not any(src.take((0, 1, 2, 4)[descriptor & 3])), "zstd: names a dictionary")
    field = src.take((int(single), 2, 4, 8)[descriptor >> 6])
    need(field, "zstd: states no size")
    size = int.from_bytes(field, "little") + (256 if len(field) == 2 else 0)
    return size, size if single else window


def frame(data: bytes, low: int, high: int, dictionary: bytes = b"") -> bytes:
    """Decompress exactly one zstd frame that states a size from low to high."""
    size, window = frame_sizes(data)
    need(low <= size <= high, "zstd: stated size")
    need(window <= 2**27, "zstd: window")
    raw = zstandard.DICT_TYPE_RAWCONTENT
    known = zstandard.ZstdCompressionDict(dictionary, raw) if dictionary else None
    decoder = zstandard.ZstdDecompressor(known).decompressobj()
    try:
        out = decoder.decompress(data)
    except zstandard.ZstdError as error:
        raise Refused(f"zstd: {error}") from error
    need(decoder.eof and not decoder.unused_data, "zstd: cut off, or something after the frame")
    need(len(out) == size, "zstd: size")
    return out


def container(patch: bytes) -> tuple[bytes, dict[str, bytes]]:
    """Check the header; return the manifest's text and the payloads by name, in order."""
    n = int.from_bytes(patch[:8], "little")
    need(len(patch) >= 8 and n <= 2**24 and 8 + n <= len(patch), "header's length")
    entries: dict[str, bytes] = {}
    try:
        header = json.loads(patch[8 : 8 + n].decode("ascii"))
        mac = {"format": "sparsediff", "manifest_xxh3": "", "version": "1"}
        need(header["__metadata__"]["version"] == "1", "version")
        rebuilt: dict[str, Any] = {"__metadata__": mac}
        end = 0
        for name in list(header)[1:]:
            start, end = end, header[name]["data_offsets"][1]
            need(type(end) is int and start <= end <= len(patch) - 8 - n, "offsets")
            size, entries[name] = end - start, patch[8 + n + start : 8 + n + end]
            rebuilt[name] = {"dtype": "U8", "shape": [size], "data_offsets": [start, end]}
        manifest = entries.pop("manifest")
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise Refused("header") from error
    mac["manifest_xxh3"] = xxhash.xxh3_128_hexdigest(manifest)
    text = json.dumps(rebuilt, separators=(",", ":")).encode()
    need(list(rebuilt)[1] == "manifest", "header: manifest is not first")
    need(text + b" " * (-len(text) % 8) == patch[8 : 8 + n], "header is not canonical")
    need(8 + n + end == len(patch), "bytes after the last entry")
    need(len(manifest) <= 2**25, "manifest: size")
    for name, payload in entries.items():
        limit = 2**27 if name.startswith("skeleton.") else 2**26
        need(len(payload) <= limit + 2**20, f"{name}: size")
    return frame(manifest, 0, 2**25), entries


def fits(value: Any, kind: str) -> bool:
    """Whether a manifest value is of a kind of COLUMNS."""
    if kind[-1] == "?":
        return value is None or fits(value, kind[:-1])
    if kind == "ints":
        return type(value) is list and all(fits(v, "int") for v in value)
    if kind in ("int", "signed", "step"):
        low = -(2**53) if kind == "signed" else 0
        return type(value) is int and low <= value <= (2**63 if kind == "step" else 2**53)
    if kind == "text":
        return type(value) is str and not any("\ud800" <= c <= "\udfff" for c in value)
    return type(value) is str and bool(re.fullmatch(f"[0-9a-f]{{{kind[3:]}}}", value))


def check_names(names: list[str], directory: bool) -> None:
    """Refuse names that could leave the directory or collide."""
    need(directory or names == [""], "a single file's name")
    for name in names if directory else []:
        parts = name.split("/")
        need(all(p not in ("", ".", "..") and len(p.encode()) <= 255 for p in parts), "name")
        need(len(name.encode()) <= 4095 and len(parts) <= 100, "name: length")
        temp = r"(\..*)?\.sparsediff-tmp(\.[0-9]+)?"
        need(not any(re.fullmatch(temp, p, re.DOTALL) for p in parts), "name: temporary")
        need("\\" not in name and "\0" not in name, "name: character")
        need(all(p[1:2] != ":" for p in parts), "name: drive")
        above = {"/".join(parts[:i]) for i in range(1, len(parts))}
        need(above.isdisjoint(names), "name: a file is a directory of another")
    need(len(set(names)) == len(names), "names are not different")


def parse_manifest(text: bytes) -> dict[str, dict[str, Any]]:
    """Parse the manifest; check its canonical form, columns, types and names."""
    try:
        manifest = json.loads(text.decode("ascii"))
        again = json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()
    except (ValueError, RecursionError) as error:
        raise Refused("manifest") from error
    need(again == text and type(manifest) is dict, "manifest is not canonical")
    outside, strings = re.subn(rb'"(?:[^"\\]|\\.)*"', b"", text)
    need(outside.count(b"[") + outside.count(b"{") <= 64 + strings, "manifest: lists")
    need(set(manifest) == set(COLUMNS), "manifest: objects")
    for name, columns in COLUMNS.items():
        table, flag = manifest[name], {"directory"} if name in ("base", "target") else set()
        need(type(table) is dict and set(table) == set(columns) | flag, f"{name}: columns")
        need(all(type(table[column]) is list for column in columns), f"{name}: columns")
        need(len({len(table[column]) for column in columns}) == 1, f"{name}: lengths")
        for column, kind in columns.items():
            need(all(fits(value, kind) for value in table[column]), f"{name}.{column}")
        if flag:
            need(type(table["directory"]) is bool, f"{name}.directory")
            check_names(table["name"], table["directory"])
    files: dict[str, Any] = manifest["base"]
    for size, layout in zip(files["size"], files["layout"], strict=True):
        need(
            layout and all(layout[1:]) and sum(layout) == size and sum(layout[::2]) <= 2**27,
            "base: layout",
        )
    return manifest  # type: ignore[no-any-return]


def place_tensors(manifest: dict[str, dict[str, Any]]) -> list[Tensor]:
    """Work out where all tensors and their bases are."""
    base, target, rows = manifest["base"], manifest["target"], manifest["tensors"]
    need(sum(target["tensors"]) == len(rows["name"]), "target: number of tensors")
    tensors: list[Tensor] = []
    base_ends: dict[int, int] = {}
    for file, count in enumerate(target["tensors"]):
        at = skeleton = 0
        for row in range(len(tensors), len(tensors) + count):
            dtype, new, source = (rows[c][row] for c in ("dtype", "new", "base"))
            need(dtype in DTYPES and (source is None or source < len(base["name"])), "tensor")
            bits, width = DTYPES[dtype][0] * prod(rows["shape"][row]), DTYPES[dtype][1]
            words = bits // 8 // width
            need(bits % (8 * width) == 0 and new <= words, "tensor: size")
            changed, wider = rows["changed"][row], rows["wider"][row]
            need(wider <= changed <= words - new, "tensor: changed and wider")
            at += rows["skip"][row]
            skeleton += rows["skip"][row]
            start = rows["base_skip"][row]
            if source is None:
                need(start == 0 and new == words, "tensor without base")
            else:
                start += base_ends.get(source, 0)
                base_ends[source] = start + (words - new) * width
                need(0 <= start < base_ends[source] <= base["size"][source], "base range")
            sides = [0, words - new], [words - new, words]
            tensors.append(Tensor(file, dtype, at, source, start, *sides))
            at += words * width
        skeleton += target["size"][file] - at
        need(at <= target["size"][file] and skeleton <= 2**27, "target: size")
    return tensors


def place_buckets(buckets: dict[str, Any], tensors: list[Tensor]) -> list[list[list[int]]]:
    """For each bucket its parts: tensor, first word, number of words."""
    placed: list[list[list[int]]] = []
    last = 0
    for k, runs in enumerate(buckets["tensors"]):
        base, target, words = (buckets[c][k] for c in ("base", "target", "words"))
        need((base or target) and base != target, "bucket: base and target")
        need((target is None) == (buckets["sha256"][k] is None), "bucket: sha256")
        need(runs and len(runs) % 2 == 0 and words > 0, "bucket: tensors")
        rows: list[int] = []
        for first, length in zip(runs[::2], runs[1::2], strict=True):
            fine = length > 0 and (not rows or first > rows[-1] + 1)
            need(fine and first + length <= len(tensors), "bucket: runs")
            rows += range(first, first + length)
        head, side, parts = tensors[rows[0]], 0 if base else 1, []
        for row in rows:
            t = tensors[row]
            need((t.file, t.dtype) == (head.file, head.dtype), "bucket: one file and dtype")
            count = min(words, t.ends[side] - t.cursors[side])
            need(count > 0, "bucket: takes nothing from a tensor")
            parts.append([row, t.cursors[side], count])
            t.cursors[side] += count
            words -= count
        need(words == 0 and head.file >= last, "bucket: words, or not in the files' order")
        form = f"[0-9a-f]{{{2 * len(rows) if base else 0}}}"
        need(re.fullmatch(form, buckets["locators"][k]), "bucket: locators")
        total = buckets["words"][k]
        need(total <= 2**24 and total * DTYPES[head.dtype][1] <= 2**26, "bucket: size")
        last = head.file
        placed.append(parts)
    need(all(t.cursors == t.ends for t in tensors), "words that no bucket takes")
    return placed


def make_table(f: list[int]) -> Table:
    """Complete a table from its 256 frequencies."""
    slots = b"".join(bytes([s]) * f[s] for s in range(256))
    return Table(slots, f, [sum(f[:s]) for s in range(256)])


def stored_table(src: Source, symmetric: bool) -> Table:
    """Read a stored table, symmetric or not."""
    first, last = src.take(2)
    need(first <= last < (128 if symmetric else 256), "table: symbols")
    numbers = [src.varint() for _ in range(first, last)]
    numbers.append((2048 if symmetric else 4096) - sum(numbers))
    need(numbers[-1] >= 1, "table: sum")
    f = [0] * 256
    for c, number in enumerate(numbers, first):
        for s in (2 * c, 2 * c + 1) if symmetric else (c,):
            f[s] = 4 * number
    return make_table(f)


def geometric_table(n: int, m: int) -> Table:
    """Make the gap table of m members of n marked at random."""
    b = (n - m).bit_length() - 1
    z = 1 if b == 0 else 2 * b + (((n - m) >> (b - 1)) & 1)
    s = [2**32, 2**32 * (n - m) // n]
    for b in range(1, z // 2 + 1):
        p = s[1] if b == 1 else s[2 * b - 2]
        s.append(p * p >> 32)
        s.append(s[2 * b] * p >> 32)
    s = [*s[: z + 1], 0]
    f = [max(1, (s[c] - s[c + 1]) >> 18) for c in range(z + 1)]
    f[f.index(max(f))] += 2**14 - sum(f)
    return make_table(f + [0] * (256 - len(f)))


def read_symbols(data: bytes, lanes: int, runs: list[tuple[Table, int]]) -> list[list[int]]:
    """Decode so many symbols of each table, one run after the other."""
    src = Source(data)
    x = [int.from_bytes(src.take(4), "little") for _ in range(lanes)]
    need(min(x) >= 2**16, "first state")
    out: list[list[int]] = []
    j = 0
    for table, count in runs:
        out.append([])
        for _ in range(count):
            slot = x[j] & 16383
            s = table.slots[slot]
            x[j] = table.f[s] * (x[j] >> 14) + slot - table.F[s]
            if x[j] < 2**16:
                x[j] = x[j] << 16 | int.from_bytes(src.take(2), "little")
            out[-1].append(s)
            j = (j + 1) % lanes
    need(set(x) == {2**16} and src.at == len(data), "entropy coding does not end well")
    return out


def read_numbers(src: Source, classes: Sequence[int]) -> list[int]:
    """Read the extra bits that belong to these class numbers and return the numbers."""
    need(all(c < 128 for c in classes), "class number")
    data = src.take((sum(max(c // 2 - 1, 0) for c in classes) + 7) // 8)
    out: list[int] = []
    at = 0
    for c in classes:
        bits = max(c // 2 - 1, 0)
        cut = int.from_bytes(data[at // 8 : (at + bits + 7) // 8], "little") >> (at % 8)
        out.append(((2 + c % 2) << bits if c > 1 else c) + cut % 2**bits)
        at += bits
    need(at % 8 == 0 or data[-1] >> (at % 8) == 0, "extra bits: filling")
    return out


def key(w: int, s: int, kind: str) -> int:
    """Return the key of the word w; s is its topmost bit."""
    return w if kind == "unsigned" else w ^ (2 * s - 1) if kind == "float" and w & s else w ^ s


def unkey(k: int, s: int, kind: str) -> int:
    """Return the word of the key k."""
    return k if kind == "unsigned" else k ^ (2 * s - 1) if kind == "float" and k < s else k ^ s


def decode_tiers(src: Source, base: bytes, dtype: str) -> bytes:
    """Decode the rest of a payload of mode 1."""
    _, width, kind, mantissa = DTYPES[dtype]
    top, words = 1 << (8 * width - 1), len(base) // width
    shift = 0 if width == 1 else mantissa
    classes = top >> shift if kind == "float" else 1
    count = src.varint()
    need(1 <= count <= min(64, classes), "number of tiers")
    widths = [src.varint() for _ in range(count - 1)]
    need(0 not in widths and sum(widths) < classes, "widths")
    tier_of = [t for t, size in enumerate(widths) for _ in range(size)]
    tier_of += [count - 1] * (classes - len(tier_of))
    members: list[Sequence[int]] = [range(words)]
    if count > 1:
        found: list[list[int]] = [[] for _ in range(count)]
        for i in range(words):
            word = int.from_bytes(base[i * width : (i + 1) * width], "little")
            found[tier_of[(word & (top - 1)) >> shift]].append(i)
        members = list(found)
    changing: list[tuple[int, Sequence[int]]] = []
    runs: list[tuple[Table, int]] = []
    for those in members:
        n, k = src.varint(), src.varint()
        need(n == len(those) and k <= n, "members of a tier")
        if k:
            m = min(k, n - k)
            kinds = src.take(1)[0]
            need(kinds >> 1 <= 2 and (m or not kinds & 1), "kinds of tables")
            gaps = make_table([0] * 256)
            if m:
                gaps = stored_table(src, False) if kinds & 1 else geometric_table(n, m)
            need(kinds >> 1 < 2 or runs, "no step table before")
            steps = runs[-1][0] if kinds >> 1 == 2 else stored_table(src, kinds >> 1 == 1)
            runs += [(gaps, m), (steps, k)]
            changing.append((k, those))
    need(runs, "nothing changed")
    lanes = src.take(1)[0]
    total = sum(count for _, count in runs)
    need(lanes == min(max(total.bit_length() - 13, 0), 11), "lanes")
    symbols = read_symbols(src.take(src.varint()), 1 << lanes, runs)
    out = bytearray(base)
    for t, (k, those) in enumerate(changing):
        marked, at = [], -1
        for gap in read_numbers(src, symbols[2 * t]):
            at += gap + 1
            need(at < len(those), "gap")
            marked.append(at)
        if 2 * k > len(those):
            unchanged = set(marked)
            marked = [i for i in range(len(those)) if i not in unchanged]
        values = read_numbers(src, [s // 2 for s in symbols[2 * t + 1]])
        for i, v, s in zip(marked, values, symbols[2 * t + 1], strict=True):
            step = -v - 1 if s % 2 else v + 1
            need(-top <= step < top, "step")
            here = slice(those[i] * width, (those[i] + 1) * width)
            old = key(int.from_bytes(base[here], "little"), top, kind)
            out[here] = unkey((old + step) % (2 * top), top, kind).to_bytes(width, "little")
    need(src.at == len(src.data), "bytes after the extra bits")
    return bytes(out)


def decode_bucket(payload: bytes, base: bytes | None, size: int, dtype: str) -> bytes:
    """Decode a bucket of size bytes."""
    src = Source(payload)
    mode = src.take(1)[0]
    need(mode in ((1, 2, 3) if base is not None else (2,)), "mode")
    if mode == 1:
        return decode_tiers(src, base or b"", dtype)
    planes, out, width = frame(payload[1:], size, size), bytearray(size), DTYPES[dtype][1]
    for i in range(width):
        out[i::width] = planes[i * (size // width) : (i + 1) * (size // width)]
    if mode == 3:
        both = int.from_bytes(out, "little") ^ int.from_bytes(base or b"", "little")
        return both.to_bytes(size, "little")
    return bytes(out)


def checksum(data: bytes, sizes: list[int]) -> str:
    """Return the checksum of a bucket's words, whose parts are so long."""
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    sums = [xxhash.xxh3_128_digest(data[e - n : e]) for e, n in zip(ends, sizes, strict=True)]
    return xxhash.xxh3_128_hexdigest(b"".join(sums))


def base_file(base: dict[str, bytes], files: dict[str, Any], row: int) -> bytes:
    """Return a file of the base."""
    data = base.get(files["name"][row], b"")
    need(files["name"][row] in base and len(data) == files["size"][row], "wrong base: file")
    return data


def base_skeleton(base: dict[str, bytes], files: dict[str, Any], row: int) -> bytes:
    """Cut the skeleton out of a file of the base."""
    data, at, out = base_file(base, files, row), 0, b""
    for i, length in enumerate(files["layout"][row]):
        out += data[at : at + length] if i % 2 == 0 else b""
        at += length
    need(xxhash.xxh3_128_hexdigest(out) == files["skeleton"][row], "wrong base: skeleton")
    return out


def part_sizes(tensors: list[Tensor], parts: list[list[int]]) -> list[int]:
    """Return the size of each part of a bucket in bytes."""
    return [words * DTYPES[tensors[row].dtype][1] for row, _, words in parts]


def base_words(
    base: dict[str, bytes], files: dict[str, Any], tensors: list[Tensor], parts: list[list[int]]
) -> bytes:
    """Gather the base words of a bucket."""
    out = b""
    for (row, first, _), size in zip(parts, part_sizes(tensors, parts), strict=True):
        start = tensors[row].base_offset + first * DTYPES[tensors[row].dtype][1]
        out += base_file(base, files, tensors[row].base or 0)[start : start + size]
    return out


def skeleton_length(target: dict[str, Any], tensors: list[Tensor], file: int) -> int:
    """Return the length of a target file's skeleton."""
    lengths = [t.ends[1] * DTYPES[t.dtype][1] for t in tensors if t.file == file]
    return int(target["size"][file]) - sum(lengths)


def apply(base: dict[str, bytes], patch: bytes) -> dict[str, bytes]:
    """Return the target's files by name ("" for a single file)."""
    text, payloads = container(patch)
    manifest = parse_manifest(text)
    tensors = place_tensors(manifest)
    old, new, buckets = (manifest[name] for name in ("base", "target", "buckets"))
    placed = place_buckets(buckets, tensors)
    sums: dict[str, str] = {}
    for i in range(len(new["name"])):
        sums[f"skeleton.{i}"] = new["sha256"][i]
        for k, parts in enumerate(placed):
            if tensors[parts[0][0]].file == i:
                sums[f"bucket.{k}"] = buckets["sha256"][k]
    need(list(payloads) == [name for name in sums if sums[name]], "payloads")
    for name, payload in payloads.items():
        need(hashlib.sha256(payload).hexdigest() == sums[name], f"{name}: sha256")

    files: list[bytearray] = []
    for i, size in enumerate(new["size"]):
        here, row = [t for t in tensors if t.file == i], new["dictionary"][i]
        need(row is None or row < len(old["name"]), "dictionary")
        length = skeleton_length(new, tensors, i)
        skeleton = b"" if row is None else base_skeleton(base, old, row)
        if new["sha256"][i]:
            skeleton = frame(payloads[f"skeleton.{i}"], length, length, skeleton)
        else:
            need(row is not None and new["skeleton"][i] == old["skeleton"][row], "no skeleton")
        need(len(skeleton) == length, "skeleton: size")
        need(xxhash.xxh3_128_hexdigest(skeleton) == new["skeleton"][i], "skeleton: checksum")
        files.append(bytearray(size))
        at = used = 0
        for t in here:
            files[i][at : t.offset] = skeleton[used : used + t.offset - at]
            used += t.offset - at
            at = t.offset + t.ends[1] * DTYPES[t.dtype][1]
        files[i][at:] = skeleton[used:]

    for k, parts in enumerate(placed):
        head = tensors[parts[0][0]]
        sizes = part_sizes(tensors, parts)
        before = base_words(base, old, tensors, parts) if buckets["base"][k] else None
        if before is not None:
            need(checksum(before, sizes) == buckets["base"][k], "wrong base: words")
        result = before or b""
        if buckets["target"][k]:
            result = decode_bucket(payloads[f"bucket.{k}"], before, sum(sizes), head.dtype)
            need(checksum(result, sizes) == buckets["target"][k], "target's checksum")
        at = 0
        for (r, first, _), size in zip(parts, sizes, strict=True):
            start = tensors[r].offset + first * DTYPES[head.dtype][1]
            files[head.file][start : start + size] = result[at : at + size]
            at += size
    return dict(zip(new["name"], map(bytes, files), strict=True))
