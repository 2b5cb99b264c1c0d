"""Version directories for slime's receivers, read back by their rules."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import xxhash
import zstandard
from safetensors import safe_open

from sparsediff import UnsupportedError, UsageError, make_patch
from sparsediff.updates import export_slime
from tests.conftest import Run
from tests.support.pairs import change_some, training_pair, tree, write_safetensors
from tests.support.refusals import refused
from tests.updates.test_positions import words_in


def receive(version: Path, state: dict[str, bytes], applied: str) -> str:
    """Apply a version as a receiver does, which is told nothing but the directory."""
    index = json.loads((version / "model.safetensors.index.json").read_text())
    said = index["metadata"]
    assert said["base_version"] == applied
    assert (said["compression_format"], said["checksum_format"]) == ("zstd", "xxh3-128")
    assert said["delta_encoding"] == "xor"
    for name, file in index["weight_map"].items():
        with safe_open(version / file, "np") as f:
            frame, checksum = f.get_tensor(name).tobytes(), f.metadata()[name]
        delta = np.frombuffer(zstandard.ZstdDecompressor().decompress(frame), np.uint8)
        new = (np.frombuffer(state[name], np.uint8) ^ delta).tobytes()
        assert xxhash.xxh3_128(new).hexdigest() == checksum
        state[name] = new
    return str(said["version"])


def held(checkpoint: Path) -> dict[str, bytes]:
    return {name: words.tobytes() for (_, name), words in words_in(checkpoint).items()}


def test_a_receiver_gets_every_version(base: Path, target: Path, tmp_path: Path) -> None:
    for path, shard in ((base, b"a"), (target, b"b")):  # other dtypes, and some that stay
        data = change_some(bytes(9000), 0.5, 1)
        more = change_some(data, 0.01, 2) if shard == b"b" else data
        tensors = {n: (n, (3000,) if n == "U8" else (750,), more[:3000]) for n in ("U8", "F32")}
        write_safetensors(path / "more.safetensors", {**tensors, "still": ("U8", (9000,), data)})
    steps = [base, target, base]
    state, applied = held(base), "000006"
    (tmp_path / "sync").mkdir()
    for i, (before, after) in enumerate(pairwise(steps)):
        make_patch(before, after, tmp_path / "p", bucket_words=3000, force=True)
        version = tmp_path / "sync" / f"weight_v{7 + i:06d}"
        result = export_slime(tmp_path / "p", before, version)
        assert {p.name for p in version.iterdir()} == {
            "model.safetensors.index.json",
            "model-00000-of-00001.safetensors",
        }
        assert "still" not in result.sparse
        applied = receive(version, state, applied)
        assert state == held(after)
    assert applied == "000008"
    make_patch(base, base, tmp_path / "p", force=True)
    export_slime(tmp_path / "p", base, tmp_path / "sync/weight_v000012", base_version=8)
    assert receive(tmp_path / "sync/weight_v000012", state, applied) == "000012"
    assert state == held(base)


def test_what_its_receivers_cannot_take_is_refused(tmp_path: Path) -> None:
    one, two = training_pair(1000)
    _, longer = training_pair(1100)
    base = write_safetensors(tmp_path / "a", {"w": one, "x": one})
    for tensors, words in (
        ({"w": two}, "is gone"),
        ({"w": two, "x": one, "y": two}, "is new"),
        ({"w": longer, "x": one}, "is new or grew"),
    ):
        write_safetensors(tmp_path / "b", tensors)
        make_patch(base, tmp_path / "b", tmp_path / "p", force=True)
        before = tree(tmp_path)
        with pytest.raises(UnsupportedError, match=words):
            export_slime(tmp_path / "p", base, tmp_path / "weight_v000001")
        assert tree(tmp_path) == before
    with pytest.raises(UsageError, match="no name that slime's receivers"):
        export_slime(tmp_path / "p", base, tmp_path / "v1")


def test_on_the_command_line(base: Path, target: Path, tmp_path: Path, cli: Run) -> None:
    make_patch(base, target, tmp_path / "p")
    out = tmp_path / "weight_v000003"
    command = ("export", base, tmp_path / "p", "-o", out)
    code, said, _ = cli(*command, "--layout", "slime", "--base-version", 1)
    assert code == 0
    assert "words in 12 tensors" in said
    state = held(base)
    assert receive(out, state, "000001") == "000003"
    assert state == held(target)
    refused(cli(*command, "--layout", "slime"), 2, "exists")
    assert cli(*command, "--layout", "slime", "-f", "-q") == (0, "", "")
    assert cli("export", base, tmp_path / "p", "-o", "x", "--base-version", 1)[0] == 2
