"""Tensors in memory whose file nobody could read are refused before there is one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sparsediff import UnsupportedError, iter_updates
from sparsediff import torch as live
from sparsediff.checkpoint.formats import safetensors
from sparsediff.checkpoint.memory import memory_checkpoint
from sparsediff.dtypes import DTYPES


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("__metadata__", "'__metadata__'.*reserved"),
        ("a\ud800", r"a\\xd800.*Unicode"),
        (3, "must be text, found 3"),
        (b"x", "must be text"),
    ],
)
def test_names(name: Any, found: str, tmp_path: Path) -> None:
    for base in (None, {"x": torch.zeros(8)}):
        with pytest.raises(UnsupportedError, match=found):
            live.make_patch(base, {name: torch.ones(8), "x": torch.zeros(8)}, tmp_path / "p")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UnsupportedError, match=found):
        memory_checkpoint({name: np.zeros(8)})
    live.make_patch(None, {"x": torch.zeros(8)}, tmp_path / "p")
    with pytest.raises(UnsupportedError, match=found):
        list(iter_updates(tmp_path / "p", {name: np.zeros(8)}))


@pytest.mark.parametrize("metadata", [{"step": 3}, {3: "step"}, {"a": "\udfff"}])
def test_metadata(metadata: Any) -> None:
    with pytest.raises(UnsupportedError, match="metadata"):
        memory_checkpoint({"x": np.zeros(8)}, metadata)


def test_two_tensors_of_one_name() -> None:
    with pytest.raises(UnsupportedError, match=r"'x'.*two tensors"):
        safetensors.compose([("x", DTYPES["U8"], (1,)), ("x", DTYPES["I8"], (1,))])


def test_a_header_that_is_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safetensors, "MAX_HEADER", 100)
    with pytest.raises(UnsupportedError, match="header exceeds"):
        memory_checkpoint({"x" * 100: np.zeros(8)})
