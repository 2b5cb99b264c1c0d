"""A long history is listed as far as it is wanted, and read no further."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from sparsediff.shipping.catalog import Catalog
from sparsediff.shipping.sealing import write_catalog
from sparsediff.stores import open_store
from tests.conftest import Run
from tests.support.histories import versions
from tests.support.runs import catalog_of

N = 150


@pytest.fixture
def store(tmp_path: Path) -> Path:
    opened = open_store(str(tmp_path / "store"), create=True)
    assert write_catalog(opened, Catalog("0" * 32, tuple(versions(N))), None)
    return tmp_path / "store"


def rows(out: str) -> int:
    return sum(" step_" in line for line in out.splitlines())


def at_a_terminal(*args: object) -> str:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "sparsediff", *map(str, args)]
    child = subprocess.Popen(command, stdout=theirs, stdin=theirs)
    os.close(theirs)
    out = b""
    try:
        while data := os.read(ours, 1 << 16):
            out += data
    except OSError:  # the end, of a terminal
        pass
    os.close(ours)
    assert child.wait() == 0
    return out.decode()


def test_how_much_is_shown(store: Path, cli: Run) -> None:
    assert rows(cli("log", store)[1]) == rows(cli("log", store, "--all")[1]) == N
    code, out, _ = cli("log", store, "-n", "3")
    assert (code, rows(out)) == (0, 3)
    assert out.splitlines()[-1].startswith("150 versions in ")
    assert len(json.loads(cli("log", store, "--json")[1])["versions"]) == N
    assert cli("log", store, "-n", "3", "--all")[0] == 2


def test_a_terminal_shows_the_last_30(store: Path) -> None:
    out = at_a_terminal("log", store)
    assert rows(out) == 30
    assert "120 earlier versions not shown; --all shows them" in out
    assert rows(at_a_terminal("log", store, "--all")) == N


def test_pages_that_are_not_shown_are_not_read(store: Path, cli: Run) -> None:
    whole = cli("log", store, "--json")[1]
    for page in catalog_of(open_store(str(store))).history.all_pages():
        (store / page.key).unlink()
    code, out, _ = cli("log", store, "--last", "30", "--json")
    assert code == 0
    assert json.loads(out)["versions"] == json.loads(whole)["versions"][-30:]
    assert json.loads(out)["total"] == json.loads(whole)["total"]
    code, _, err = cli("log", store, "--last", "100")
    assert code == 11
    assert "versions/pages/" in err
