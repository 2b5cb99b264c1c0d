"""A series of checkpoints: every figure against one that is counted the slow way."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsediff import SeriesStats, UsageError, checkpoint_stats, series_stats
from sparsediff.checkpoint import open_checkpoint
from sparsediff.disk.inputs import OpenFiles, Readable
from sparsediff.dtypes import DTYPES
from sparsediff.kernels.steps import keys
from sparsediff.stats import SeriesReader, names, pieces
from sparsediff.stats.spread import spread
from tests.conftest import Run
from tests.support.pairs import (
    Array,
    bf16,
    step_of_training,
    training_pair,
    words,
    write_safetensors,
)
from tests.support.runs import Trainer

Checkpoints = list[dict[str, tuple[str, Array]]]  # dtype and words by name


@st.composite
def histories(draw: st.DrawFn) -> Checkpoints:
    """A few checkpoints whose tensors come, go, grow, and change here and there."""
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    n = draw(st.integers(2, 5))
    history: Checkpoints = [{} for _ in range(n)]
    for i in range(draw(st.integers(1, 6))):
        dtype = DTYPES[draw(st.sampled_from(["BF16", "F32", "F8_E4M3", "I16", "I64", "U8"]))]
        size = draw(st.integers(0, 40))
        values = rng.integers(0, 1 << 62, size, np.uint64).astype(dtype.numpy)
        for step in range(n):
            fate = draw(st.sampled_from(["keep", "keep", "change", "change", "gone", "grow"]))
            if fate == "change":
                values = values.copy()
                at = rng.random(values.size) < 0.3
                values[at] += rng.integers(1, 3, int(at.sum())).astype(dtype.numpy)
            elif fate == "grow":
                values = np.append(values, values[:1])
            if fate != "gone":
                history[step][f"layers.{i}.w"] = (dtype.name, values)
    return history


def written(place: Path, history: Checkpoints) -> list[Path]:
    place.mkdir(exist_ok=True)
    return [
        write_safetensors(
            place / f"{i}", {name: words(dtype, v) for name, (dtype, v) in tensors.items()}
        )
        for i, tensors in enumerate(history)
    ]


def steps_of(name: str, a: Array, b: Array) -> list[int]:
    """|step| of each word that changed, with Python's integers."""
    dtype = DTYPES[name]
    half = 1 << (dtype.word_bits - 1)
    both = zip(keys(a, dtype).tolist(), keys(b, dtype).tolist(), strict=True)
    return [abs((t - s + half) % (2 * half) - half) for s, t in both if s != t]


def check(stats: SeriesStats, history: Checkpoints) -> None:
    """Sets of positions, step by step, tensor by tensor."""
    assert len(stats.steps) == len(history) - 1
    for row, tensor in enumerate(stats.tensors):
        union: set[int] = set()
        last: set[int] = set()
        for i, (base, target) in enumerate(pairwise(history)):
            dtype, now = target.get(tensor.name, ("", np.zeros(0, np.uint8)))
            there, before = base.get(tensor.name, ("", np.zeros(0, np.uint8)))
            found = {
                "n_elements": now.size,
                "n_changed": 0,
                "n_new": 0,
                "n_ones": 0,
                "largest": 0,
                "n_seen": 0,
                "n_repeated": 0,
            }
            if now.size and (there != dtype or before.size != now.size):
                found |= {"n_changed": now.size, "n_new": now.size}
                union = last = set(range(now.size))
            elif now.size:
                changed = set(np.flatnonzero(before != now).tolist())
                sizes = steps_of(dtype, before, now)
                found |= {
                    "n_changed": len(changed),
                    "n_ones": sizes.count(1),
                    "largest": min(max(sizes, default=0), (1 << 63) - 1),
                    "n_seen": len(changed & union),
                    "n_repeated": len(changed & last),
                }
                median = sorted(sizes)[(len(sizes) - 1) // 2] if sizes else 0
                assert abs(int(stats.median[i, row]) - median) <= median / 4
                if median <= 4:
                    assert stats.median[i, row] == median
                union, last = union | changed, changed
            assert {f: int(getattr(stats, f)[i, row]) for f in found} == found


@given(histories())
@settings(max_examples=60)
def test_series_counts_what_sets_of_positions_count(
    tmp_path_factory: pytest.TempPathFactory, history: Checkpoints
) -> None:
    paths = written(tmp_path_factory.mktemp("h"), history)
    whole = series_stats(paths, jobs=1)
    check(whole, history)
    opened = [open_checkpoint(p) for p in paths]
    reader = SeriesReader(jobs=1)
    for i, window in enumerate(pairwise(opened)):
        reader.feed(window, more=i < len(opened) - 2)
    by_two = reader.stats([str(p) for p in paths])
    check(by_two, history)
    assert by_two.steps == whole.steps
    assert by_two.exponents == whole.exponents


def test_large_tensors_in_pieces_and_small_ones_together_give_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(5)
    values = {f"h.{i}.w": rng.integers(0, 1 << 16, 40 * (i % 7), np.uint16) for i in range(30)}
    history: Checkpoints = []
    for _ in range(4):
        for name, v in values.items():
            values[name] = v + (rng.random(v.size) < 0.2).astype(np.uint16)
        history.append({name: ("BF16", v) for name, v in values.items()})
    paths = written(tmp_path, history)
    usual = series_stats(paths)
    check(usual, history)
    monkeypatch.setattr(pieces, "_PIECE", 64)
    monkeypatch.setattr(pieces, "_CELLS", 9)
    for jobs in (1, 3):
        small = series_stats(paths, jobs=jobs)
        check(small, history)
        assert small.steps == usual.steps
        assert small.exponents == usual.exponents
        assert (small.sizes == usual.sizes).all()


def test_each_checkpoint_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read of each file, counted where all reads of tensors pass."""
    pair = [training_pair(3 << 20, lr)[1] for lr in (1e-6, 2e-6, 3e-6, 4e-6)]
    paths = [write_safetensors(tmp_path / str(i), {"w": w}) for i, w in enumerate(pair)]
    read: dict[Path, int] = {}
    original = OpenFiles.read

    def counting(self: OpenFiles, file: Readable, offset: int, buffer: Any) -> None:
        n_bytes = memoryview(buffer).nbytes
        read[file.path] = read.get(file.path, 0) + n_bytes
        original(self, file, offset, buffer)

    monkeypatch.setattr(OpenFiles, "read", counting)
    series_stats(paths, jobs=1)
    assert list(read) == paths
    assert all(6 << 20 <= n < (6 << 20) + 1000 for n in read.values())  # and the headers


def test_figures_over_tensors_and_groups(tmp_path: Path) -> None:
    def tensor(*changed: int) -> tuple[str, Array]:
        v = np.full(100, 0x3F80, np.uint16)
        v[list(changed)] += 1
        return "BF16", v

    history: Checkpoints = [
        {"layers.0.w": tensor(), "layers.1.w": tensor(), "layers.2.experts.0.w": tensor()},
        {"layers.0.w": tensor(1, 2), "layers.1.w": tensor(1), "layers.2.experts.0.w": tensor()},
        {"layers.0.w": tensor(2, 3), "layers.1.w": tensor(1), "layers.2.experts.0.w": tensor()},
    ]
    stats = series_stats(written(tmp_path, history), patches=True)
    one, two = stats.steps
    assert (one.n_untouched, one.locality, one.jaccard) == (1, None, None)
    # In the second step 1 goes back and 3 goes up, of which 1 had changed before.
    assert (two.n_changed, two.n_seen, two.n_repeated, two.locality) == (2, 1, 1, 0.5)
    assert two.jaccard == 1 / 4  # in either: 1, 2 and 3 of the first tensor, 1 of the second
    assert stats.per_tensor("locality")[1, 0] == 0.5
    assert np.isnan(stats.per_tensor("locality")[1, 1:]).all()
    assert stats.per_tensor("density")[0].tolist() == [0.02, 0.01, 0]
    over = stats.spread("density", 0)
    assert (over.n, over.quantiles[0], over.quantiles[3], over.quantiles[-1]) == (3, 0, 0.01, 0.02)
    assert sum(over.counts) == 3
    assert {g.key: g.n_never for g in stats.grouped("part")} == {"dense": 0, "experts": 1}
    assert [g.key for g in stats.grouped("depth")] == ["front", "middle", "back"]
    assert [g.key for g in stats.grouped("kind")] == ["w"]
    assert [(e.magnitude, e.n_elements, e.n_changed, e.n_ones) for e in stats.exponents] == [
        (1.0, 600, 5, 5)
    ]
    assert [(s.first, s.last, s.n_changed) for s in stats.step_sizes(0)] == [(1, 1, 3)]


def test_sizes_of_patches_are_those_of_the_pairs(tmp_path: Path) -> None:
    pair = [training_pair(20000, lr) for lr in (1e-6, 3e-6)]
    tensors = [pair[0][0], pair[0][1], pair[1][1]]
    paths = [
        write_safetensors(tmp_path / str(i), {"a": w, "b": pair[0][0]})
        for i, w in enumerate(tensors)
    ]
    stats = series_stats(paths, patches=True)
    for i, (base, target) in enumerate(pairwise(paths)):
        alone = checkpoint_stats(base, target)
        step = stats.steps[i]
        assert (step.patch_bytes, step.ratio) == (alone.patch_bytes, alone.ratio)
        assert stats.patch_bytes[i].tolist() == [t.patch_bytes for t in alone.tensors]
        total = alone.total
        assert (step.median, step.largest, step.n_ones) == (
            total.median,
            total.largest,
            total.n_ones,
        )
    assert series_stats(paths).steps[0].patch_bytes is None


def test_density_of_an_exponent_is_that_of_its_words(tmp_path: Path) -> None:
    before, after = (bf16(v) for v in step_of_training(1 << 16, 1e-6))
    paths = written(tmp_path, [{"w": ("BF16", before)}, {"w": ("BF16", after)}])
    stats = series_stats(paths)
    exponent = (before & 0x7FFF) >> 7
    for e in stats.exponents:
        of = exponent == e.exponent
        assert (e.n_elements, e.n_changed) == (of.sum(), (before[of] != after[of]).sum())
        assert e.magnitude == (2.0 ** (e.exponent - 127) if e.exponent else 0)
    assert sum(e.n_elements for e in stats.exponents) == before.size


def test_one_checkpoint_is_no_series(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="two checkpoints"):
        series_stats([tmp_path])


@pytest.mark.parametrize(
    ("name", "layer", "kind", "part"),
    [
        ("model.layers.3.mlp.gate_proj.weight", "model.layers.3", "mlp.gate_proj.weight", "dense"),
        ("model.layers.3.mlp.gate.weight", "model.layers.3", "mlp.gate.weight", "router"),
        ("layers.0.feed_forward.router.weight", "layers.0", "feed_forward.router.weight", "router"),
        ("model.layers.3.mlp.experts.17.up.weight", "model.layers.3", "up.weight", "experts"),
        (
            "model.layers.3.mlp.shared_experts.up",
            "model.layers.3",
            "mlp.shared_experts.up",
            "dense",
        ),
        ("lm_head.weight", "(none)", "lm_head.weight", "dense"),
        ("", "(none)", "", "dense"),
    ],
)
def test_what_names_say(name: str, layer: str, kind: str, part: str) -> None:
    assert (names.layer(name), names.kind(name), names.part(name)) == (layer, kind, part)


def test_depth_goes_by_the_layers_there_are() -> None:
    found = names.depths(["e", *(f"h.{i}.w" for i in (12, 13, 14)), "enc.0.w", "enc.9.w"])
    assert found == ["(none)", "front", "middle", "back", "front", "middle"]


def test_spread_of_nothing() -> None:
    assert spread(np.full(3, np.nan)).n == 0


def test_versions_of_a_store_are_a_series(cli: Run, tmp_path: Path) -> None:
    trainer = Trainer(tmp_path / "run")
    trainer.save_steps(1, 2, 3, 4)
    assert cli("ship", tmp_path / "run", tmp_path / "store")[0] == 0
    code, out, err = cli("stats", "--store", tmp_path / "store", "--json")
    assert (code, err) == (0, "")
    document = json.loads(out)
    names = [f"step_{i:06}" for i in (1, 2, 3, 4)]
    assert document["checkpoints"] == names
    paths = [tmp_path / "run" / name for name in names]
    wanted = json.loads(cli("stats", *paths, "--patches", "--json")[1])
    assert [s["patch_bytes"] for s in document["steps"]] == [
        s["patch_bytes"] for s in wanted["steps"]
    ]
    assert document["exponents"] == wanted["exponents"]
    assert [s["locality"] for s in document["steps"]] == [s["locality"] for s in wanted["steps"]]
    _, out, _ = cli("stats", "--store", tmp_path / "store", "--last", "2", "--json")
    assert json.loads(out)["checkpoints"] == names[2:]
    assert cli("stats", "--store", tmp_path / "nothing")[0] == 2


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["A", "B", "--store", "S"],
        ["A", "B", "C", "--sort", "density"],
        ["A", "B", "C", "--by", "tensor"],
        ["A", "B", "C", "--bandwidth", "1Gbps"],
        ["A", "B", "--last", "3"],
        ["A", "--patches"],
    ],
)
def test_options_of_a_series_that_do_not_fit(args: list[str], cli: Run) -> None:
    assert cli("stats", *args)[0] == 2
