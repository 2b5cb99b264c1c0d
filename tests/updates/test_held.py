"""What waits for its turn takes no more memory with many threads than with few."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparsediff import export_patch, iter_updates, make_patch
from sparsediff.updates import changes
from tests.apply.test_held import based, dense
from tests.support.costs import cost
from tests.support.pairs import training_pair, words, write_safetensors


def test_many_jobs_take_no_more_memory(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "p").write_bytes(dense(8))
    found = cost("export", tmp_path / "empty", tmp_path / "p", "-o", tmp_path / "o", "--jobs", 16)
    assert found.code == 0, found.err
    assert found.peak_bytes < 300 << 20


def test_few_changes_in_much_that_is_unfolded_take_no_more_memory(tmp_path: Path) -> None:
    base, patch = based(tmp_path, 8)
    found = cost("export", base, patch, "-o", tmp_path / "o", "--jobs", 8)
    assert found.code == 0, found.err
    assert found.peak_bytes < 300 << 20


@pytest.mark.parametrize("waiting", [0, 5000, 1 << 26])
def test_what_is_decoded_again_when_its_turn_has_come_is_the_same(
    waiting: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, target, patch = tmp_path / "base", tmp_path / "target", tmp_path / "p"
    before, after = training_pair(60_000)
    new = words("F32", np.arange(20_000, dtype="<f4"))
    write_safetensors(base, {"w": before})
    write_safetensors(target, {"w": after, "x": new})
    make_patch(base, target, patch, bucket_words=1 << 12)
    export_patch(patch, base, tmp_path / "one", jobs=1)
    alone = list(iter_updates(patch, base, jobs=1))
    monkeypatch.setattr(changes, "_WAITING", waiting)
    monkeypatch.setattr(changes, "PAID_BYTES", 0)
    n_alone, decode = 0, changes._decode

    def counted(*args: Any) -> list[Iterable[changes.Change]]:
        nonlocal n_alone
        n_alone += args[-1] is None
        return decode(*args)

    monkeypatch.setattr(changes, "_decode", counted)
    export_patch(patch, base, tmp_path / "many", jobs=3)
    assert (n_alone > 0) == (waiting < 1 << 26)
    assert (tmp_path / "many").read_bytes() == (tmp_path / "one").read_bytes()
    found = list(iter_updates(patch, base, jobs=3))
    assert [u.name for u in found] == [u.name for u in alone]
    for a, b in zip(found, alone, strict=True):
        assert np.array_equal(a.indices, b.indices)
        assert np.array_equal(a.values, b.values)
        assert (a.base_values is None) == (b.base_values is None)
        if a.base_values is not None and b.base_values is not None:
            assert np.array_equal(a.base_values, b.base_values)
