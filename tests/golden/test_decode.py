"""Golden patches of every format version: they must decode forever, byte for byte."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparsediff import apply_patch, verify_patch
from tests import oracle
from tests.golden.make import CASES
from tests.support.pairs import tree

GOLDEN = Path(__file__).parent
FOUND = sorted(p.parent for p in GOLDEN.glob("v*/*/patch.sdiff"))


def test_no_golden_is_missing() -> None:
    assert {p.name for p in FOUND if p.parent.name == "v1"} >= set(CASES)


@pytest.mark.parametrize("case", FOUND, ids=lambda p: f"{p.parent.name}-{p.name}")
def test_golden_decodes(case: Path, tmp_path: Path) -> None:
    patch, base = case / "patch.sdiff", case / "base"
    if not base.exists():  # version control keeps no empty directory
        base = tmp_path / "base"
        base.mkdir()
    verify_patch(patch, base=base, target=case / "target")
    apply_patch(base, patch, tmp_path / "out")
    assert tree(tmp_path / "out") == tree(case / "target")
    assert oracle.apply(tree(base), patch.read_bytes()) == tree(case / "target")
