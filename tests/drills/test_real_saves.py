"""Saves of real libraries, killed while they write: no half of one is shipped, every whole one is.

``SPARSEDIFF_KILLS`` says how many runs of each library are killed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sparsediff import UnavailableError
from sparsediff.shipping.ship import ship
from sparsediff.stores import open_store
from tests.support.runs import settle
from tests.support.saves import LIBRARIES, STEPS

KILLS = int(os.environ.get("SPARSEDIFF_KILLS", "12"))


@pytest.mark.slow
@pytest.mark.parametrize("name", LIBRARIES)
def test_killed_saves_of_real_libraries(name: str, tmp_path: Path) -> None:
    for module in LIBRARIES[name].modules:
        pytest.importorskip(module)
    root = tmp_path / "root"
    command = [sys.executable, "-m", "tests.support.saves", name, str(root), str(KILLS), "1"]
    subprocess.run(command, check=True, timeout=3600)
    returned, whole, shipped = set(), set(), set()
    for saved in json.loads((root / "saves.json").read_text()):
        run = saved["run"]
        returned |= {(run, step) for step in saved["returned"]}
        whole |= {(run, step) for step in saved["whole"]}
        shipped |= {(run, step) for step in _ship(root / run, tmp_path / "stores" / run)}
    print(
        f"\n{name}: {KILLS} kills, {len(returned)} saves returned, {len(whole)} checkpoints whole,"
        f" {len(shipped)} shipped; whole though the save had not returned:"
        f" {len(whole - returned)}, shipped of these {len(shipped & whole - returned)};"
        f" shipped and not whole: {sorted(shipped - whole)};"
        f" returned and not shipped: {sorted(returned - shipped)}"
    )
    assert returned <= whole, "the drill itself is wrong"
    assert shipped <= whole
    assert returned <= shipped
    assert {("reference", step) for step in STEPS} <= shipped


def _ship(run: Path, store: Path) -> list[int | None]:
    """Ship once, as if the run had been killed a minute ago; numbers of what was shipped."""
    settle(run)
    try:
        result = ship(
            run,
            open_store(str(store), create=True),
            state_directory=store.with_name(f"{store.name}-state"),
            jobs=1,
        )
    except UnavailableError:
        return []  # nothing that would be a checkpoint
    return [s.version.number for s in result.shipped]
