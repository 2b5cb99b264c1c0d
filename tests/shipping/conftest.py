"""A run and a store, for the tests of shipping."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparsediff.stores import Store, open_store
from tests.support.runs import Trainer


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store in a directory."""
    return open_store(str(tmp_path / "store"), create=True)


@pytest.fixture
def trainer(tmp_path: Path) -> Trainer:
    """A trainer that has saved nothing yet."""
    return Trainer(tmp_path / "run")
