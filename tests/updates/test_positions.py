"""Positions and words of a patch: what they say is all that changes, and it was verified."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file
from safetensors.torch import load_file as load_torch

from sparsediff import (
    CorruptError,
    UnsupportedError,
    Update,
    WrongBaseError,
    apply_patch,
    export_patch,
    iter_updates,
    make_patch,
    open_patch,
    removed_tensors,
)
from sparsediff.checkpoint import open_checkpoint
from sparsediff.checkpoint.memory import MemoryTensor, memory_checkpoint
from sparsediff.dtypes import DTYPES
from tests.conftest import Run
from tests.support.pairs import (
    Array,
    Stored,
    change_some,
    model_directory,
    training_pair,
    tree,
    write_safetensors,
)
from tests.support.patches import rewrite
from tests.support.refusals import refused


def words_in(checkpoint: Path) -> dict[tuple[str, str], Array]:
    """Words of each tensor by file and name, read without any of what is tested."""
    return {
        (file.name, span.name): np.frombuffer(
            file.source.read(span.offset, span.nbytes), span.dtype.numpy
        ).copy()
        for file in open_checkpoint(checkpoint).files
        for span in file.spans
        if span.name
    }


def check_updates(base: Path, target: Path, patch: Path, **options: Any) -> int:
    """Apply all updates to the base's words, compare with the target's; number of updates."""
    old, new = words_in(base), words_in(target)
    by_name = {name: words for (_, name), words in old.items()}
    state = {
        key: np.concatenate([by_name[key[1]], np.zeros(w.size, w.dtype)])[: w.size]
        if key[1] in by_name and by_name[key[1]].dtype == w.dtype
        else np.zeros(w.size, w.dtype)
        for key, w in new.items()
    }
    n, at = 0, dict.fromkeys(new, -1)
    for update in iter_updates(patch, base, **options):
        key = update.file, update.name
        assert update.n_words == new[key].size
        assert update.indices.size == update.values.size > 0
        assert at[key] < update.indices[0]
        assert (np.diff(update.indices) > 0).all()
        assert update.indices[-1] < update.n_words
        at[key] = int(update.indices[-1])
        if update.n_based == update.n_words and key in old:
            assert (state[key][update.indices] != update.values).all()
        state[key][update.indices] = update.values
        n += 1
    for key, words in new.items():
        assert state[key].tobytes() == words.tobytes(), key
    return n


def test_directories_and_bucket_cuts(base: Path, target: Path, tmp_path: Path) -> None:
    for bucket_words in (1 << 24, 1000):
        make_patch(base, target, tmp_path / "p.sdiff", bucket_words=bucket_words, force=True)
        assert check_updates(base, target, tmp_path / "p.sdiff") > 5
        for jobs in (1, 3):
            check_updates(base, target, tmp_path / "p.sdiff", jobs=jobs, index_dtype="int32")


@given(
    dtype=st.sampled_from(sorted(DTYPES)),
    share=st.sampled_from([0.0, 0.001, 0.02, 0.6, 1.0]),
    seed=st.integers(0, 50),
    grow=st.sampled_from([0, 16]),
)
def test_every_dtype(
    dtype: str, share: float, seed: int, grow: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = tmp_path_factory.mktemp("u")
    size = DTYPES[dtype].n_bytes((240, 16)) or 0
    data = np.random.default_rng(seed).bytes(size)
    more = np.random.default_rng(seed).bytes(DTYPES[dtype].n_bytes((grow, 16)) or 0)
    after = change_some(data, share, seed) + more
    a = write_safetensors(place / "a.safetensors", {"x": (dtype, (240, 16), data)})
    b = write_safetensors(place / "b.safetensors", {"x": (dtype, (240 + grow, 16), after)})
    make_patch(a, b, place / "p.sdiff", bucket_words=1500)
    check_updates(a, b, place / "p.sdiff")
    check_export(a, b, place / "p.sdiff", place / "e.safetensors")


def test_new_removed_resharded_and_renamed(tmp_path: Path) -> None:
    before, after = training_pair(4000)
    bias = ("F32", (3,), b"\0" * 12)
    a = write_safetensors(tmp_path / "a" / "x.safetensors", {"w": before, "gone": bias}).parent
    b = write_safetensors(tmp_path / "b" / "y.safetensors", {"w": after, "moved": bias}).parent
    new = ("I16", (3,), b"abcdef")
    write_safetensors(b / "z.safetensors", {"copy": after, "empty": ("F32", (0,), b""), "new": new})
    make_patch(a, b, tmp_path / "p.sdiff")
    with open_patch(tmp_path / "p.sdiff") as opened:  # the patch knows where they come from
        assert {t.name for t in opened.manifest.tensors if not t.n_based} == {"empty", "new"}
    updates = {u.name: u for u in iter_updates(tmp_path / "p.sdiff", a)}
    assert set(updates) == {"w", "copy", "moved", "new"}
    assert updates["w"].n_based == 4000 > updates["w"].indices.size
    for name in ("copy", "moved", "new"):  # by name, the base has nothing of them
        assert updates[name].n_based == 0
        assert updates[name].indices.tolist() == list(range(updates[name].n_words))
    assert {u.file for u in updates.values()} == {"y.safetensors", "z.safetensors"}
    assert removed_tensors(tmp_path / "p.sdiff", a) == ["gone"]
    check_updates(a, b, tmp_path / "p.sdiff")
    check_export(a, b, tmp_path / "p.sdiff", tmp_path / "e.safetensors")


def test_one_name_in_two_files_that_change_places(tmp_path: Path) -> None:
    one, two = training_pair(4000)
    for side, x, y in (("a", one, two), ("b", two, one)):
        write_safetensors(tmp_path / side / "x.safetensors", {"w": x})
        write_safetensors(tmp_path / side / "y.safetensors", {"w": y})
    a, b = tmp_path / "a", tmp_path / "b"
    make_patch(a, b, tmp_path / "p.sdiff")
    old, new = words_in(a), words_in(b)
    for u in iter_updates(tmp_path / "p.sdiff", a):
        old[u.file, u.name][u.indices] = u.values
    assert all((old[key] == new[key]).all() for key in new)
    with pytest.raises(UnsupportedError, match="several files"):
        export_patch(tmp_path / "p.sdiff", a, tmp_path / "e.safetensors")


def test_base_in_memory(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    before: dict[str, Any] = {
        "f": rng.standard_normal((50, 40)).astype(np.float32),
        "c": rng.standard_normal(30).astype(np.complex64),
        "b": rng.random(100) < 0.5,
        "i": np.arange(100),
    }
    after = {name: array.copy() for name, array in before.items()}
    after["f"][::3, ::7] = -before["f"][::3, ::7]
    after["i"][5] = -1
    a, b = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_file(before, a)
    save_file(after, b)
    make_patch(a, b, tmp_path / "p.sdiff")
    turned: dict[str, Array] = dict(before) | {"f": np.asfortranarray(before["f"])}
    for base in (before, turned, before | {"i": before["i"].astype(">i8"), "more": before["i"]}):
        found = {u.name: u for u in iter_updates(tmp_path / "p.sdiff", base)}
        assert set(found) == {"f", "i"}
        assert (found["i"].indices[0], int(found["i"].values[0])) == (5, (1 << 64) - 1)
    assert removed_tensors(tmp_path / "p.sdiff", before | {"more": before["i"]}) == ["more"]
    for wrong, words in (
        ({"f": before["f"]}, "missing"),
        (before | {"i": before["i"].astype(np.int32)}, "found I32"),
        (before | {"i": before["i"][:50]}, "expected I64"),
        (before | {"f": after["f"]}, "already the target's"),
        (before | {"c": before["c"] + 1}, "not the words"),
    ):
        with pytest.raises(WrongBaseError, match=words) as caught:
            list(iter_updates(tmp_path / "p.sdiff", wrong))
        assert caught.value.offset is None
    with pytest.raises(UnsupportedError, match="safetensors has no such dtype"):
        list(iter_updates(tmp_path / "p.sdiff", before | {"x": np.zeros(3, np.longdouble)}))
    checkpoint = memory_checkpoint(before)
    assert checkpoint.files[0].source.read(0, checkpoint.n_bytes) == a.read_bytes()


def test_nothing_of_a_bad_bucket_is_yielded(base: Path, target: Path, tmp_path: Path) -> None:
    """Whatever byte of the base's tensors or of the patch is wrong, only right words come out."""
    patch = tmp_path / "p.sdiff"
    make_patch(base, target, patch, bucket_words=4000)
    new = words_in(target)
    rng = np.random.default_rng(1)
    n_seen = 0
    shard = base / "model-00001-of-00002.safetensors"
    for path in (patch, shard):
        good = path.read_bytes()
        for at in rng.integers(len(good) // 2, len(good), 12):
            bad = bytearray(good)
            bad[at] ^= 1 << int(rng.integers(8))
            path.write_bytes(bad)
            seen: list[Update] = []
            with pytest.raises((CorruptError, WrongBaseError)):
                seen.extend(iter_updates(patch, base, jobs=2))
            assert all((new[u.file, u.name][u.indices] == u.values).all() for u in seen)
            n_seen += len(seen)
        path.write_bytes(good)
    assert n_seen > 0
    check_updates(base, target, patch)


def test_files_without_tensors_are_passed_over(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    big = np.random.default_rng(0).bytes(9 << 20)
    before, after = training_pair(1000)
    for side, data, tensor in ((a, big, before), (b, big[::-1], after)):
        write_safetensors(side / "m.safetensors", {"w": tensor})
        (side / "tokenizer.bin").write_bytes(data)
    make_patch(a, b, tmp_path / "p.sdiff")
    assert {u.name for u in iter_updates(tmp_path / "p.sdiff", a)} == {"w"}
    words = words_in(a)["m.safetensors", "w"]

    def read(offset: int, buffer: Any) -> None:
        memoryview(buffer).cast("B")[:] = words.tobytes()[offset : offset + len(buffer) * 2]

    in_memory = {"w": MemoryTensor(DTYPES["BF16"], (1000,), read)}
    assert {u.name for u in iter_updates(tmp_path / "p.sdiff", in_memory)} == {"w"}
    export_patch(tmp_path / "p.sdiff", a, tmp_path / "e.safetensors")
    assert set(load_torch(tmp_path / "e.safetensors")) == {"w.indices", "w.values"}


def check_export(
    base: Path, target: Path, patch: Path, output: Path, layout: Any = "plain"
) -> None:
    """Read an export as a stranger would and apply it; compare with the target."""
    result = export_patch(patch, base, output, layout=layout, force=True)
    assert output.stat().st_size == result.n_bytes
    positions, values = {"plain": (".indices", ".values"), "trl": (".idx", ".val")}[layout]
    old = {name: words for (_, name), words in words_in(base).items()}
    new = {name: words for (_, name), words in words_in(target).items()}
    entries = {name: words for (_, name), words in words_in(output).items()}
    with safe_open(output, "np") as f:
        metadata = f.metadata()
    shapes = {s.name: s.shape for f in open_checkpoint(target).files for s in f.spans}
    for name, shape in json.loads(metadata["shapes"]).items():
        assert tuple(shape) == shapes[name]
        at = entries.pop(name + positions).astype(np.int64)
        patched = np.zeros_like(new[name])
        n = min(patched.size, old[name].size)
        patched[:n] = old[name][:n]
        patched[at] = entries.pop(name + values).view(patched.dtype)
        assert patched.tobytes() == new.pop(name).tobytes()
    assert set(entries) == set(result.whole)
    for name, words in entries.items():
        assert words.tobytes() == new.pop(name).tobytes()
    for name, words in new.items():
        assert words.tobytes() == old[name].tobytes() if words.size else True


@pytest.mark.parametrize("layout", ["plain", "trl"])
def test_export_is_all_a_reader_needs(
    base: Path, target: Path, tmp_path: Path, layout: str
) -> None:
    make_patch(base, target, tmp_path / "p.sdiff", bucket_words=3000)
    check_export(base, target, tmp_path / "p.sdiff", tmp_path / "e.safetensors", layout)
    write_safetensors(target / "more.safetensors", {"new": ("I16", (2, 2), b"12345678")})
    make_patch(base, target, tmp_path / "p.sdiff", bucket_words=3000, force=True)
    if layout == "plain":
        check_export(base, target, tmp_path / "p.sdiff", tmp_path / "e.safetensors", layout)
    else:
        with pytest.raises(UnsupportedError, match="leave it out without a word"):
            check_export(base, target, tmp_path / "p.sdiff", tmp_path / "e.safetensors", layout)


def test_export_with_plain_torch(base: Path, target: Path, tmp_path: Path) -> None:
    """As the receiving end of a delta weight sync does it."""
    make_patch(base, target, tmp_path / "p.sdiff")
    export_patch(tmp_path / "p.sdiff", base, tmp_path / "e.safetensors")
    state = {n: t for f in sorted(base.glob("*.safetensors")) for n, t in load_torch(f).items()}
    delta = load_torch(tmp_path / "e.safetensors")
    for key, positions in delta.items():
        if key.endswith(".indices"):
            name = key.removesuffix(".indices")
            assert positions.dtype == torch.int32
            assert delta[f"{name}.values"].dtype == state[name].dtype
            state[name].view(-1)[positions.long()] = delta[f"{name}.values"]
    for f in target.glob("*.safetensors"):
        for name, tensor in load_torch(f).items():
            assert torch.equal(state[name].view(torch.uint8), tensor.view(torch.uint8))


def test_the_trl_layout_has_the_fields_its_reader_asks_for(
    base: Path, target: Path, tmp_path: Path
) -> None:
    make_patch(base, target, tmp_path / "p.sdiff")
    export_patch(tmp_path / "p.sdiff", base, tmp_path / "e.safetensors", layout="trl")
    with safe_open(tmp_path / "e.safetensors", "pt") as f:
        metadata, keys = f.metadata(), set(f.keys())
    assert metadata["encoding"] == "raw"
    assert (metadata["format"], metadata["sparse"]) == ("sparse_weight_patch", "True")
    assert 0 < float(metadata["sparsity"]) < 1
    names = {k[:-4] for k in keys if k.endswith(".val")}
    assert keys == {f"{n}{s}" for n in names for s in (".idx", ".val")}


def test_export_on_the_command_line(base: Path, target: Path, tmp_path: Path, cli: Run) -> None:
    patch, output = tmp_path / "p.sdiff", tmp_path / "e.safetensors"
    make_patch(base, target, patch)
    code, out, err = cli("export", base, patch, "-o", output)
    assert (code, err) == (0, "")
    assert "words in 12 tensors" in out
    first = output.read_bytes()
    refused(cli("export", base, patch, "-o", output), 2, "exists")
    code, out, _ = cli("export", base, patch, "-o", output, "-f", "--json", "-j", 1)
    assert code == 0
    assert set(json.loads(out)["sparse"]) == {u.name for u in iter_updates(patch, base)}
    assert output.read_bytes() == first
    refused(cli("export", target, patch, "-o", output, "-f"), 10, "already the target's")
    refused(cli("export", tmp_path / "none", patch, "-o", tmp_path / "x"), 2)
    refused(cli("export", base, patch, "-o", base / "x"), 2, "lies in")
    patch.write_bytes(patch.read_bytes()[:-1])
    refused(cli("export", base, patch, "-o", output, "-f"), 11, "cut short")
    assert output.read_bytes() == first
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "base",
        "e.safetensors",
        "p.sdiff",
        "target",
    ]


def test_export_refuses_what_it_cannot_lay_out(tmp_path: Path) -> None:
    def checkpoint(name: str, words: bytes) -> Path:
        tensors: dict[str, Stored] = dict.fromkeys(("x", "x.indices"), ("U8", (4,), words))
        if words != b"0000":
            tensors["x.indices"] = ("I32", (1,), words)  # new, so it is stored whole
        return write_safetensors(tmp_path / name, tensors)

    a, b = checkpoint("a.safetensors", b"0000"), checkpoint("b.safetensors", b"0101")
    make_patch(a, b, tmp_path / "p.sdiff")
    with pytest.raises(UnsupportedError, match="two entries"):
        export_patch(tmp_path / "p.sdiff", a, tmp_path / "e.safetensors")


@pytest.mark.parametrize("by", [-1, 1])
def test_export_of_a_patch_that_miscounts(
    base: Path, target: Path, tmp_path: Path, by: int
) -> None:
    make_patch(base, target, tmp_path / "p.sdiff")

    def miscount(manifest: Any, _: Any) -> None:
        tensors = manifest.tensors
        row = next(i for i, t in enumerate(tensors) if 1 < t.n_ones < t.n_stepped < t.n_based)
        tensors.n_stepped[row] += by
        tensors.n_ones[row] += by

    rewrite(tmp_path / "p.sdiff", miscount)
    apply_patch(base, tmp_path / "p.sdiff", tmp_path / "out")  # the words are right
    assert tree(tmp_path / "out") == tree(target)
    before = set(tmp_path.iterdir())
    with pytest.raises(CorruptError, match="number of changed words"):
        export_patch(tmp_path / "p.sdiff", base, tmp_path / "e.safetensors")
    assert set(tmp_path.iterdir()) == before


def test_int32_positions_have_an_end(base: Path, target: Path, tmp_path: Path) -> None:
    from sparsediff.updates.changes import Change

    change = Change(0, (1 << 31) + 5, np.array([0, 7], np.int32), np.zeros(2, np.uint16))
    assert change.indices(np.int64).tolist() == [(1 << 31) + 5, (1 << 31) + 12]


def test_a_model_directory_is_unharmed(base: Path, target: Path, tmp_path: Path) -> None:
    before = tree(base)
    make_patch(base, target, tmp_path / "p.sdiff")
    list(iter_updates(tmp_path / "p.sdiff", base))
    export_patch(tmp_path / "p.sdiff", base, tmp_path / "e.safetensors")
    assert tree(base) == before == tree(model_directory(tmp_path / "again"))


def test_export_takes_patch_and_base_in_their_old_order_too(
    base: Path, target: Path, tmp_path: Path, cli: Run
) -> None:
    patch = tmp_path / "p.sdiff"
    make_patch(base, target, patch)
    assert cli("export", base, patch, "-o", tmp_path / "new", "-q") == (0, "", "")
    code, out, err = cli("export", patch, base, "-o", tmp_path / "old", "-q")
    assert (code, out) == (0, "")
    assert err == "sparsediff: note: export takes BASE first, then PATCH, as apply does\n"
    assert (tmp_path / "old").read_bytes() == (tmp_path / "new").read_bytes()
