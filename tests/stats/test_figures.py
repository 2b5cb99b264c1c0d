"""stats, show and the bound: figures people can believe."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsediff import checkpoint_stats, make_patch, patch_stats, series_stats
from sparsediff.dtypes import DTYPES
from sparsediff.kernels.steps import keys
from sparsediff.patch import counts, measures
from sparsediff.stats.bound import Bound
from tests.conftest import Run
from tests.support.pairs import (
    RNG,
    Array,
    bf16,
    step_of_training,
    training_pair,
    words,
    write_safetensors,
)


def test_figures_of_a_known_change(tmp_path: Path) -> None:
    before = np.full(1000, 0x3F80, np.uint16)
    after = before.copy()
    after[:7] += 1  # one ULP up
    after[10:13] -= 1  # and down
    after[20] += 5
    same = words("F32", np.ones(50, np.float32))
    a = write_safetensors(tmp_path / "a", {"h.3.w": words("BF16", before), "h.3.b": same})
    b = write_safetensors(tmp_path / "b", {"h.3.w": words("BF16", after), "h.3.b": same})
    stats = checkpoint_stats(a, b)
    by_name = {g.key: g for g in stats.grouped("tensor")}
    w = by_name["h.3.w"]
    assert (w.n_elements, w.n_changed, w.n_ones, w.median, w.largest) == (1000, 11, 10, 1, 5)
    assert (w.density, w.sparsity, w.ones_share) == (0.011, 0.989, 10 / 11)
    assert (w.raw_bytes, w.changed_bytes) == (2000, 22)
    assert by_name["h.3.b"].n_untouched == 1
    total = stats.total
    assert (total.n_tensors, total.n_untouched, total.n_elements) == (2, 1, 1050)
    assert total.density == 11 / 1050
    assert total.patch_bytes == stats.patch_bytes
    assert total.bits_per_changed == w.bits_per_changed == 8 * stats.coded_bytes / 11
    assert stats.raw_pairs_bytes == 11 * (2 + 4)
    assert stats.ratio == b.stat().st_size / stats.patch_bytes


def test_patch_alone_gives_the_same_figures(base: Path, target: Path, patch: Path) -> None:
    assert patch_stats(patch) == checkpoint_stats(base, target)


@pytest.mark.parametrize("by", ["tensor", "layer", "kind", "dtype", "file"])
def test_groups_add_up(by: str, patch: Path) -> None:
    stats = patch_stats(patch)
    groups, total = stats.grouped(by), stats.total
    for field in ("n_tensors", "n_untouched", "n_elements", "n_changed", "n_ones", "raw_bytes"):
        assert sum(getattr(g, field) for g in groups) == getattr(total, field)
    coded = sum(g.patch_bytes for g in groups)
    assert coded == pytest.approx(stats.coded_bytes)
    assert coded < stats.patch_bytes


def test_layers_and_kinds(patch: Path) -> None:
    stats = patch_stats(patch)
    assert [g.key for g in stats.grouped("layer")] == [f"model.layers.{i}" for i in range(4)]
    kinds = {g.key for g in stats.grouped("kind")}
    assert kinds == {"self_attn.q_proj.weight", "mlp.up_proj.weight", "input_layernorm.weight"}


def test_new_tensors_count_as_changed(tmp_path: Path) -> None:
    before, after = training_pair(1000)
    a = write_safetensors(tmp_path / "a", {"w": before})
    b = write_safetensors(tmp_path / "b", {"w": after, "fresh": ("F32", (4, 5), bytes(range(80)))})
    fresh = {g.key: g for g in checkpoint_stats(a, b).grouped("tensor")}["fresh"]
    assert (fresh.n_changed, fresh.n_new, fresh.density, fresh.ones_share) == (20, 20, 1.0, None)


@given(st.lists(st.integers(1, 2**40), min_size=1, max_size=200))
def test_median_step_is_within_a_quarter(steps: list[int]) -> None:
    from sparsediff.kernels.numbers import number_classes

    classes = number_classes(np.array(steps, np.uint64) - np.uint64(1))
    by_class = np.bincount(classes, minlength=128)
    found = measures.median_step(by_class.tolist())
    assert found == counts.median_steps(by_class)
    true = sorted(steps)[(len(steps) - 1) // 2]
    assert found == true if true <= 4 else abs(found - true) <= true / 4


def test_weighted_median() -> None:
    assert measures.weighted_median([5, 1, 3], [1, 1, 1]) == 3
    assert measures.weighted_median([1, 100], [3, 2]) == 1
    assert measures.weighted_median([1], [0]) == 0


def plain_bound(base: Array, target: Array, name: str) -> float:
    """The bound by its definition, slowly."""
    dtype = DTYPES[name]
    bits = 0.0
    exponent = (base & np.uint16(0x7FFF)) >> dtype.mantissa_bits

    def entropy(counts: Any) -> float:
        p = np.array([c for c in counts if c]) / sum(counts)
        return float(-(p * np.log2(p)).sum())

    for e in np.unique(exponent):
        b, t = base[exponent == e], target[exponent == e]
        n, k = b.size, int((b != t).sum())
        bits += n * entropy([k, n - k])
        step = (keys(t, dtype).astype(int) - keys(b, dtype).astype(int))[b != t]
        bits += k * entropy(np.unique(step, return_counts=True)[1]) if k else 0
    return bits


@pytest.mark.parametrize("name", ["BF16", "F16"])
def test_bound_is_its_definition(name: str) -> None:
    before, after = step_of_training(200_000, 1e-5)
    cast = bf16 if name == "BF16" else lambda a: a.astype(np.float16).view(np.uint16)
    base, target = cast(before), cast(after)
    bound = Bound()
    for part in np.array_split(np.arange(base.size), 3):
        bound.add(DTYPES[name], base[part], target[part])
    assert bound.bits() == pytest.approx(plain_bound(base, target, name))


def test_bound_of_64_bit_words_stays_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparsediff.stats.bound.MAX_DISTINCT", 500)
    before, after = step_of_training(20_000, 1e-5)
    bound = Bound()
    bound.add(DTYPES["F64"], *(v.astype(np.float64).view(np.uint64) for v in (before, after)))
    assert bound.bits() > 0
    assert bound._pools["F64"].counts.size <= 500


def test_whole_patch_near_the_bound(tmp_path: Path) -> None:
    """Payloads, manifest and header together; the synthetic pair of the docs."""
    before, after = step_of_training(1 << 22, 1e-6)
    a = write_safetensors(tmp_path / "a", {"w": words("BF16", bf16(before))})
    b = write_safetensors(tmp_path / "b", {"w": words("BF16", bf16(after))})
    stats = checkpoint_stats(a, b, bound=True)
    assert stats.bound_bits is not None
    assert 1 < 8 * stats.patch_bytes / stats.bound_bits < 1.05


def test_series(tmp_path: Path) -> None:
    first = np.zeros(100, np.uint16)
    second, third = first.copy(), first.copy()
    second[:20] = 1
    third[:20] = 1
    third[10:40] += 1
    paths = [
        write_safetensors(tmp_path / str(i), {"w": words("I16", v)})
        for i, v in enumerate((first, second, third))
    ]
    one, two = series_stats(paths).steps
    assert (one.n_changed, one.n_repeated, one.density) == (20, None, 0.2)
    assert (two.n_changed, two.n_repeated, two.repeated_share) == (30, 10, 1 / 3)


def test_tensor_without_a_name_is_still_a_tensor(tmp_path: Path) -> None:
    before, after = training_pair(1000, 1e-5)
    a = write_safetensors(tmp_path / "a", {"": before})
    b = write_safetensors(tmp_path / "b", {"": after})
    total = checkpoint_stats(a, b).total
    assert total.n_elements == 1000
    assert total.n_changed > 0
    assert [s.n_elements for s in series_stats([a, b]).steps] == [1000]


def test_large_opaque_files_are_not_in_the_total(tmp_path: Path) -> None:
    for side, k in (("a", 0), ("b", 1)):
        write_safetensors(tmp_path / side / "m.safetensors", {"w": training_pair(1000)[k]})
        (tmp_path / side / "blob").write_bytes(RNG(k).bytes(9 << 20))
    stats = checkpoint_stats(tmp_path / "a", tmp_path / "b")
    assert stats.total.n_elements == 1000
    assert {g.key for g in stats.grouped("tensor")} == {"<blob>", "w"}
    assert [s.n_elements for s in series_stats([tmp_path / "a", tmp_path / "b"]).steps] == [1000]


@pytest.mark.parametrize("opaque", ["alone", "too", "not"])
def test_what_make_says_are_the_figures_of_the_patch(opaque: str, tmp_path: Path) -> None:
    fresh = {"fresh": ("F32", (4, 5), bytes(range(80)))}
    for side, k in (("a", 0), ("b", 1)):
        (tmp_path / side).mkdir()
        if opaque != "alone":
            tensors = {"w": training_pair(3000, 1e-5)[k]} | (fresh if k else {})
            write_safetensors(tmp_path / side / "m.safetensors", tensors)
        if opaque != "not":
            (tmp_path / side / "blob").write_bytes(RNG(k).bytes(9 << 20))
    made = make_patch(tmp_path / "a", tmp_path / "b", tmp_path / "p")
    stats = patch_stats(tmp_path / "p")
    total = stats.total
    assert total.n_changed > 20
    assert (made.target_bytes, made.ratio) == (stats.target_bytes, stats.ratio)
    assert (made.n_elements, made.n_changed) == (total.n_elements, total.n_changed)
    assert made.bits_per_changed == pytest.approx(total.bits_per_changed, rel=1e-12)


def test_series_with_a_tensor_that_is_new_in_the_middle(tmp_path: Path) -> None:
    first, second = np.zeros(100, np.uint16), np.zeros(100, np.uint16)
    second[:5] = 1
    paths = [
        write_safetensors(tmp_path / "0", {"other": words("I16", first)}),
        write_safetensors(tmp_path / "1", {"w": words("I16", first)}),
        write_safetensors(tmp_path / "2", {"w": words("I16", second)}),
    ]
    one, two = series_stats(paths).steps
    assert (one.n_changed, two.n_changed, two.n_repeated) == (100, 5, 5)


# The command line


def test_table_names_every_tensor_and_the_total(cli: Run, patch: Path) -> None:
    code, out, err = cli("stats", patch)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert sum(line.startswith("model.layers.") for line in lines) == 12
    assert any(line.startswith("total") for line in lines)
    assert "12 tensors" in lines[-1]
    for word in ("density", "sparsity", "median", "largest", "in patch", "bits/chg"):
        assert word in lines[0]


def test_json_and_csv_agree(cli: Run, base: Path, target: Path) -> None:
    _, out, _ = cli(
        "stats", base, target, "--json", "--by", "kind", "--bound", "--bandwidth", "1Gbps"
    )
    document = json.loads(out)
    _, out, _ = cli("stats", base, target, "--csv", "--by", "kind")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [r["kind"] for r in rows] == [r["name"] for r in document["rows"]] + ["total"]
    for row, wanted in zip(rows, [*document["rows"], document["total"]], strict=True):
        for field in ("n_elements", "n_changed", "raw_bytes"):
            assert int(row[field]) == wanted[field]
    whole, pairs, patch = document["transfer"]
    assert whole["seconds"] == pytest.approx(8e-9 * whole["bytes"])
    assert whole["bytes"] > pairs["bytes"] > 0
    assert patch["bytes"] == document["patch_bytes"]
    assert document["bound"]["bits"] > 0


def test_sort_and_top(cli: Run, patch: Path) -> None:
    _, out, _ = cli("stats", patch, "--json", "--sort", "density", "--top", "3")
    rows = json.loads(out)["rows"]
    assert len(rows) == 3
    assert [r["density"] for r in rows] == sorted((r["density"] for r in rows), reverse=True)
    _, out, _ = cli("stats", patch, "--top", "2")
    assert "(10 rows not shown)" in out


def test_series_on_the_command_line(cli: Run, base: Path, target: Path) -> None:
    code, out, _ = cli("stats", base, target, target)
    assert code == 0
    assert "seen before" in out.splitlines()[0]
    assert len(out.partition("\n\n")[0].splitlines()) == 4
    _, out, _ = cli("stats", base, target, target, "--json")
    steps = json.loads(out)["steps"]
    assert [s["n_repeated"] for s in steps] == [None, 0]
    rows = list(csv.DictReader(io.StringIO(cli("stats", base, target, target, "--csv")[1])))
    assert len(rows) == 24
    assert sum(int(r["n_changed"]) for r in rows if r["step"] == "1") == steps[0]["n_changed"]
    assert {r["locality"] for r in rows} == {""}
    _, out, _ = cli("stats", base, target, target, "--by", "part")
    assert out.splitlines()[2].startswith("dense")


def test_unchanged_checkpoint(cli: Run, base: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "same")
    code, out, _ = cli("stats", base, tmp_path / "same", "--bound")
    assert code == 0
    assert "12 untouched" in out
    assert "bound   0 B" in out


@pytest.mark.parametrize("rate", ["1", "0Gbps", "fast", "-1Mbps", "1 Zbps"])
def test_bandwidth_that_is_none(rate: str, cli: Run, patch: Path) -> None:
    code, _, err = cli("stats", patch, "--bandwidth", rate)
    assert code == 2
    assert "1Gbps" in err


@pytest.mark.parametrize("args", [["--bound"], ["--json", "--csv"], ["--by", "colour"]])
def test_options_that_do_not_fit(args: list[str], cli: Run, patch: Path) -> None:
    assert cli("stats", patch, *args)[0] == 2


def test_show(cli: Run, patch: Path, base: Path, target: Path) -> None:
    code, out, _ = cli("show", patch)
    assert code == 0
    assert "format 1" in out
    assert "model-00001-of-00002.safetensors" in out
    document = json.loads(cli("show", patch, "--json")[1])
    assert len(document["tensors"]) == 12
    assert document["patch_bytes"] == patch.stat().st_size
    assert sum(f["size"] for f in document["target"]["files"]) == sum(
        p.stat().st_size for p in target.rglob("*") if p.is_file()
    )
