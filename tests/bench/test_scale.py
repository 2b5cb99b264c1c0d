"""The curves of sizes can be measured, at sizes that take seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench import scale, scale_sizes


@pytest.mark.parametrize("name", ["tensors", "files", "bytes", "chain"])
def test_a_curve_prints_its_table(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scale_sizes, "_REPEATS", 1)
    said: list[str] = []
    page = scale.main([name], tmp_path, True, said.append)
    assert len(said) == 1
    assert "CPU s" in page
    assert not list(tmp_path.iterdir())
