"""Where the last object of a directory goes, the directory goes too."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sparsediff.stores import open_store


def test_none_is_left(tmp_path: Path) -> None:
    root, source = tmp_path / "store", tmp_path / "source"
    source.write_bytes(b"x")
    store = open_store(str(root), create=True)
    for key in ("a/b/c/1", "a/b/c/2", "a/d/3", "4"):
        store.put(key, source)
    store.delete("a/b/c/1")
    assert (root / "a/b/c/2").exists()
    store.delete("a/b/c/2")
    assert [p.name for p in (root / "a").iterdir()] == ["d"]
    store.delete("a/d/3")
    store.delete("4")
    assert list(root.iterdir()) == []
    (root / "a/b").mkdir(parents=True)
    store.delete("a/b/gone already")
    assert list(root.iterdir()) == []


def test_what_is_a_link_or_is_not_empty_stays(tmp_path: Path) -> None:
    root, source = tmp_path / "store", tmp_path / "source"
    source.write_bytes(b"x")
    store = open_store(str(root), create=True)
    store.put("a/1", source)
    (root / "a/stranger's").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (root / "link").symlink_to(tmp_path / "elsewhere")
    store.delete("a/1")
    store.delete("link/1")
    assert (root / "a/stranger's").is_dir()
    assert (root / "link").is_dir()


def test_writers_that_put_meanwhile_succeed(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"x")
    store = open_store(str(tmp_path / "store"), create=True)

    def put_and_delete(i: int) -> None:
        for n in range(60):
            key = f"a/b/{i}-{n}"
            store.put(key, source)
            assert store.size(key) == 1
            store.delete(key)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(put_and_delete, range(4)))
    assert list((tmp_path / "store").iterdir()) == []
