"""make and apply on whole checkpoints: whatever goes in comes out, byte for byte."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsediff import apply_patch, make_patch, open_patch
from sparsediff.apply import chain as chain_module
from sparsediff.checksum import digest
from sparsediff.codec.zstd import compress
from sparsediff.disk import inputs, outputs
from sparsediff.dtypes import DTYPES
from sparsediff.errors import WrongBaseError
from sparsediff.patch.container import pack
from tests.support.pairs import (
    RNG,
    Stored,
    bf16,
    change_some,
    model_directory,
    safetensors_bytes,
    step_of_training,
    training_pair,
    tree,
    words,
    write_safetensors,
)
from tests.support.patches import names, round_trip, tensor, tensors


def test_directory_round_trip(base: Path, target: Path, tmp_path: Path) -> None:
    round_trip(base, target, tmp_path)


def test_unchanged_directory_makes_a_tiny_patch(base: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    shutil.copytree(base, target)
    assert round_trip(base, target, tmp_path) < 2000


def test_one_changed_config_costs_little(base: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    shutil.copytree(base, target)
    vocab = target / "tokenizer" / "vocab.txt"
    vocab.write_text(vocab.read_text().replace("token77\n", "token78\n"))
    assert round_trip(base, target, tmp_path) < 2000


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_every_dtype_round_trip(dtype: str, tmp_path: Path) -> None:
    n_bytes = 3000 * DTYPES[dtype].bits // 8
    data = RNG(1).bytes(n_bytes)
    base: dict[str, Stored] = {
        "matrix": (dtype, (30, 100), data),
        "empty": (dtype, (0, 7), b""),
        "scalar": ("F32", (), b"\0\0\x80\x3f"),
    }
    target = base | {"matrix": (dtype, (30, 100), change_some(data, 0.02))}
    round_trip(
        write_safetensors(tmp_path / "a.safetensors", base),
        write_safetensors(tmp_path / "b.safetensors", target, metadata={"step": "1"}),
        tmp_path,
    )


@pytest.mark.parametrize(
    "options",
    [
        {"indent": 3},
        {"reverse_header": True},
        {"pad": 1000},
        {"metadata": {"ünïcode": "\n\t", "a": ""}},
        {"metadata": {}},
    ],
)
def test_odd_header_round_trip(options: dict[str, object], tmp_path: Path) -> None:
    base, target = training_pair(5000)
    a = write_safetensors(tmp_path / "a", {"x": base, "y": base})
    b = write_safetensors(tmp_path / "b", {"y": target, "x": target}, **options)
    assert round_trip(a, b, tmp_path) < 8000


def test_resharded_directory_stays_small(base: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    shutil.copytree(base, target)
    shards = sorted(target.glob("*.safetensors"))
    tensors: dict[str, Stored] = {}
    for shard in shards:
        raw = shard.read_bytes()
        n = int.from_bytes(raw[:8], "little")
        for name, e in json.loads(raw[8 : 8 + n]).items():
            if name != "__metadata__":
                begin, end = e["data_offsets"]
                tensors[name] = (e["dtype"], tuple(e["shape"]), raw[8 + n + begin : 8 + n + end])
        shard.unlink()
    write_safetensors(target / "model.safetensors", dict(sorted(tensors.items(), reverse=True)))
    assert round_trip(base, target, tmp_path) < 4000


def test_renamed_and_tied_tensors_are_found_by_content(tmp_path: Path) -> None:
    pairs = [training_pair(40_000, 1e-6, seed) for seed in range(3)]
    a = write_safetensors(tmp_path / "a", {f"layer.{i}": p[0] for i, p in enumerate(pairs)})
    renamed = {f"model.layer.{i}": p[1] for i, p in enumerate(pairs)}
    b = write_safetensors(tmp_path / "b", renamed | {"head": pairs[0][1]})
    assert round_trip(a, b, tmp_path) < 10_000


def test_grown_and_shrunk_vocabulary(tmp_path: Path) -> None:
    before, after = (bf16(v).reshape(-1, 100) for v in step_of_training(100_000, 1e-6))
    small = write_safetensors(tmp_path / "small", {"embed": words("BF16", before[:900])})
    large = write_safetensors(tmp_path / "large", {"embed": words("BF16", after)})
    assert round_trip(small, large, tmp_path) < 10_000 * 2 + 8000  # new rows cost about themselves
    assert round_trip(large, small, tmp_path) < 5000


def test_changed_dtype_and_shape(tmp_path: Path) -> None:
    before, after = step_of_training(6000, 1e-6)
    a = write_safetensors(
        tmp_path / "a", {"x": words("F32", before), "y": words("F32", before.reshape(60, 100))}
    )
    b = write_safetensors(
        tmp_path / "b", {"x": words("BF16", bf16(after)), "y": words("F32", after.reshape(100, 60))}
    )
    round_trip(a, b, tmp_path)


def test_tensors_of_one_name_in_several_files(tmp_path: Path) -> None:
    for side, k in (("a", 0), ("b", 1)):
        write_safetensors(tmp_path / side / "model.safetensors", {"w": training_pair(3000)[k]})
        write_safetensors(
            tmp_path / side / "ema.safetensors", {"w": training_pair(3000, seed=5)[k]}
        )
    round_trip(tmp_path / "a", tmp_path / "b", tmp_path)


def test_files_added_removed_and_turned_into_directories(
    base: Path, target: Path, tmp_path: Path
) -> None:
    (base / "gone.bin").write_bytes(b"x" * 1000)
    (base / "thing").write_text("a file")
    (target / "thing").mkdir()
    (target / "thing" / "deep").write_text("a directory now")
    (target / "new.safetensors").write_bytes(safetensors_bytes({"n": training_pair(1000)[0]}))
    (target / "empty.safetensors").write_bytes(safetensors_bytes({}))
    round_trip(base, target, tmp_path)
    round_trip(target, base, tmp_path)


def test_file_to_directory_and_back(base: Path, tmp_path: Path) -> None:
    single = tmp_path / "single.safetensors"
    shutil.copy(base / "model-00001-of-00002.safetensors", single)
    round_trip(single, base, tmp_path)
    shutil.rmtree(tmp_path / "out")
    round_trip(base, single, tmp_path)


def test_large_opaque_file_is_sparse_too(tmp_path: Path) -> None:
    data = RNG(0).bytes(9 << 20)
    (tmp_path / "a").write_bytes(data)
    (tmp_path / "b").write_bytes(change_some(data, 0.0005) + b"tail")
    make_patch(tmp_path / "a", tmp_path / "b", tmp_path / "p")
    apply_patch(tmp_path / "a", tmp_path / "p", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "p").stat().st_size < 20_000


def test_links_are_followed_on_reading(base: Path, target: Path, tmp_path: Path) -> None:
    blobs = tmp_path / "blobs"
    shutil.move(target, blobs)
    target.mkdir()
    for path in blobs.iterdir():
        (target / path.name).symlink_to(os.path.relpath(path, target))
    round_trip(base, target, tmp_path)
    assert not any(p.is_symlink() for p in (tmp_path / "out").rglob("*"))


def test_names_with_spaces_and_unicode(tmp_path: Path) -> None:
    for side, k in (("a", 0), ("b", 1)):
        directory = tmp_path / side / "sub dir" / "größe"
        write_safetensors(directory / "weights 数.safetensors", {"β.w\n": training_pair(500)[k]})
        (tmp_path / side / "-rf").write_text("x")
    round_trip(tmp_path / "a", tmp_path / "b", tmp_path)


def test_names_full_of_brackets_and_quotes(tmp_path: Path) -> None:
    pairs = [training_pair(50, 1e-5, seed) for seed in range(40)]
    for side in (0, 1):
        named = {f'a[{i}][0][1]{{"\\"}}[[[': p[side] for i, p in enumerate(pairs)}
        write_safetensors(tmp_path / str(side), named)
    round_trip(tmp_path / "0", tmp_path / "1", tmp_path)


def test_unknown_dtype_travels_as_bytes(tmp_path: Path) -> None:
    data = RNG(0).bytes(3000)
    a = write_safetensors(tmp_path / "a.safetensors", {"x": ("Q3_FUTURE", (9,), data)})
    b = write_safetensors(
        tmp_path / "b.safetensors", {"x": ("Q3_FUTURE", (9,), change_some(data, 0.01))}
    )
    assert round_trip(a, b, tmp_path) < 1500


def test_chain_of_patches(tmp_path: Path) -> None:
    steps = [model_directory(tmp_path / f"s{i}", lr=i * 1e-6 or None) for i in range(4)]
    patches = [tmp_path / f"{i}.sdiff" for i in range(3)]
    for i, patch in enumerate(patches):
        make_patch(steps[i], steps[i + 1], patch)
    result = apply_patch(steps[0], patches, tmp_path / "out")
    assert result.n_patches == 3
    assert tree(tmp_path / "out") == tree(steps[3])
    assert not list(tmp_path.glob(".*"))


def test_chain_over_tensors_that_change_places(tmp_path: Path) -> None:
    """Their buckets are cut alike, but do not hold the same tensors."""
    pairs = {name: training_pair(seed=i) for i, name in enumerate("ab")}
    for i, order in enumerate(("ab", "ab", "ba")):
        write_safetensors(tmp_path / f"s{i}", {n: pairs[n][min(i, 1)] for n in order})
    patches = [tmp_path / "0.sdiff", tmp_path / "1.sdiff"]
    for i, patch in enumerate(patches):
        make_patch(tmp_path / f"s{i}", tmp_path / f"s{i + 1}", patch)
    apply_patch(tmp_path / "s0", patches, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == (tmp_path / "s2").read_bytes()


def test_streams_instead_of_paths(base: Path, target: Path, tmp_path: Path) -> None:
    stream = io.BytesIO()
    make_patch(base, target, stream)
    make_patch(base, target, tmp_path / "p")
    assert stream.getvalue() == (tmp_path / "p").read_bytes()
    apply_patch(base, io.BytesIO(stream.getvalue()), tmp_path / "out")
    assert tree(tmp_path / "out") == tree(target)


@pytest.mark.parametrize("bucket_words", [1000, 20_000, 1 << 24])
def test_same_patch_for_any_number_of_jobs(
    bucket_words: int, base: Path, target: Path, tmp_path: Path
) -> None:
    patches = set()
    for jobs in (1, 2, 3, 8):
        stream = io.BytesIO()
        make_patch(base, target, stream, jobs=jobs, bucket_words=bucket_words)
        patches.add(stream.getvalue())
    assert len(patches) == 1


def test_patch_says_nothing_of_paths_and_times(base: Path, target: Path, tmp_path: Path) -> None:
    make_patch(base, target, tmp_path / "1")
    shutil.copytree(base, tmp_path / "x")
    shutil.copytree(target, tmp_path / "elsewhere" / "y")
    make_patch(tmp_path / "x", tmp_path / "elsewhere" / "y", tmp_path / "2")
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_force_replaces_file_and_directory(base: Path, target: Path, tmp_path: Path) -> None:
    make_patch(base, target, tmp_path / "p")
    make_patch(target, base, tmp_path / "p", force=True)
    out = tmp_path / "out"
    out.write_text("in the way")
    apply_patch(target, tmp_path / "p", out, force=True)
    assert tree(out) == tree(base)
    (out / "config.json").write_text("must not survive")
    apply_patch(target, tmp_path / "p", out, force=True)
    assert tree(out) == tree(base)


def test_safetensors_library_reads_the_patch(base: Path, target: Path, tmp_path: Path) -> None:
    """The two lines of docs/format.md."""
    import zstandard
    from safetensors.numpy import load_file

    from sparsediff.patch.manifest_json import dump

    make_patch(base, target, tmp_path / "p.sdiff")
    entries = load_file(tmp_path / "p.sdiff")
    with open_patch(tmp_path / "p.sdiff") as patch:
        assert zstandard.decompress(entries["manifest"].tobytes()) == dump(patch.manifest)
        assert dict(patch.payloads()) == {
            n: e.tobytes() for n, e in entries.items() if n != "manifest"
        }


Edit = Callable[[dict[str, Stored], st.DataObject], dict[str, Stored]]


@given(tensors, st.data())
def test_any_change_of_any_tensors_round_trip(
    tmp_path_factory: pytest.TempPathFactory, before: dict[str, Stored], data: st.DataObject
) -> None:
    """Tensors changed, added, removed, renamed, moved between files; any bucket size."""
    after: dict[str, Stored] = {}
    for name, (dtype, shape, raw) in before.items():
        fate = data.draw(st.sampled_from(["keep", "change", "remove", "rename", "replace"]))
        if fate == "replace":
            after[name] = data.draw(tensor())
        elif fate != "remove":
            changed = (
                change_some(raw, data.draw(st.sampled_from([0.01, 0.5, 1.0])))
                if fate != "keep"
                else raw
            )
            after[name + "'" if fate == "rename" else name] = (dtype, shape, changed)
    after |= data.draw(st.dictionaries(names, tensor(), max_size=2))
    work = tmp_path_factory.mktemp("any")
    for side, content in (("a", before), ("b", after)):
        (work / side).mkdir()
        files = [data.draw(st.integers(0, 2)) for _ in content]
        for k in range(3):
            part = {n: t for (n, t), f in zip(content.items(), files, strict=True) if f == k}
            write_safetensors(
                work / side / f"{k}.safetensors",
                part,
                reverse_header=data.draw(st.booleans()),
                metadata=data.draw(st.none() | st.just({"k": "v"})),
            )
    round_trip(
        work / "a", work / "b", work, bucket_words=data.draw(st.sampled_from([1, 7, 100, 1 << 24]))
    )
    shutil.rmtree(work)


def test_unchanged_file_is_cloned_and_still_checked(
    base: Path, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "model-00002-of-00002.safetensors"
    shutil.copy(base / name, target / name)
    make_patch(base, target, tmp_path / "p")
    cloned, written = [], set()

    def clone(source: inputs.InputFile, path: Path) -> bool:  # as if blocks could be shared
        shutil.copyfile(source.path, path)
        cloned.append(source.path.name)
        return True

    def is_written(path: Path) -> AbstractContextManager[int]:
        written.add(path.name)
        return outputs.written(path)

    monkeypatch.setattr(chain_module, "clone", clone)
    monkeypatch.setattr(chain_module, "written", is_written)
    apply_patch(base, tmp_path / "p", tmp_path / "out")
    assert tree(tmp_path / "out") == tree(target)
    assert name in cloned
    assert set(cloned).isdisjoint(written)
    data = bytearray((base / name).read_bytes())
    data[-1] ^= 1
    (base / name).write_bytes(data)
    with pytest.raises(WrongBaseError, match="wrong base") as info:
        apply_patch(base, tmp_path / "p", tmp_path / "out2")
    assert name in str(info.value)
    assert not (tmp_path / "out2").exists()


def test_file_with_a_stored_skeleton_is_no_clone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The patch then says nothing of the skeleton that its base has."""

    def clone(source: inputs.InputFile, path: Path) -> bool:
        shutil.copyfile(source.path, path)
        return True

    monkeypatch.setattr(chain_module, "clone", clone)
    tensor, _ = training_pair()
    for name, said in (("base", "1"), ("target", "1"), ("other", "2")):
        write_safetensors(tmp_path / name / "m", {"w": tensor}, metadata={"v": said})
    make_patch(tmp_path / "base", tmp_path / "target", tmp_path / "p")
    with open_patch(tmp_path / "p") as patch:
        manifest = patch.manifest
    file = manifest.target_files[0]
    ((begin, end),) = manifest.skeleton_ranges(0)
    payload = compress((tmp_path / "target" / "m").read_bytes()[begin:end], 3)
    file.dictionary, file.skeleton_digest = None, digest(payload)
    (tmp_path / "p").write_bytes(pack(manifest, {"skeleton.0": len(payload)}) + payload)
    apply_patch(tmp_path / "other", tmp_path / "p", tmp_path / "out")
    assert tree(tmp_path / "out") == tree(tmp_path / "target")


def test_clone_says_no_where_the_file_system_cannot(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 10_000)
    (tmp_path / "b").write_bytes(b"")
    if outputs.clone(inputs.InputFile.of(tmp_path / "a"), tmp_path / "b"):
        assert (tmp_path / "b").read_bytes() == b"x" * 10_000
    else:
        assert (tmp_path / "b").read_bytes() == b""


@pytest.mark.parametrize("spread", ["even", "end", "none", "half", "runs"])
def test_sampled_bucket_round_trip(spread: str, tmp_path: Path) -> None:
    """Large enough to be sampled, with changes that the sample sees, misses or misjudges."""
    n = 17_000_000
    before, after = (np.tile(a, 17) for a in step_of_training(n // 17, 3e-6))
    base, target = bf16(before), bf16(after)
    if spread == "end":
        target[: n - 1000] = base[: n - 1000]
    elif spread == "none":
        target = base.copy()
        target[1_234_567] ^= 3
    elif spread == "half":  # as often changed as not, so that the rarer half is anyone's guess
        target = base ^ (RNG(0).integers(0, 2, n).astype(np.uint16))
    elif spread == "runs":  # what is sampled is changed, what lies between is not
        target = base.copy()
        for i in range(0, n, 1 << 19):
            target[i : i + (1 << 14)] ^= 1
    for name, array in (("base", base), ("target", target)):
        half = n // 2 + 7
        tensors = {"a": words("BF16", array[:half]), "b": words("BF16", array[half:])}
        write_safetensors(tmp_path / name, tensors)
    result = make_patch(tmp_path / "base", tmp_path / "target", tmp_path / "p")
    changed = base != target
    assert [t.n_changed for t in result.manifest.tensors] == [
        int(changed[: n // 2 + 7].sum()),
        int(changed[n // 2 + 7 :].sum()),
    ]
    apply_patch(tmp_path / "base", tmp_path / "p", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == (tmp_path / "target").read_bytes()


def test_empty_tensor_with_a_side_that_no_manifest_holds(tmp_path: Path) -> None:
    for name in ("a", "b"):
        tensors: dict[str, Stored] = {
            "empty": ("F32", (1 << 60, 0), b""),
            "x": ("U8", (1,), name.encode()),
        }
        write_safetensors(tmp_path / name, tensors)
    round_trip(tmp_path / "a", tmp_path / "b", tmp_path)
