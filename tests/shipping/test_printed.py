"""Names that a store gives reach terminals as one line without control characters."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sparsediff.shipping.catalog_json import POINTER, dump
from sparsediff.shipping.ship import ship
from sparsediff.stores import Store, open_store
from tests.conftest import Run
from tests.support.runs import Trainer, catalog_of

EVIL = "step\n\x1b[31m_1\x9b\u202e"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    trainer = Trainer(tmp_path / "run", n=200)
    trainer.save_steps(1)
    store = open_store(str(tmp_path / "store"), create=True)
    ship(trainer.run, store)
    catalog = catalog_of(store)
    evil = replace(catalog, versions=(replace(catalog.latest, name=EVIL),))
    assert store.swap(POINTER, dump(evil), store.tag(POINTER))
    return store


def assert_clean(text: str, lines: int) -> None:
    assert text.count("\n") == lines
    assert all(c.isprintable() or c == "\n" for c in text)


def test_name_with_control_characters(store: Store, tmp_path: Path, cli: Run) -> None:
    dest = tmp_path / "dest"
    _, out, _ = cli("log", store.name)
    assert_clean(out, 4)
    for _ in range(2):  # the second has nothing to do
        code, out, err = cli("pull", store.name, dest)
        assert (code, err) == (0, "")
        assert_clean(out, 1)
    code, _, err = cli("pull", store.name, dest, "--version", "9")
    assert code == 2
    assert_clean(err, 1)
    code, _, err = cli("pull", store.name, tmp_path / "b", "--exec", "exit 3")
    assert code == 13
    assert_clean(err, 1)
    next((Path(store.name) / "versions").rglob("*.sdiff")).unlink()
    code, _, err = cli("pull", store.name, tmp_path / "c")
    assert code == 11
    assert_clean(err, 2)
    code, out, _ = cli("pull", store.name, dest, "--log-json")
    assert code == 0
    assert_clean(out, 1)
    assert json.loads(out)["name"] == EVIL


def test_refused_connection_names_the_endpoint(
    tmp_path: Path, cli: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("obstore")
    for name, value in {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1/path",
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "y",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    code, _, err = cli("pull", "s3://bucket/prefix", tmp_path / "dest", "--retries", "0")
    assert code == 13
    assert err.endswith("Connection refused (AWS_ENDPOINT_URL is http://127.0.0.1:1)\n")
