"""What figures show is what the series says, whatever its size."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sparsediff import SeriesStats
from sparsediff.report import values
from sparsediff.stats import SeriesTensor


def many(n_tensors: int, n_steps: int) -> SeriesStats:
    """A series of small tensors that nobody has to write and read."""
    rng = np.random.default_rng(0)
    shape = (n_steps, n_tensors)
    changed = rng.integers(0, 30, shape)
    return SeriesStats(
        checkpoints=[f"step_{i}" for i in range(n_steps + 1)],
        tensors=[
            SeriesTensor(f"layers.{i // 500}.experts.{i % 500}.w", "", "BF16", (8, 8), 64, 128)
            for i in range(n_tensors)
        ],
        n_elements=np.full(shape, 64),
        n_changed=changed,
        n_new=np.zeros(shape, np.int64),
        n_ones=changed,
        median=np.ones(shape, np.int64),
        largest=np.ones(shape, np.int64),
        n_seen=changed // 2,
        n_repeated=changed // 4,
        sizes=np.zeros((n_steps, 128), np.int64),
        exponents=[],
        target_bytes=np.full(n_steps, 128 * n_tensors),
        step_patch_bytes=np.full(n_steps, np.nan),
        patch_bytes=np.full(shape, np.nan),
    )


def test_parts_of_the_patches_add_up_to_the_patches(series: SeriesStats) -> None:
    rows = values.by_destination(series)
    assert math.isclose(sum(r["bytes"] for r in rows), series.step_patch_bytes.sum())
    assert math.isclose(sum(r["share"] for r in rows), 1)
    assert rows[-1]["what"].startswith("headers")
    assert values.by_destination(many(3, 2)) == []


def test_sizes_of_steps_are_shares_of_all_changes(series: SeriesStats) -> None:
    rows = values.by_size(series)
    assert math.isclose(sum(r["share"] for r in rows), 1)
    assert sum(r["changes"] for r in rows) == series.n_changed.sum()


def test_layers_are_in_the_order_of_their_numbers() -> None:
    stats = many(6000, 1)
    rows, layers, kinds = values.by_layer_and_kind(stats)
    assert layers == [str(i) for i in range(12)]
    assert kinds == ["w"]
    assert sum(r["tensors"] for r in rows) == 6000


@pytest.mark.parametrize(("n_tensors", "n_steps"), [(5, 3), (160, 120), (1000, 7), (161, 500)])
def test_heat_map_is_small_and_counts_everything_once(n_tensors: int, n_steps: int) -> None:
    stats = many(n_tensors, n_steps)
    rows, labels = values.by_tensor_and_step(stats)
    assert len(labels) == min(n_tensors, values.MAX_ROWS) == len(set(labels))
    assert len(rows) == len(labels) * min(n_steps, values.MAX_COLUMNS)
    if n_tensors <= values.MAX_ROWS and n_steps <= values.MAX_COLUMNS:
        assert rows[0]["density"] == stats.n_changed[0, 0] / 64


def test_two_files_may_hold_one_name() -> None:
    stats = many(2, 1)
    stats.tensors[1] = stats.tensors[0]
    _, labels = values.by_tensor_and_step(stats)
    assert len(set(labels)) == 2


def test_checkpoints_are_called_by_what_differs() -> None:
    stats = many(2, 2)
    for paths, names in (
        (
            ["/runs/a/step_1/m", "/runs/a/step_2/m", "/runs/a/step_3/m"],
            ["step_1/m", "step_2/m", "step_3/m"],
        ),
        (["x", "x", "x"], ["x", "x", "x"]),
        (["/a/b", "c", "/a/d"], ["/a/b", "c", "/a/d"]),
    ):
        stats.checkpoints[:] = paths
        assert values.checkpoint_names(stats) == names


def test_costs_follow_the_cost_model(series: SeriesStats) -> None:
    whole, pairs, patch = values.costs(series)
    n = int(series.n_changed.sum())
    assert whole["share"] == 1
    assert math.isclose(pairs["share"], n * (2 + 4) / series.target_bytes.sum())
    assert math.isclose(patch["share"], series.step_patch_bytes.sum() / series.target_bytes.sum())


def test_columns_of_the_table_have_a_value_for_each_tensor(series: SeriesStats) -> None:
    columns = values.tensor_columns(series)
    assert {len(c) for c in columns.values()} == {len(series.tensors)}
    assert columns["density"][0] == series.n_changed[:, 0].sum() / series.n_elements[:, 0].sum()
    assert columns["patch"][0] == pytest.approx(series.patch_bytes[:, 0].sum())
