"""What did not change is not read again, and what changed always is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sparsediff.stores import open_store
from tests.support.processes import use
from tests.support.seaweed import Proxy, Seaweed


@pytest.fixture(params=["directory", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty store of each kind."""
    if request.param == "directory":
        (tmp_path / "store").mkdir()
        return str(tmp_path / "store")
    return use(request.getfixturevalue("seaweed"), monkeypatch)


def test_every_change_is_seen(url: str) -> None:
    ours, theirs = open_store(url), open_store(url)
    assert ours.get("head") is None
    tag = None
    for content in (b"one", b"two", b"two", b"one", b""):
        assert theirs.swap("head", content, tag)
        tag = theirs.tag("head")
        for _ in range(3):
            found = ours.get("head")
            assert found == (content, tag)
            assert found == ours.get("head", found)
        assert ours.get("head", (b"other", "other")) == (content, tag)
    theirs.delete("head")
    assert ours.get("head") is None
    assert ours.get("head", (b"", str(tag))) is None


def test_a_bucket_sends_only_what_changed(
    seaweed: Seaweed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Proxy(seaweed.ports["s3"]) as proxy:
        store = open_store(use(seaweed, monkeypatch, proxy.port))
        data = os.urandom(100_000)
        assert store.swap("head", data, None)
        assert store.get("head") == (data, store.tag("head"))
        proxy.reset()
        found = store.get("head")
        assert found is not None
        assert found[0] == data
        assert proxy.bytes_out < 1000
        assert store.swap("head", data[::-1], found[1])
        assert store.get("head") == (data[::-1], store.tag("head"))


def test_a_file_that_was_long_there_is_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparsediff.stores.directory._SETTLED", -1.0)
    store = open_store(str(tmp_path))
    assert store.swap("head", b"one", None)
    found = store.get("head")
    assert store.get("head") == found
    monkeypatch.setattr("sparsediff.stores.directory._read", None)
    assert store.get("head") == found


def test_a_file_whose_times_were_put_back_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparsediff.stores.directory._SETTLED", -1.0)
    store = open_store(str(tmp_path))
    assert store.swap("head", b"one", None)
    assert [store.get("head") for _ in range(3)] == [(b"one", store.tag("head"))] * 3
    status = os.stat(tmp_path / "head")
    (tmp_path / "head").write_bytes(b"two")
    os.utime(tmp_path / "head", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert store.get("head") == (b"two", store.tag("head"))
