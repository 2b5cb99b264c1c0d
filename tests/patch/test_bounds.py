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
from tests.conftest import Run
from tests.patch.rewriting import container
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


@pytest.mark.parametrize("kind", ITEMS)
def test_a_small_patch_takes_little_memory(kind: str, tmp_path: Path) -> None:
    patch = tmp_path / "p.sdiff"
    patch.write_bytes(bomb(ITEMS[kind]))
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


_values = st.recursive(
    st.integers(0, 999) | st.text('\\",[{a'),
    lambda inner: st.lists(inner) | st.dictionaries(st.text('\\",[{a'), inner),
)


@given(st.lists(_values))
def test_what_stands_in_strings_is_not_counted(document: list[object]) -> None:
    n_lists = n_values = 0
    rest: list[object] = [document]
    while rest:
        value = rest.pop()
        if isinstance(value, (list, dict)):
            n_lists += 1
            n_values += max(len(value) - 1, 0)
            rest += value.values() if isinstance(value, dict) else value
    text = json.dumps([document, [""] * n_lists]).encode()  # each list has a string of its own
    most = n_lists + n_values + 2 + 1 + n_lists - 1
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(manifest_json, "_COUNTED_AT_ONCE", 7)
        patched.setattr(manifest_json, "_MAX_VALUES", most)
        manifest_json.check_paid(text, 0)
        patched.setattr(manifest_json, "_MAX_VALUES", most - 1)
        with pytest.raises(CorruptError, match="too many values"):
            manifest_json.check_paid(text, 0)


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
    monkeypatch.setattr(manifest_json, "_MAX_VALUES", 100)
    monkeypatch.setattr(manifest_json, "_VALUES_PER_BYTE", 1)
    with pytest.raises(UnsupportedError, match="too many sizes"):
        make_patch(base, target, tmp_path / "q")
    refused(cli("verify", tmp_path / "p"), EXIT["corrupt"], "too many values")
    assert not (tmp_path / "q").exists()
