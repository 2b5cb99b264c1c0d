"""What hostile bytes are given to: one row for each reader.

A target makes a whole input of the bytes first, checksums included, so that these are no wall
between a mutant and the parser behind. Where an independent reader is at hand, both must agree.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import random
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from sparsediff import make_patch, verify_patch
from sparsediff.checkpoint import Checkpoint, CheckpointFile
from sparsediff.checkpoint.formats import find_references, find_spans, pickles
from sparsediff.checksum import Verified
from sparsediff.codec import bucket
from sparsediff.codec.zstd import compress, decompress, stated_size
from sparsediff.disk.inputs import InputFile
from sparsediff.dtypes import DTYPES, DType
from sparsediff.errors import CorruptError, SparsediffError, UnsupportedError, UsageError
from sparsediff.kernels import steps
from sparsediff.make.part import Part
from sparsediff.patch import manifest_json
from sparsediff.patch.entries import compose_header
from sparsediff.patch.signed import Signed
from sparsediff.shipping import acks, catalog_json, parts, state
from sparsediff.signing import trust
from sparsediff.signing.keys import public_key
from sparsediff.stores import Stored
from sparsediff.version import __version__
from tests import oracle
from tests.checkpoint.test_archives import tar_bytes, zip_bytes
from tests.checkpoint.test_arrays import npy_bytes
from tests.checkpoint.test_gguf import F32, Q8_0, VOCABULARY, gguf_bytes
from tests.fuzz.inputs import MemoryInput
from tests.fuzz.watch import FindingError, unwatched
from tests.hostile import write as hostile
from tests.patch.mutants import mutants
from tests.patch.rewriting import EXIT_CODES, Parts
from tests.support import h5files, torchfiles
from tests.support.kernel_paths import paths, using
from tests.support.pairs import RNG, safetensors_bytes, tree

GOLDEN = Path(__file__).parents[1] / "golden"
_WORDS = 300  # of a bucket, at most; the independent reader takes 10 µs for each


@dataclass(frozen=True)
class Target:
    """A reader.

    Attributes:
        group: what kind of thing it reads.
        read: returns, or raises one of ``refusals``.
        seeds: valid inputs, and inputs that were once of interest.
        refusals: the errors it may raise.
        mutate: makes a mutant of an input with a random number; None: bytes are changed anyhow.
    """

    group: str
    read: Callable[[bytes], object]
    seeds: Callable[[], list[bytes]]
    refusals: tuple[type[SparsediffError], ...] = (CorruptError, UnsupportedError)
    mutate: Callable[[bytes, int], bytes] | None = None


def _agree(what: str, ours: object, theirs: object) -> None:
    if ours != theirs:
        raise FindingError(f"{what}: {str(ours)[:200]}, and the other reader: {str(theirs)[:200]}")


# Patches


@cache
def _golden() -> list[tuple[dict[str, bytes], bytes]]:
    """Base files and patch of each golden patch that is small."""
    found = []
    for path in sorted((GOLDEN / "v1").iterdir()):
        base, patch = path / "base", path / "patch.sdiff"
        if patch.exists() and patch.stat().st_size < 1 << 15:
            found.append((tree(base) if base.exists() else {}, patch.read_bytes()))
    return found


def _patches() -> list[bytes]:
    """Without those that unfold to 32 MiB, which leave no time for others."""
    files = [p for p in sorted(hostile.FILES.glob("*.sdiff")) if "-manifest-" not in p.name]
    return [patch for _, patch in _golden()] + [p.read_bytes() for p in files]


def _patch(data: bytes) -> None:
    verify_patch(io.BytesIO(data), jobs=1)


def _manifest(text: bytes) -> None:
    """The text of a manifest; what is taken, the independent reader takes as well."""
    manifest_json.parse(text, len(text))
    try:
        manifest = oracle.parse_manifest(text)
        oracle.place_buckets(manifest["buckets"], oracle.place_tensors(manifest))
    except oracle.Refused as e:
        raise FindingError(f"manifest is taken, and the other reader: {e}") from e


def _manifests() -> list[bytes]:
    texts = [manifest_json.dump(_parsed(patch)) for _, patch in _golden()]
    return [t for t in texts if len(t) < 1 << 14]


def _parsed(patch: bytes) -> Any:
    from sparsediff.patch.container import open_patch

    with open_patch(io.BytesIO(patch)) as opened:
        return opened.manifest


def _mutant_of_patch(data: bytes, seed: int) -> bytes:
    """A mutant with its checksums right, as far as that can be."""
    base = next((b for b, patch in _golden() if b and _same_base(patch, data)), {})
    try:
        return [m for _, m in mutants(base, data, 9, seed)][seed % 9]
    except Exception:  # it takes patches apart that are none any more
        return data[: seed % (len(data) + 1)]


def _same_base(patch: bytes, data: bytes) -> bool:
    try:
        return bool(Parts.of(patch).manifest["base"] == Parts.of(data).manifest["base"])
    except Exception:
        return False


def _apply(data: bytes) -> None:
    """A whole patch on its base, decoded as `verify` does; and what the independent reader says."""
    base = next((b for b, patch in _golden() if b and _same_base(patch, data)), {})
    with unwatched():
        root = _room() / "base"
        if root.is_dir():
            shutil.rmtree(root)
        root.unlink(missing_ok=True)
        if base.keys() == {""}:
            root.write_bytes(base[""])
        else:
            for name, content in base.items():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_bytes(content)
            root.mkdir(exist_ok=True)
    try:
        oracle.apply(base, data)
        theirs: str | None = None
    except oracle.Refused as e:
        theirs = str(e)
    try:
        verify_patch(io.BytesIO(data), base=root, jobs=1)
        ours: str | None = None
    except SparsediffError as e:
        if e.exit_code not in EXIT_CODES:
            raise
        ours = str(e)
    if (ours is None) != (theirs is None):
        _agree("patch", ours, theirs)
    if ours is not None:
        raise CorruptError(ours)


# Buckets


def _words(dtype: DType, n: int) -> Any:
    """Base words: the same for the same type and number."""
    rng = RNG(n)
    if dtype.kind == "float" and dtype.word_bits in (16, 32, 64):
        values = rng.standard_normal(n)
        as_float = values.astype(f"<f{max(dtype.word_bits // 8, 4)}").view(np.uint8)
        width = as_float.size // max(n, 1)
        raw = as_float.reshape(n, width)[:, width - dtype.word_bits // 8 :].tobytes()
        return np.frombuffer(raw, dtype.numpy).copy()
    return np.frombuffer(rng.bytes(n * dtype.word_bits // 8), dtype.numpy).copy()


def _bucket(data: bytes) -> None:
    """Type, number of words, whether there is a base, and a payload; decoded by all kernels."""
    if len(data) < 3:
        raise CorruptError("not an input")
    dtype = list(DTYPES.values())[data[0] % len(DTYPES)]
    n = 1 + (data[1] | (data[2] & 1) << 8) % _WORDS
    base = None if data[2] & 2 else _words(dtype, n)
    payload, found = data[3:], []
    for path in paths():
        with using(path):
            out = np.empty(n, dtype.numpy) if base is None else base.copy()
            try:
                decoder = bucket.Decoder(Verified(payload), n, dtype, has_base=base is not None)
                half = n // 2
                decoder.feed(out[:half])
                decoder.feed(out[half:])
                decoder.finish()
                found.append(out.tobytes())
            except CorruptError:
                found.append(b"")
    before = None if base is None else base.tobytes()
    try:
        found.append(oracle.decode_bucket(payload, before, out.nbytes, dtype.name))
    except oracle.Refused:
        found.append(b"")
    for other in found[1:]:
        _agree("words", found[0], other)
    if not found[0]:
        raise CorruptError("refused by all")


def _buckets() -> list[bytes]:
    found = []
    for i, dtype in enumerate(DTYPES.values()):
        for n, density in ((1, 1.0), (40, 0.2), (300, 0.03), (299, 0.6)):
            if dtype.bits % 8 and n % 4:
                continue
            base, rng = _words(dtype, n), RNG(i)
            target = base.copy()
            at = np.flatnonzero(rng.random(n) < density)
            target[at] += rng.integers(1, 3, at.size).astype(dtype.numpy)
            if (target == base).all():
                continue
            head = bytes([i, (n - 1) & 255, (n - 1) >> 8])
            survey = steps.survey(base, target, dtype)
            differ = bucket.choose(survey, n).differ(dtype)
            differ.feed(base, target, np.zeros(256, np.int64))
            found.append(head + bucket.choose(survey, n).payload(differ))
            found.append(head + bucket.encode(base, target, dtype, survey))
            found.append(head[:2] + bytes([head[2] | 2]) + bucket.encode(None, target, dtype, None))
    return found


def _frame(data: bytes) -> None:
    size = stated_size(data)
    if size > 1 << 20:
        raise CorruptError("larger than a bucket of this test may be")
    out = decompress(data, size)
    try:
        _agree("frame", oracle.frame(data, size, size), out)
    except oracle.Refused as e:
        raise FindingError(f"frame is taken, and the other reader: {e}") from e


def _frames() -> list[bytes]:
    return [compress(b, level=3) for b in (b"", b"abc" * 9, RNG(0).bytes(99), bytes(9999))]


# Parts of patches, keys and signatures: files


def _on_disk(read: Callable[[Path], object], name: str, data: bytes) -> None:
    """Let something read the bytes as a file; the watch does not mind how they got there."""
    with unwatched():
        (_room() / name).write_bytes(data)
    read(_room() / name)


@cache
def _room() -> Path:
    room = tempfile.TemporaryDirectory()
    _KEPT.append(room)
    return Path(room.name)


_KEPT: list[object] = []


def part_with(text: bytes) -> bytes:
    """A part of a patch with these results, and the right checksums."""
    frames = compress(b"", level=3), compress(text, level=3)
    metadata = {
        "format": "sparsediff-part",
        "plan_xxh3": hostile.xxh3(b""),
        "results_xxh3": hostile.xxh3(text),
        "version": __version__,
    }
    sizes = {"plan": len(frames[0]), "results": len(frames[1]), "bucket.0": 4}
    return compose_header(metadata, sizes) + b"".join(frames) + b"abcd"


def results() -> list[bytes]:
    row: dict[str, object] = {
        "part": [1, 2],
        "read": {"base/a": 5, "target/a": 7},
        "target": ["0" * 32],
        "sha256": ["0" * 64],
        "base": ["0" * 32],
        "locators": ["00"],
        "largest": [[3]],
        "steps": [[[0, 1, 2]]],
    }
    return [json.dumps(row, separators=(",", ":")).encode()]


def _key(path: Path) -> None:
    try:
        public_key(path)
    except UsageError as e:
        raise CorruptError(e.problem) from None


def _signatures(path: Path) -> None:
    trusted = trust([hostile.FILES / "trusted.pub"])
    assert trusted is not None
    Signed(path.with_suffix(""), trusted).check(hostile.compact(hostile.pointer()))


def _signature_seeds() -> list[bytes]:
    rows = json.loads((hostile.FILES / "signed-of-a-patch.json").read_bytes())["signatures"]
    return [json.dumps({"format": "sparsediff-signatures", "signatures": rows}).encode()]


# JSON of stores and records


def _pointer(data: bytes) -> None:
    """A pointer whose checksum is made right, for who trusts nobody and for who trusts one."""
    try:
        document = json.loads(data)
        if isinstance(document, dict):
            document.pop("xxh3", None)
            data = hostile.sealed(document)
    except (ValueError, RecursionError):
        pass
    catalog = catalog_json.parse(data)
    catalog_json.parse(catalog_json.dump(catalog))


def _pointers() -> list[bytes]:
    found = [*hostile.pointers().values(), *hostile.signed().values()]
    found += [p.read_bytes() for p in sorted(GOLDEN.glob("stores/*/store/latest.json"))]
    return [p for p in found if len(p) < 1 << 14]


class _OneObject:
    """A store that holds the same bytes under every key."""

    name = "store"

    def __init__(self, data: bytes) -> None:
        self.data = data

    def get(self, key: str, known: object = None) -> tuple[bytes, str]:
        return self.data, "tag"

    def read(self, key: str, offset: int, n_bytes: int) -> bytes:
        return self.data[offset : offset + n_bytes]

    def size(self, key: str) -> int:
        return len(self.data)


def _page(data: bytes) -> None:
    """A page of a store, which its pointer describes as it happens to be."""
    try:
        document = json.loads(data)
        rows = document["versions"]
        first, last = rows[0]["version"], rows[-1]["version"]
    except (ValueError, LookupError, TypeError, RecursionError):
        rows, first, last = [0], 1, 1
    sha256 = hashlib.sha256(data).hexdigest()
    row = hostile.page(first=first, last=last, n=len(rows), n_bytes=len(data), sha256=sha256)
    row["key"] = f"versions/pages/{sha256[:16]}.json"
    pointer = hostile.pointer(version=33, latest=33) | {"pages": [row]}

    def read(page: Any) -> Any:
        return catalog_json._read_page(cast(Any, _OneObject(data)), page, read)

    catalog = catalog_json.parse(hostile.sealed(pointer), read)
    for version in catalog.versions:
        assert version.version


def _pages() -> list[bytes]:
    row = hostile.pointer()["versions"][0]
    document = {"format": "sparsediff-page", "pages": [], "versions": [row]}
    found = [p.read_bytes() for p in sorted(GOLDEN.glob("stores/*/store/versions/pages/*"))]
    return [json.dumps(document).encode(), *(p for p in found if len(p) < 1 << 14)]


def _list(data: bytes) -> None:
    if parts.parse_list(data) is None:
        raise CorruptError("no list")


def _ack(data: bytes) -> None:
    acks._read(cast(Any, _OneObject(data)), Stored("acks/machine.json", len(data), 0.0))


def _acks() -> list[bytes]:
    return [
        json.dumps({"format": acks._FORMAT, "id": "0" * 32, "version": 3, "name": "a"}).encode()
    ]


def _records() -> list[bytes]:
    waiting = {"name": "a", "number": 3, "reason": "young", "why": "x", "since": 1.5, "n_bytes": 7}
    rows: list[dict[str, object]] = [
        {"id": "0" * 32, "versions": {"1": "a", "20": "b"}, "stale": ["c"], "building": "d",
         "version": 3, "updating": {"version": 3, "patches": ["0" * 64]}, "told": "x",
         "store": "s", "files": ["*"], "newest": 9, "rewind": 1},
        {"store": "s", "id": "0" * 32, "kept": {"1": "x"}, "squash_from": 1, "run": "1" * 32,
         "pending": {"id": "0" * 32, "version": 3, "sha256": ["0" * 64], "identity": "i"}},
        {"first": {"a": 1.5}, "newest": 2.5, "looked": 3, "waiting": [waiting], "latest": "a",
         "shipped": 1.0, "same": "x"},
    ]  # fmt: skip
    return [json.dumps(row).encode() for row in rows]


def _record(path: Path) -> None:
    """Each kind of record, of which no field is demanded that another kind has."""
    errors = []
    for load in (partial(state.load_pulled, advice="move it"), state.load_sent):
        try:
            load(path.parent)
        except CorruptError as e:
            errors.append(e)
    with unwatched():
        path.rename(path.with_name(state.SEEN))
    state.load_seen(path.parent)
    if errors:
        raise errors[0]


# Checkpoints


def _spans(name: str, data: bytes) -> None:
    """Spans of a file in order, in the file, without overlap; and now and then, a whole patch."""
    file = MemoryInput(Path(name), data)
    spans = find_spans(cast(Any, file))
    end = 0
    for span in spans:
        if not end <= span.offset <= span.offset + span.nbytes <= len(data):
            raise FindingError(f"span {span} after {end}, in {len(data)} bytes")
        if span.dtype.n_bytes(span.shape) != span.nbytes:
            raise FindingError(f"span {span} of another size")
        end = span.offset + span.nbytes
        span.name.encode()
    if spans and len(data) < 1 << 13 and zlib.crc32(data) % 64 == 0:
        _carried(file, spans)


def _carried(file: MemoryInput, spans: list[Any]) -> None:
    """What a patch from nothing carries is the file, says the independent reader."""
    patch = io.BytesIO()
    target = Checkpoint(file.path, False, [CheckpointFile("", file, spans)])
    with unwatched():  # payloads wait in a temporary file
        make_patch(Checkpoint(Path("nothing"), True, []), target, patch, jobs=1)
    _agree("file", oracle.apply({}, patch.getvalue()), {"": file.data})


def _files(*suffixes: str) -> list[bytes]:
    found = [p for s in suffixes for p in sorted(hostile.FILES.glob(f"*{s}"))]
    return [p.read_bytes() for p in found if p.stat().st_size < 1 << 13]


def _safetensors() -> list[bytes]:
    tensors = {"a": ("F32", (3, 5), bytes(60)), "b": ("BF16", (), b"ab"), "c": ("F4", (4,), b"xy")}
    plain = safetensors_bytes(tensors)
    return [
        plain,
        safetensors_bytes(tensors, metadata={"format": "pt"}, reverse_header=True, pad=8),
        safetensors_bytes({}),
        *_files(".safetensors"),
    ]


def _torch(legacy: bool) -> list[bytes]:
    """What torch itself saves, where it is installed, and what is written byte by byte."""
    path = _room() / "old.pt"
    tensors = {"w": ("Float", (5, 3), RNG(0).bytes(60)), "b": ("Half", (4,), b"abcdefgh")}
    torchfiles.write_archive(path, torchfiles.old_archive(tensors))
    found = [] if legacy else [path.read_bytes()]
    try:
        import torch
    except ImportError:
        return found + _files(".pt", ".bin")
    shared = torch.arange(12.0)
    states: list[Any] = [
        {"w": torch.ones(5, 3), "t": shared[2:8].reshape(2, 3), "s": shared, "n": 5},
        [torch.zeros(3, dtype=torch.bfloat16), {"x": (torch.tensor(1), None)}],
    ]
    for value in states:
        out = io.BytesIO()
        torch.save(value, out, _use_new_zipfile_serialization=not legacy)
        found.append(out.getvalue())
    return found + _files(".pt", ".bin")


def _pickle(data: bytes) -> None:
    """A pickle by itself, and in the place of the one in an archive of torch."""
    archive = hostile.archive({"a/data.pkl": data, "a/data/0": bytes(64), "a/version": b"3\n"})
    _spans("x.pt", archive)
    try:
        pickles.load(data)
    except pickles.PickleError:
        raise CorruptError("no pickle") from None


def _pickles() -> list[bytes]:
    old = torchfiles.old_pickle({"w": ("Float", (2, 3), "0", 16), "b": ("Half", (4,), "0", 8)})
    values: list[object] = [{"a": [1, 2.5, None, True, "x", b"y", (1,)]}, {1, 2}, [[]] * 9, 2**70]
    protocols = [pickle.dumps(v, p) for v in values for p in (0, 2, 4, 5)]
    return [old, *protocols, *_files("-bare.pt", ".bin")]


def _gguf() -> list[bytes]:
    tensors = [("norm", [12], F32, bytes(48)), ("q", [64, 3], Q8_0, RNG(0).bytes(204))]
    return [
        gguf_bytes(tensors, VOCABULARY[:1] + VOCABULARY[3:]),
        gguf_bytes(tensors, alignment=8, version=2),
        *_files(".gguf"),
    ]


def _npy() -> list[bytes]:
    arrays = [np.arange(6.0).reshape(2, 3), np.zeros((), ">i2"), np.asfortranarray(np.eye(3))]
    return [*(npy_bytes(a) for a in arrays), *_files(".npy")]


def _npz() -> list[bytes]:
    members = {"a.npy": npy_bytes(np.arange(30)), "b/c.npy": npy_bytes(np.ones(3, "<f2"))}
    return [zip_bytes(members), zip_bytes(members, 8), *_files(".npz")]


def _archives() -> list[bytes]:
    """Members are looked into from 16 KiB on."""
    inner = safetensors_bytes({"a": ("F32", (4096,), RNG(0).bytes(1 << 14))})
    members = {"m/a.safetensors": inner, "m/config.json": b"{}", "long" * 40: b"x"}
    kinds = [tar_bytes(members, kind) for kind in ("pax", "gnu", "ustar") if kind != "ustar"]
    return [*kinds, zip_bytes(members), *_files(".tar", ".npz")]


def _references(name: str, data: bytes) -> None:
    find_references(cast(InputFile, MemoryInput(Path(name), data)))


def _listing(data: bytes) -> None:
    """A JSON file under each of the names that mean something."""
    errors = []
    for name in ("m.index.json", "model_index.json", "modules.json", "metadata.json", "_METADATA"):
        try:
            _references(name, data)
        except CorruptError as e:
            errors.append(e)
    if errors:
        raise errors[0]


def _listings() -> list[bytes]:
    rows: list[object] = [
        {"metadata": {"total_size": 5}, "weight_map": {"a": "x.safetensors", "b": "y.safetensors"}},
        {"_class_name": "P", "unet": ["diffusers", "UNet"], "tok": ["transformers", "Tokenizer"]},
        [{"idx": 0, "name": "0", "path": "", "type": "T"}, {"path": "1_Pooling", "type": "P"}],
        {"sharded_backend": "torch_dist", "common_backend": "torch"},
        {"tree_metadata": {"a": {"key_metadata": []}}, "use_zarr3": True},
    ]
    return [json.dumps(row).encode() for row in rows]


def _metadata(data: bytes) -> None:
    _references(".metadata", data)


def _onnx() -> list[bytes]:
    def field(number: int, content: bytes) -> bytes:
        return bytes([number << 3 | 2, len(content)]) + content

    entry = field(13, field(1, b"location") + field(2, b"w.bin"))[0:]
    length = field(13, field(1, b"length") + field(2, b"40"))
    tensor = field(8, b"w") + entry + length + b"\x70\x01"
    graph = field(7, field(5, tensor) + field(1, field(4, b"Add")))
    return [b"\x08\x07" + graph + field(8, b"\x10\x0d")]


def _file(name: str) -> Callable[[bytes], None]:
    def read(data: bytes) -> None:
        _spans(name, data)
        _references(name, data)

    return read


def _all(seeds: Iterable[bytes]) -> list[bytes]:
    return sorted(set(seeds), key=len)


TARGETS: dict[str, Target] = {
    "patch": Target("patches", _patch, _patches, (CorruptError, UnsupportedError, UsageError)),
    "manifest": Target("patches", _manifest, _manifests),
    "apply": Target("patches", _apply, lambda: [p for _, p in _golden()], mutate=_mutant_of_patch),
    "part": Target("patches", lambda d: _on_disk(Part, "a.part", part_with(d)), results),
    "bucket": Target("decoder", _bucket, _buckets),
    "frame": Target("decoder", _frame, _frames),
    "pointer": Target("stores", _pointer, _pointers),
    "page": Target("stores", _page, _pages),
    "list": Target("stores", _list, lambda: list(hostile.parts().values())),
    "ack": Target("stores", _ack, _acks),
    "record": Target("stores", lambda d: _on_disk(_record, state.NAME, d), _records),
    "signatures": Target("stores", lambda d: _on_disk(_signatures, "a.sig", d), _signature_seeds),
    "key": Target("stores", lambda d: _on_disk(_key, "a.pub", d), lambda: _files(".pub")),
    "safetensors": Target("checkpoints", _file("x.safetensors"), _safetensors),
    "torch": Target("checkpoints", _file("x.pt"), lambda: _torch(False)),
    "torch-legacy": Target("checkpoints", _file("x.bin"), lambda: _torch(True)),
    "rank": Target("checkpoints", _file("mp_rank_00_model_states.pt"), lambda: _torch(False)),
    "pickle": Target("checkpoints", _pickle, _pickles),
    "gguf": Target("checkpoints", _file("x.gguf"), _gguf),
    "npy": Target("checkpoints", _file("x.npy"), _npy),
    "npz": Target("checkpoints", _file("x.npz"), _npz),
    "hdf5": Target("checkpoints", _file("x.h5"), lambda: [h5files.EARLIEST, h5files.LATEST]),
    "archive": Target("checkpoints", _file("x.nemo"), _archives),
    "listing": Target("checkpoints", _listing, _listings),
    "metadata": Target("checkpoints", _metadata, _pickles),
    "onnx": Target("checkpoints", partial(_references, "x.onnx"), _onnx),
}


def seeds(name: str) -> list[bytes]:
    """Inputs to begin with, the shortest first."""
    found = _all(TARGETS[name].seeds())
    assert found, name
    return found


def mutants_of(name: str, rng: random.Random) -> Callable[[], bytes]:
    """Makes mutants of a target's seeds, the same for the same random numbers."""
    from tests.fuzz.mutate import mutant

    known, change = seeds(name), TARGETS[name].mutate
    if change is None:
        return lambda: mutant(known, rng)
    return lambda: change(rng.choice(known), rng.randrange(1 << 30))
