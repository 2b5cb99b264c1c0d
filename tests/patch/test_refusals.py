"""Bad input: one line, the documented exit code, nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparsediff import (
    CorruptError,
    Share,
    SparsediffError,
    UnavailableError,
    WrongBaseError,
    apply_patch,
    make_part,
    make_patch,
    open_patch,
    verify_patch,
)
from sparsediff.checksum import checksum
from sparsediff.codec.zstd import compress, decompress
from sparsediff.disk import inputs, names, outputs
from sparsediff.errors import UnsupportedError
from sparsediff.patch.container import Patch
from sparsediff.patch.entries import compose_header
from sparsediff.patch.manifest import Bucket, Manifest
from tests import oracle
from tests.conftest import Run
from tests.support.pairs import (
    Stored,
    model_directory,
    safetensors_bytes,
    training_pair,
    tree,
    write_safetensors,
)
from tests.support.patches import rewrite
from tests.support.refusals import EXIT, refused

pytestmark = pytest.mark.usefixtures("nothing_left")

# Wrong base


def test_wrong_base_names_the_first_tensor_that_differs(
    cli: Run, base: Path, patch: Path, tmp_path: Path
) -> None:
    shard = base / "model-00001-of-00002.safetensors"
    raw = bytearray(shard.read_bytes())
    raw[-3] ^= 1  # in the last tensor of the shard by offset
    shard.write_bytes(raw)
    result = cli("apply", base, patch, "-o", tmp_path / "out")
    refused(result, EXIT["base"], str(shard), "model.layers.1.input_layernorm.weight", "offset")
    assert not (tmp_path / "out").exists()


def test_target_given_as_base_is_recognised(
    cli: Run, target: Path, base: Path, patch: Path, tmp_path: Path
) -> None:
    shutil.copy(base / "config.json", target / "config.json")
    refused(cli("apply", target, patch, "-o", tmp_path / "out"), EXIT["base"], "already the target")


@pytest.mark.parametrize("harm", ["size", "missing", "header", "file for directory"])
def test_base_of_another_shape(
    harm: str, cli: Run, base: Path, patch: Path, tmp_path: Path
) -> None:
    shard = base / "model-00002-of-00002.safetensors"
    if harm == "size":
        shard.write_bytes(shard.read_bytes() + b"x")
    elif harm == "missing":
        shard.unlink()
    elif harm == "header":
        shard.write_bytes(shard.read_bytes().replace(b'"pt"', b'"tp"'))
    else:
        shutil.copy(shard, tmp_path / "file")
        base = tmp_path / "file"
    words = [str(shard)] if harm != "file for directory" else ["a directory"]
    refused(cli("apply", base, patch, "-o", tmp_path / "out"), EXIT["base"], "wrong base", *words)


def test_second_patch_that_does_not_continue_the_first(
    cli: Run, base: Path, target: Path, patch: Path, tmp_path: Path
) -> None:
    other = model_directory(tmp_path / "other", lr=3e-6)
    third = model_directory(tmp_path / "third", lr=4e-6)
    make_patch(other, third, tmp_path / "q.sdiff")
    before = tree(base)
    for how in (["-o", tmp_path / "out"], ["--in-place"]):
        result = cli("apply", base, patch, tmp_path / "q.sdiff", *how)
        refused(result, EXIT["base"], "q.sdiff", "does not continue", "p.sdiff")
    assert tree(base) == before


# Damaged patches


def test_every_flipped_bit_and_every_truncation_is_refused(tmp_path: Path) -> None:
    """Exhaustive over the bytes of a small patch that has every kind of entry."""
    b, t = training_pair(300)
    a = write_safetensors(tmp_path / "a", {"x": b, "gone": b})
    c = write_safetensors(
        tmp_path / "c", {"x": t, "new": ("U8", (3,), b"abc")}, metadata={"k": "v"}
    )
    make_patch(a, c, tmp_path / "p")
    good = (tmp_path / "p").read_bytes()
    bad = tmp_path / "bad"
    for i in range(len(good)):
        flipped = bytearray(good)
        flipped[i] ^= 1 << (i % 8)
        bad.write_bytes(flipped)
        with pytest.raises(SparsediffError) as info:
            verify_patch(bad, base=a)
        assert info.value.exit_code in (EXIT["corrupt"], EXIT["unsupported"])
        bad.write_bytes(good[:i])
        with pytest.raises(CorruptError):
            verify_patch(bad, base=a)
    bad.write_bytes(good + b"\0")
    with pytest.raises(CorruptError, match="after the end"):
        verify_patch(bad)


@pytest.mark.parametrize("where", [3, 60, 0.3, 0.9, -1])
def test_damaged_patch_on_the_command_line(
    where: float, cli: Run, base: Path, patch: Path, tmp_path: Path
) -> None:
    good = patch.read_bytes()
    raw = bytearray(good)
    at = int(where * len(raw)) if isinstance(where, float) else int(where)
    raw[at] ^= 0x10
    patch.write_bytes(raw)
    result = cli("apply", base, patch, "-o", tmp_path / "out")
    refused(result, EXIT["corrupt"], str(patch))
    assert not (tmp_path / "out").exists()
    patch.write_bytes(good[: len(good) // 2])
    refused(cli("verify", patch), EXIT["corrupt"], str(patch), "cut short")


def test_unknown_version_is_unsupported(cli: Run, patch: Path) -> None:
    patch.write_bytes(patch.read_bytes().replace(b'"version":"1"', b'"version":"2"'))
    refused(cli("show", patch), EXIT["unsupported"], "version", "expected 1, found 2")


@pytest.mark.parametrize("content", [b"", b"x", b"x" * 100, safetensors_bytes({})])
def test_something_else_is_no_patch(content: bytes, cli: Run, tmp_path: Path) -> None:
    (tmp_path / "no").write_bytes(content)
    refused(cli("verify", tmp_path / "no"), EXIT["corrupt"], str(tmp_path / "no"))


# Patches whose checksums are right and whose manifest lies


def name_to(name: str) -> Callable[[Manifest, dict[str, bytes]], None]:
    def edit(manifest: Manifest, _: dict[str, bytes]) -> None:
        manifest.target_files[0].name = name

    return edit


NAMES = ["../x", "/etc/x", "a/../../x", ".", "..", "a//b", "a/", "", "a\\..\\b", "C:x", "a\0b"]
NAMES += [
    ".x.sparsediff-tmp",
    "a/.x.sparsediff-tmp.12",
    "a/" * 100 + "a",
    "a/" * 3000 + "a",
    "empty/x",
    "empty",
    "x" * 256,
    "\udc80",
]


@pytest.mark.parametrize("name", NAMES)
def test_hostile_file_name(name: str, cli: Run, base: Path, patch: Path, tmp_path: Path) -> None:
    rewrite(patch, name_to(name))
    refused(cli("apply", base, patch, "-o", tmp_path / "out"), EXIT["corrupt"], str(patch))
    assert not (tmp_path / "out").exists()
    with pytest.raises(oracle.Refused):
        oracle.apply(tree(base), patch.read_bytes())


def _set(path: str, value: Any) -> Callable[[Manifest, dict[str, bytes]], None]:
    def edit(manifest: Manifest, _: dict[str, bytes]) -> None:
        *where, last = path.split(".")
        thing: Any = manifest
        for step in where:
            thing = thing[int(step)] if step.lstrip("-").isdigit() else getattr(thing, step)
        if last.isdigit():
            thing[int(last)] = value
        else:
            setattr(thing, last, value)

    return edit


LIES = [
    ("target_files.0.size", 1 << 50),
    ("target_files.0.size", -1),
    ("target_files.0.size", 3),
    ("target_files.1.dictionary", 99),
    ("target_files.2.n_tensors", 0),
    ("target_files.2.skeleton", "0" * 32),
    ("base_files.0.size", 1 << 60),
    ("base_files.3.layout", [0, 10**9]),
    ("tensors.shapes.0", (1 << 40,)),
    ("tensors.shapes.0", (0,)),
    ("tensors.shapes.0", (-5,)),
    ("tensors.offsets.0", 1 << 45),
    ("tensors.base_offsets.0", -1),
    ("tensors.base_offsets.0", 1 << 45),
    ("tensors.base_files.0", 10**6),
    ("tensors.n_based.0", 3),
    ("tensors.n_stepped.0", 1 << 40),
    ("buckets.0.n_words", 1 << 40),
    ("buckets.0.n_words", 0),
    ("buckets.0.tensors", [1, 0]),
    ("buckets.0.tensors", [77]),
    ("buckets.0.base", None),
    ("buckets.0.target", None),
    ("buckets.0.target", "f" * 32),
    ("buckets.0.locators", ""),
]


@pytest.mark.parametrize(("path", "value"), LIES)
def test_lying_manifest(
    path: str, value: Any, cli: Run, base: Path, patch: Path, tmp_path: Path
) -> None:
    try:
        rewrite(patch, _set(path, value))
    except (IndexError, TypeError, ValueError):
        pytest.skip("our writer cannot express it")
    code, out, err = cli("apply", base, patch, "-o", tmp_path / "out")
    assert code in (EXIT["corrupt"], EXIT["base"]), err
    assert out == ""
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_bucket_that_lists_too_many_tensors(cli: Run, patch: Path) -> None:
    """A kilobyte of JSON that would unfold to gigabytes of indices."""

    def edit(manifest: Manifest, payloads: dict[str, bytes]) -> None:
        for k in range(len(manifest.buckets), 100):
            manifest.buckets.append(Bucket(list(range(12)), 12, target="0" * 32))
            manifest.file_buckets[0].append(k)
            payloads[f"bucket.{k}"] = b"x"

    rewrite(patch, edit)
    refused(cli("show", patch), EXIT["corrupt"], "too many tensors")


@pytest.mark.parametrize("shape", [(1 << 52,) * 100_000, (0, *((1 << 52,) * 1000))])
def test_endless_shape_is_refused_at_once(
    shape: tuple[int, ...], cli: Run, base: Path, patch: Path
) -> None:
    rewrite(patch, _set("tensors.shapes.0", shape))
    refused(cli("show", patch), EXIT["corrupt"])


MANIFESTS = [
    b'{"base":1,"buckets":1,"target":1,"tensors":1}',
    b'{"base":{},"buckets":{},"target":{},"tensors":{}}',
    b"[]",
    b"null",
    b'"x"',
    b"1" * 10_000,
    b"[" * 100_000,
    b"[" + b"[],".join(b"" for _ in range(1 << 20)) + b"0]",
]


@pytest.mark.parametrize("text", MANIFESTS, ids=range(len(MANIFESTS)))
def test_manifest_of_any_other_shape(text: bytes, cli: Run, tmp_path: Path) -> None:
    frame = compress(text, 3)
    bad = tmp_path / "bad"
    metadata = {"format": "sparsediff", "manifest_xxh3": checksum(frame), "version": "1"}
    bad.write_bytes(compose_header(metadata, {"manifest": len(frame)}) + frame)
    refused(cli("verify", bad), EXIT["corrupt"], "malformed manifest")


def test_frame_with_a_huge_window_is_refused() -> None:
    frame = bytearray(compress(b"abc" * 100, 3))
    assert frame[4] & 0x20  # single segment: no window byte
    # The same block behind a header with a window of 2^28 bytes and a 4-byte size.
    size = (300).to_bytes(4, "little")
    body = bytes(frame[4 + 1 + (2 if frame[4] >> 6 == 1 else 1) :])
    huge = bytes(frame[:4]) + bytes([0x80, (28 - 10) << 3]) + size + body
    with pytest.raises(CorruptError, match="window"):
        decompress(huge, 300)
    small = bytes(frame[:4]) + bytes([0x80, (20 - 10) << 3]) + size + body
    assert decompress(small, 300) == b"abc" * 100


def test_checkpoint_past_the_limits_makes_no_patch(
    base: Path, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparsediff.patch.container.MAX_MANIFEST", 1000)
    with pytest.raises(SparsediffError, match="too many files or tensors") as info:
        make_patch(base, target, tmp_path / "p")
    assert info.value.exit_code == EXIT["unsupported"]
    assert not (tmp_path / "p").exists()


def test_too_many_tensors_are_refused_before_their_words_are_read(
    base: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparsediff.patch.container.MAX_MANIFEST", 100)
    monkeypatch.setattr("sparsediff.make.write.encode_bucket", None)
    monkeypatch.setattr("sparsediff.make.write.encode_skeleton", None)
    for make in (make_patch, partial(make_part, part=Share(1, 2))):
        with pytest.raises(UnsupportedError, match=r"too many files or tensors.*`include`"):
            make(base, target, output=None)


@pytest.mark.parametrize("size", [10**15, 10**30, -1, 1 << 27])
def test_manifest_of_any_stated_size_from_a_pipe(size: int, base: Path, patch: Path) -> None:
    raw = patch.read_bytes()
    n = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + n])
    header["manifest"] |= {"shape": [size], "data_offsets": [0, size]}
    text = json.dumps({k: header[k] for k in ("__metadata__", "manifest")}, separators=(",", ":"))
    data = (text + " " * (-len(text) % 8)).encode()
    run = subprocess.run(
        [sys.executable, "-m", "sparsediff", "verify", "-"],
        input=len(data).to_bytes(8, "little") + data,
        capture_output=True,
    )
    assert run.returncode == EXIT["corrupt"]
    assert run.stderr.count(b"\n") == 1


def test_missing_skeleton(cli: Run, base: Path, patch: Path, tmp_path: Path) -> None:
    def edit(manifest: Manifest, payloads: dict[str, bytes]) -> None:
        del payloads["skeleton.0"]
        manifest.target_files[0].skeleton_digest = None

    rewrite(patch, edit)
    refused(cli("apply", base, patch, "-o", tmp_path / "out"), EXIT["corrupt"], "is missing")


def test_zstd_bomb_is_refused_before_it_is_unpacked(
    cli: Run, base: Path, patch: Path, tmp_path: Path
) -> None:
    def edit(manifest: Manifest, payloads: dict[str, bytes]) -> None:
        name = next(n for n in payloads if n.startswith("bucket"))
        payloads[name] = b"\x02" + compress(bytes(1 << 30), 1)

    rewrite(patch, edit)
    result = cli("apply", base, patch, "-o", tmp_path / "out")
    refused(result, EXIT["corrupt"], "bucket.", "expected", "found 1073741824")


def test_bucket_that_decodes_to_something_else(
    cli: Run, base: Path, patch: Path, tmp_path: Path
) -> None:
    def edit(manifest: Manifest, payloads: dict[str, bytes]) -> None:
        size = manifest.buckets[0].n_words * manifest.tensors[0].dtype.word_bytes
        payloads["bucket.0"] = b"\x02" + compress(bytes(size), 1)

    rewrite(patch, edit)
    refused(
        cli("apply", base, patch, "-o", tmp_path / "out"), EXIT["corrupt"], "differ from the target"
    )


def test_version_and_header_must_be_canonical(patch: Path) -> None:
    raw = patch.read_bytes()
    n = int.from_bytes(raw[:8], "little")
    for header in (
        raw[8 : 8 + n].replace(b'"manifest":{', b'"manifest": {'),
        raw[8 : 8 + n] + b"        ",
        json.dumps(json.loads(raw[8 : 8 + n]), indent=1).encode(),
    ):
        patch.write_bytes(len(header).to_bytes(8, "little") + header + raw[8 + n :])
        with pytest.raises(CorruptError, match="canonical"), open_patch(patch):
            pass


# Malformed safetensors


def entry(dtype: str, shape: list[Any], offsets: list[Any]) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def raw_file(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


MALFORMED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "no header"),
    "short": (b"1234567", "no header"),
    "header_too_long": ((1 << 40).to_bytes(8, "little") + b"{}", "exceeds the file"),
    "header_over_limit": ((100_000_001).to_bytes(8, "little") + b"{}", "exceeds the file"),
    "not_json": (raw_file(b"{nope"), "not a JSON object"),
    "not_object": (raw_file(b"[1]"), "not a JSON object"),
    "leading_space": (raw_file(b" {}"), "not a JSON object"),
    "not_utf8": (raw_file(b'{"\xff":1}'), "not a JSON object"),
    "deep": (raw_file(b'{"a":' + b"[" * 100_000), "not a JSON object"),
    "huge_int": (raw_file(b'{"a":' + b"9" * 10_000 + b"}"), "not a JSON object"),
    "duplicate": (raw_file(b'{"a":{},"a":{}}'), "duplicate name"),
    "entry_not_object": (raw_file({"a": 1}), "entry must have"),
    "missing_field": (raw_file({"a": {"dtype": "U8", "shape": [0]}}), "entry must have"),
    "dtype_not_text": (raw_file({"a": {"dtype": 1, "shape": [], "data_offsets": [0, 0]}}), "dtype"),
    "negative_shape": (raw_file({"a": entry("U8", [-1], [0, 0])}), "shape"),
    "bool_shape": (raw_file({"a": entry("U8", [True], [0, 1])}, b"x"), "shape"),
    "float_offset": (raw_file({"a": entry("U8", [1], [0.0, 1])}, b"x"), "data_offsets"),
    "one_offset": (raw_file({"a": entry("U8", [1], [0])}, b"x"), "data_offsets"),
    "backwards": (raw_file({"a": entry("U8", [1], [1, 0])}, b"x"), "data_offsets"),
    "past_the_end": (raw_file({"a": entry("U8", [9], [0, 9])}, b"x"), "data_offsets"),
    "shape_overflow": (
        raw_file({"a": entry("U8", [1 << 40, 1 << 40], [0, 1])}, b"x"),
        "do not fit",
    ),
    "wrong_size": (raw_file({"a": entry("F32", [2], [0, 4])}, b"1234"), "do not fit"),
    "half_byte": (raw_file({"a": entry("F4", [3], [0, 1])}, b"x"), "do not fit"),
    "hole": (raw_file({"a": entry("U8", [1], [1, 2])}, b"xy"), "hole or overlap"),
    "overlap": (
        raw_file({"a": entry("U8", [2], [0, 2]), "b": entry("U8", [1], [1, 2])}, b"xy"),
        "hole or overlap",
    ),
    "left_over": (
        raw_file({"a": entry("U8", [1], [0, 1])}, b"xyz"),
        "does not end where the file ends",
    ),
    "surrogate": (
        raw_file(b'{"\\ud800":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'),
        "Unicode",
    ),
}


@pytest.mark.parametrize("case", sorted(MALFORMED))
def test_malformed_safetensors(case: str, cli: Run, tmp_path: Path) -> None:
    content, word = MALFORMED[case]
    good = write_safetensors(tmp_path / "good.safetensors", {"a": ("U8", (1,), b"x")})
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(content)
    for pair in ((good, bad), (bad, good)):
        result = cli("make", *pair, "-o", tmp_path / "p")
        refused(result, EXIT["corrupt"], "malformed safetensors", str(bad), word)
    assert not (tmp_path / "p").exists()


def test_file_that_only_looks_like_safetensors_is_bytes(tmp_path: Path) -> None:
    for name, content in (("a", b"x"), ("b", b"y")):
        (tmp_path / name).write_bytes(raw_file(b'{"not": "really"}', content))
    make_patch(tmp_path / "a", tmp_path / "b", tmp_path / "p")
    apply_patch(tmp_path / "a", tmp_path / "p", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == (tmp_path / "b").read_bytes()


# Paths


def test_outputs_that_exist(
    cli: Run, base: Path, target: Path, patch: Path, tmp_path: Path
) -> None:
    before = patch.read_bytes()
    refused(cli("make", base, target, "-o", patch), EXIT["usage"], str(patch), "exists")
    (tmp_path / "out").mkdir()
    refused(cli("apply", base, patch, "-o", tmp_path / "out"), EXIT["usage"], "exists")
    assert patch.read_bytes() == before


def test_base_as_output(cli: Run, base: Path, patch: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(base)
    for out in (base, tmp_path / "link", base / ".." / "base"):
        refused(cli("apply", base, patch, "-o", out, "-f"), EXIT["usage"], "--in-place")


def test_output_in_the_way_of_inputs(
    cli: Run, base: Path, target: Path, patch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = tree(tmp_path)
    for args in (
        ["apply", base, patch, "-o", base / "out"],
        ["apply", base, patch, "-o", tmp_path, "-f"],
        ["apply", base, patch, "-o", patch, "-f"],
        ["apply", base, patch, "-o", "", "-f"],
        ["make", base, target, "-o", target / "config.json", "-f"],
        ["make", base, target, "-o", base / "p"],
        ["make", base, target, "-o", "", "-f"],
    ):
        code, out, _ = cli(*args)
        assert (code, out) == (EXIT["usage"], ""), args
    assert tree(tmp_path) == before


def test_names_too_long_for_the_system(
    cli: Run, base: Path, target: Path, patch: Path, tmp_path: Path
) -> None:
    long = tmp_path / ("x" * 300)
    for args in (
        ["make", long, target, "-o", tmp_path / "q"],
        ["make", base, target, "-o", long],
        ["apply", long, patch, "-o", tmp_path / "q"],
        ["apply", base, patch, "-o", long],
        ["stats", long, target],
        ["verify", patch, "--target", long],
    ):
        refused(cli(*args), EXIT["usage"], "name too long")


def test_next_run_removes_what_a_killed_chain_left(
    cli: Run, base: Path, target: Path, patch: Path, tmp_path: Path
) -> None:
    for part in (0, 3):
        left = names.temp_sibling(tmp_path / "out", part)
        left.mkdir()
        (left / "big").write_text("left by a killed run")
    assert cli("apply", base, patch, "-o", tmp_path / "out")[0] == 0
    assert tree(tmp_path / "out") == tree(target)


def test_run_of_another_kind_holds_the_lock(
    cli: Run, base: Path, target: Path, patch: Path, tmp_path: Path
) -> None:
    with outputs.staged_file(tmp_path / "out", force=False):
        refused(cli("apply", base, patch, "-o", tmp_path / "out"), EXIT["locked"], "another run")
    (tmp_path / "out").unlink()
    with outputs.staged_directory(tmp_path / "out", force=False):
        refused(cli("make", base, target, "-o", tmp_path / "out"), EXIT["locked"], "another run")


def test_device_and_pipe_are_not_replaced(
    cli: Run, base: Path, target: Path, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "fifo")
    result = cli("make", base, target, "-o", tmp_path / "fifo", "-f")
    refused(result, EXIT["usage"], "neither a file nor a directory")
    refused(cli("make", tmp_path / "fifo", target, "-o", tmp_path / "p"), EXIT["usage"], "regular")


def test_verify_target_with_a_missing_file(cli: Run, target: Path, patch: Path) -> None:
    (target / "config.json").unlink()
    refused(cli("verify", patch, "--target", target), EXIT["corrupt"], "config.json", "missing")
    (target / "config.json").write_text("{}")
    refused(cli("verify", patch, "--target", target), EXIT["corrupt"], "config.json")


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_stale_temporary_of_either_kind(
    kind: str, cli: Run, base: Path, target: Path, patch: Path, tmp_path: Path
) -> None:
    for name in ("q", "out"):
        stale = names.temp_sibling(tmp_path / name)
        stale.mkdir() if kind == "directory" else stale.write_text("stale")
    assert cli("make", base, target, "-o", tmp_path / "q")[0] == 0
    assert cli("apply", base, patch, "-o", tmp_path / "out")[0] == 0
    assert tree(tmp_path / "out") == tree(target)


@pytest.mark.parametrize("role", ["base", "target", "patch", "output"])
def test_missing_paths(
    role: str, cli: Run, base: Path, target: Path, patch: Path, tmp_path: Path
) -> None:
    no = tmp_path / "no" / "such"
    if role == "base":
        refused(cli("make", no, target, "-o", tmp_path / "q"), EXIT["usage"], str(no))
        refused(cli("apply", no, patch, "-o", tmp_path / "q"), EXIT["usage"], str(no))
    elif role == "target":
        refused(cli("make", base, no, "-o", tmp_path / "q"), EXIT["usage"], str(no))
    elif role == "patch":
        refused(cli("apply", base, no, "-o", tmp_path / "q"), EXIT["usage"], str(no))
    else:
        refused(cli("make", base, target, "-o", no), EXIT["usage"], str(no))
        refused(cli("apply", base, patch, "-o", no), EXIT["usage"], str(no))


def test_arguments_in_the_wrong_order(cli: Run, base: Path, patch: Path, tmp_path: Path) -> None:
    refused(cli("apply", patch, base, "-o", tmp_path / "q"), EXIT["usage"], "BASE first")
    refused(cli("make", base, patch, "-o", tmp_path / "q"), EXIT["usage"], "not a checkpoint")


def test_special_files_and_loops(cli: Run, base: Path, target: Path, tmp_path: Path) -> None:
    os.mkfifo(target / "fifo")
    refused(cli("make", base, target, "-o", tmp_path / "q"), EXIT["usage"], "fifo")
    (target / "fifo").unlink()
    (target / "loop").symlink_to(target)
    refused(cli("make", base, target, "-o", tmp_path / "q"), EXIT["usage"], "loop")
    (target / "loop").unlink()
    (target / "dangling").symlink_to("nowhere")
    refused(cli("make", base, target, "-o", tmp_path / "q"), EXIT["usage"], "dangling")


def test_file_name_that_cannot_travel(cli: Run, base: Path, target: Path, tmp_path: Path) -> None:
    (target / "back\\slash").write_text("x")
    refused(cli("make", base, target, "-o", tmp_path / "q"), EXIT["unsupported"], "slash")
    (target / "back\\slash").unlink()
    Path(os.fsdecode(os.fsencode(target) + b"/\xff\xfe")).write_text("x")
    refused(
        cli("make", base, target, "-o", tmp_path / "q"), EXIT["unsupported"], "cannot be carried"
    )


# Disk and time


@pytest.mark.parametrize("verb", ["make", "make --part", "merge", "apply"])
def test_disk_full(verb: str, cli: Run, base: Path, target: Path, tmp_path: Path) -> None:
    """On a real file system of one megabyte, where one can be mounted."""
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(small)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("cannot mount a file system here")
    try:
        big = np.random.default_rng(0).bytes(1 << 20)
        (target / "noise").write_bytes(big)
        if verb == "make":
            result = cli("make", base, target, "-o", small / "p")
        elif verb == "make --part":
            result = cli("make", base, target, "--part", "1/1", "-o", small / "p")
        elif verb == "merge":
            make_part(base, target, Share(1, 1), tmp_path / "part")
            result = cli("merge", tmp_path / "part", "-o", small / "p")
        else:
            make_patch(base, target, tmp_path / "p")
            result = cli("apply", base, tmp_path / "p", "-o", small / "out")
        refused(result, EXIT["unavailable"], "no space left")
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", str(small)], check=True)


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_full_standard_output(
    unbuffered: str, base: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    with open("/dev/full", "wb") as full:
        run = subprocess.run(
            [sys.executable, "-m", "sparsediff", "make", base, target, "-o", "-"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert run.returncode == EXIT["unavailable"]
    assert run.stderr.count("\n") == 1
    assert "no space left" in run.stderr


@pytest.mark.parametrize("how", [["stats"], ["stats", "--csv"], ["show", "--json"], ["verify"]])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_results_to_a_full_or_closed_output(
    unbuffered: str, how: list[str], patch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    program = [sys.executable, "-m", "sparsediff", how[0], str(patch), *how[1:]]
    with open("/dev/full", "wb") as full:
        run = subprocess.run(program, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (run.returncode, run.stderr.count("\n")) == (EXIT["unavailable"], 1), run.stderr
    assert run.stderr.startswith("sparsediff: standard output: no space left")
    for redirect in (">&-", "<&-", "| true"):
        command = " ".join(program) + " " + redirect
        closed = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
        assert "Traceback" not in closed.stderr, (redirect, closed.stderr)


@pytest.mark.parametrize("redirect", ["<&-", ">&-"])
def test_patch_through_a_closed_stream(
    redirect: str, base: Path, target: Path, tmp_path: Path
) -> None:
    args = f"apply {base} - -o {tmp_path}/out" if "<" in redirect else f"make {base} {target} -o -"
    command = f"{sys.executable} -m sparsediff {args} {redirect}"
    run = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert run.returncode == EXIT["usage"], run.stderr
    assert "closed" in run.stderr
    assert "Traceback" not in run.stderr


def test_standard_output_closed_early(base: Path, target: Path, tmp_path: Path) -> None:
    (target / "noise").write_bytes(np.random.default_rng(0).bytes(1 << 20))
    command = f"{sys.executable} -m sparsediff make {base} {target} -o - | head -c 1"
    run = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True)
    assert run.returncode == EXIT["unavailable"]
    assert b"Traceback" not in run.stderr


@pytest.mark.parametrize("change", ["append", "touch", "replace", "remove", "truncate"])
def test_target_that_changes_while_it_is_read(
    change: str, base: Path, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = target / "model-00001-of-00002.safetensors"
    original = inputs.OpenFiles.locate
    seen = 0

    def locate(
        self: inputs.OpenFiles, file: inputs.InputFile, offset: int, size: int
    ) -> tuple[int, int] | None:  # called when the words of a bucket are about to be read
        nonlocal seen
        found = original(self, file, offset, size)
        seen += file.path == victim
        if seen == 1:
            seen += 1
            if change == "append":
                with open(victim, "ab") as f:
                    f.write(b"x")
            elif change == "touch":
                os.utime(victim, ns=(1, 1))
            elif change == "replace":
                shutil.copy(victim, tmp_path / "copy")
                os.replace(tmp_path / "copy", victim)
            elif change == "remove":
                victim.unlink()
            else:
                os.truncate(victim, offset + size - 1)
        return found

    monkeypatch.setattr(inputs.OpenFiles, "locate", locate)
    with pytest.raises(UnavailableError, match="changed while it was read") as info:
        make_patch(base, target, tmp_path / "p", jobs=1)
    assert str(victim) in str(info.value)
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("change", ["rewrite", "replace", "remove", "truncate"])
@pytest.mark.parametrize("side", ["base", "target"])
def test_files_that_change_between_two_buckets(
    side: str, change: str, jobs: int, base: Path, target: Path, tmp_path: Path
) -> None:
    """They stay open from one to the next."""
    victim = {"base": base, "target": target}[side] / "model-00001-of-00002.safetensors"
    calls = 0

    def progress(done: int, total: int) -> None:
        nonlocal calls
        calls += 1
        if calls != 3:
            return
        before = victim.stat()
        if change == "rewrite":  # and hide it
            with open(victim, "r+b") as f:
                f.seek(-1, os.SEEK_END)
                f.write(b"x")
            os.utime(victim, ns=(before.st_atime_ns, before.st_mtime_ns))
        elif change == "replace":
            shutil.copy2(victim, tmp_path / "copy")
            os.replace(tmp_path / "copy", victim)
        elif change == "remove":
            victim.unlink()
        else:
            os.truncate(victim, before.st_size // 2)

    before = os.listdir("/proc/self/fd")
    with pytest.raises(UnavailableError, match="changed while it was read") as info:
        make_patch(base, target, tmp_path / "p", jobs=jobs, bucket_words=64, progress=progress)
    assert calls >= 3
    assert str(victim) in str(info.value)
    assert not (tmp_path / "p").exists()
    assert os.listdir("/proc/self/fd") == before


def test_second_run_on_the_same_output_is_locked(
    cli: Run, base: Path, target: Path, patch: Path, tmp_path: Path
) -> None:
    with outputs.staged_file(tmp_path / "q", force=False):
        refused(cli("make", base, target, "-o", tmp_path / "q"), EXIT["locked"], "another run")
    with outputs.staged_directory(tmp_path / "out", force=False):
        refused(cli("apply", base, patch, "-o", tmp_path / "out"), EXIT["locked"], "another run")


def test_unpatched_payload_iteration_is_complete(patch: Path) -> None:
    with open_patch(patch) as opened:
        assert isinstance(opened, Patch)
        assert [n for n, _ in opened.payloads()] == list(opened.sizes)


def test_tensor_names_never_break_the_line(cli: Run, tmp_path: Path) -> None:
    b, t = training_pair(200)
    evil: dict[str, Stored] = {"a\nb\x1b[31m": b}
    a = write_safetensors(tmp_path / "a", evil)
    c = write_safetensors(tmp_path / "c", {"a\nb\x1b[31m": t})
    make_patch(a, c, tmp_path / "p")
    result = cli("apply", c, tmp_path / "p", "-o", tmp_path / "out")
    refused(result, EXIT["base"], "\\x0ab\\x1b")
    _, out, _ = cli("stats", tmp_path / "p")
    assert "\x1b" not in out


@pytest.mark.parametrize("jobs", [1, 2, 5])
@pytest.mark.parametrize("in_place", [False, True])
def test_wrong_base_and_damaged_payload_is_a_wrong_base(
    in_place: bool, jobs: int, tmp_path: Path
) -> None:
    pairs = [training_pair(5000, seed=i) for i in range(8)]
    for k, name in enumerate(("base", "target")):
        write_safetensors(tmp_path / name, {f"t{i}": pair[k] for i, pair in enumerate(pairs)})
    make_patch(tmp_path / "base", tmp_path / "target", tmp_path / "p", bucket_words=5000)
    data = bytearray((tmp_path / "p").read_bytes())
    data[-3] ^= 1
    (tmp_path / "p").write_bytes(data)
    with pytest.raises(CorruptError, match=r"bucket\.7 does not match its SHA-256"):
        apply_patch(tmp_path / "base", tmp_path / "p", tmp_path / "out", jobs=jobs)
    data = bytearray((tmp_path / "base").read_bytes())
    data[-5] ^= 1
    (tmp_path / "base").write_bytes(data)
    output = None if in_place else tmp_path / "out"
    with pytest.raises(WrongBaseError, match="wrong base") as info:
        apply_patch(tmp_path / "base", tmp_path / "p", output, in_place=in_place, jobs=jobs)
    assert info.value.tensor == "t7"
    assert (tmp_path / "base").read_bytes() == bytes(data)
