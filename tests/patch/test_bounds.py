"""What a manifest unfolds to is paid for by the bytes that are stored of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from sparsediff import make_patch
from sparsediff.errors import CorruptError, UnsupportedError
from sparsediff.patch import manifest_json
from sparsediff.patch.columns import Columns
from sparsediff.patch.container import MAX_MANIFEST
from tests.conftest import Run
from tests.hostile import write as hostile
from tests.patch.rewriting import container, dumped
from tests.support.costs import cost
from tests.support.refusals import EXIT, refused

SIZE = (1 << 25) - 64  # bytes of text, nearly as many as are allowed
ITEMS = {
    "numbers": b"999,",
    "strings": b'"aa",',
    "lists": b"[],",
    "lists that are paid for": b'[],"",',
    "escaped quotes": b'\\"[',
}


def bomb(item: bytes) -> bytes:
    """A patch of some 3000 bytes whose manifest is one item, again and again."""
    text = (b'{"a":"%b"}' if item[:1] == b"\\" else b'{"a":[%b0]}') % (item * (SIZE // len(item)))
    return container({"manifest": zstandard.ZstdCompressor(19).compress(text)})


def rows() -> bytes:
    """A patch of as many whose manifest is as it should be, but for what it unfolds to."""
    manifest = hostile.anchor()
    row = {k: column[0] for k, column in manifest["tensors"].items()} | {"shape": [999] * 30}
    manifest["tensors"] = {k: [value] * 190_000 for k, value in row.items()}
    manifest["target"]["tensors"] = [190_000]
    frame = zstandard.ZstdCompressor(19).compress(dumped(manifest))
    return container({"manifest": frame})


@pytest.mark.parametrize("kind", [*ITEMS, "rows"])
def test_a_small_patch_takes_little_memory(kind: str, tmp_path: Path) -> None:
    patch = tmp_path / "p.sdiff"
    patch.write_bytes(rows() if kind == "rows" else bomb(ITEMS[kind]))
    assert patch.stat().st_size < 4000
    found = cost("verify", patch)
    assert found.code == EXIT["corrupt"], found.err
    assert found.err.count("\n") == 1
    assert "malformed manifest" in found.err
    assert found.peak_bytes < 300 << 20


def test_text_is_not_counted_as_another_encoding_than_it_is_read_as(tmp_path: Path) -> None:
    """In UTF-16 half of a letter is a quote, behind which nothing would be counted."""
    text = '{"a":"\u0122","b":[%s0]}' % ("[]," * (SIZE // 6 - 20))
    patch = tmp_path / "p.sdiff"
    frame = zstandard.ZstdCompressor(19).compress(text.encode("utf-16-le"))
    patch.write_bytes(container({"manifest": frame}))
    found = cost("verify", patch)
    assert (found.code, found.err.count("\n")) == (EXIT["corrupt"], 1), found.err
    assert "malformed manifest" in found.err
    assert found.peak_bytes < 300 << 20


@given(st.lists(st.text('\\",[]{}ab')))
def test_names_are_counted_without_unfolding_them(names: list[str]) -> None:
    text = json.dumps({"a": {"name": names, "size": []}}, separators=(",", ":"))
    columns = Columns(text.encode(), {"a": ("name", "size")})
    assert (columns.n_rows("a", "name"), columns.n_rows("a", "size")) == (len(names), 0)
    assert (columns.take("a", "name"), columns.take("a", "size")) == (names, [])


@pytest.mark.parametrize(
    ("section", "column", "value"),
    [
        ("tensors", "largest", "[999,999]"),
        ("tensors", "name", '["a","b"]'),
        ("tensors", "median", "[[1],[2]]"),
        ("tensors", "shape", '[[3],{"a":3}]'),
        ("buckets", "sha256", '[{"":{"":1}}]'),
        ("target", "sha256", "[null,null]"),
        ("base", "layout", "[[[1]]]"),
    ],
)
def test_columns_are_refused_before_they_are_unfolded(
    section: str, column: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = hostile.anchor()
    manifest_json.parse(dumped(manifest), 1)
    manifest[section][column] = "@"
    monkeypatch.setattr(Columns, "take", lambda *_: pytest.fail("unfolded"))
    with pytest.raises(CorruptError, match="malformed manifest"):
        manifest_json.parse(dumped(manifest).replace(b'"@"', value.encode()), 1)


def test_as_many_tensors_as_ever_are_read_however_few_bytes_they_take() -> None:
    n = 400_000
    manifest = hostile.anchor()
    row = {k: column[0] for k, column in manifest["tensors"].items()}
    row |= {"name": "model.layers.12.mlp.experts.gate", "shape": [4096, 64], "largest": 128}
    manifest["tensors"] = {k: [value] * n for k, value in row.items()}
    text = dumped(manifest)
    assert len(text) < MAX_MANIFEST
    manifest_json.find_columns(text, 1)
    manifest["tensors"] = {k: [value] * n for k, value in (row | {"shape": [1] * 24}).items()}
    text = dumped(manifest)
    manifest_json.find_columns(text, 1_000_000)  # paid for
    with pytest.raises(CorruptError, match="too much for its size"):
        manifest_json.find_columns(text, 999_999)


def test_what_no_reader_would_take_is_not_written(
    tmp_path: Path, cli: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = b'{"w":{"dtype":"U8","shape":[%b1],"data_offsets":[0,1]}}' % (b"1," * 5000)
    header += b" " * (-len(header) % 8)
    base, target = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    for path, byte in ((base, b"x"), (target, b"y")):
        path.write_bytes(len(header).to_bytes(8, "little") + header + byte)
    make_patch(base, target, tmp_path / "p")
    assert cli("verify", tmp_path / "p")[0] == 0
    monkeypatch.setattr(manifest_json, "_MAX_MEMORY", 80_000)
    with pytest.raises(UnsupportedError, match="sizes of shapes"):
        make_patch(base, target, tmp_path / "q")
    refused(cli("verify", tmp_path / "p"), EXIT["corrupt"], "too much for its size")
    assert not (tmp_path / "q").exists()
