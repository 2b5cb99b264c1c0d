"""The curves can be measured, at sizes that take seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparsediff.checkpoint import open_checkpoint
from tests.bench import scale, scale_parts, scale_sizes


@pytest.mark.parametrize("name", ["tensors", "files", "threads", "bytes", "chain"])
def test_a_curve_prints_its_table(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scale_sizes, "_REPEATS", 1)
    said: list[str] = []
    page = scale.main([name], tmp_path, True, said.append)
    assert len(said) == (2 if name == "threads" else 1)
    assert "CPU s" in page
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("fp8", "n_tensors", "n_bytes"),
    [(False, 45_395, 1_342_052_838_400), (True, 91_991, 688_574_839_360)],
)
def test_checkpoint_of_many_machines(
    fp8: bool, n_tensors: int, n_bytes: int, tmp_path: Path
) -> None:
    tensors = scale_parts.deepseek_v3(1, fp8=fp8)
    scale_parts.write(tensors, tmp_path / "c", changed=False)
    opened = open_checkpoint(tmp_path / "c")
    found = {s.name: s for f in opened.files for s in f.spans if s.name in tensors}
    assert len(opened.files) == scale_parts.N_FILES + 1
    assert {n: (s.dtype.name, s.shape) for n, s in found.items()} == tensors
    assert (len(found), sum(s.nbytes for s in found.values())) == (n_tensors, n_bytes)
