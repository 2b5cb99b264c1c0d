"""What unfolds to many objects is not searched for garbage meanwhile, and is afterwards."""

from __future__ import annotations

import gc
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from sparsediff.checkpoint.formats import find_references, find_spans, pickles
from sparsediff.disk.inputs import InputFile
from sparsediff.errors import CorruptError
from sparsediff.patch import manifest_json
from sparsediff.shipping import fields
from sparsediff.unfolding import uncollected
from tests.checkpoint.test_archives import zip_bytes
from tests.hostile.costly import legacy

LISTS = b"[" + b"[]," * 100_000 + b"0]"
OBJECTS = b"[" + b'{"key":"a value"},' * 100_000 + b"0]"  # as in a pointer


@contextmanager
def searches() -> Iterator[list[str]]:
    """Grows by one with each search for garbage."""
    found: list[str] = []

    def note(phase: str, _: object) -> None:
        if phase == "start":
            found.append(phase)

    gc.callbacks.append(note)
    try:
        yield found
    finally:
        gc.callbacks.remove(note)


def test_there_are_searches_otherwise() -> None:
    with searches() as found:
        json.loads(LISTS)
    assert len(found) > 9


def test_no_file_is_read_with_a_search(tmp_path: Path) -> None:
    pickle = b"\x80\x02](" + b"}" * 100_000 + b"e."
    header = b'{"a":' + LISTS + b"}"
    files = {
        "a.pt": zip_bytes({"a/data.pkl": pickle}),
        ".metadata": pickle,
        "modules.json": LISTS,
        "a.safetensors": len(header).to_bytes(8, "little") + header,
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        for read in (find_references, find_spans):
            gc.collect()
            with searches() as found, suppress(CorruptError):
                read(InputFile.of(tmp_path / name))
            assert len(found) <= 1, name  # when it is over
            assert gc.isenabled()


def test_no_document_is_read_with_a_search() -> None:
    quotes = b'{"a":[' + b'[],"",' * 100_000 + b"0]}"
    gc.collect()
    with searches() as found, pytest.raises(CorruptError, match="no column"):
        manifest_json.parse(quotes, len(quotes))
    assert len(found) <= 1
    with searches() as found:
        fields.parsed(OBJECTS)
    assert len(found) <= 1
    assert gc.isenabled()


def test_it_begins_again_when_the_last_thread_is_done() -> None:
    inside, go = threading.Event(), threading.Event()

    @uncollected()
    def other() -> None:
        inside.set()
        go.wait()

    thread = threading.Thread(target=other)
    with uncollected():
        thread.start()
        inside.wait()
    try:
        assert not gc.isenabled()
    finally:
        go.set()
        thread.join()
    assert gc.isenabled()
    gc.disable()
    try:
        with uncollected():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_it_begins_again_after_an_error() -> None:
    with pytest.raises(ValueError, match="x"), uncollected():
        raise ValueError("x")
    assert gc.isenabled()


def test_a_file_of_old_torch_is_unfolded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    load = pickles.load

    def counted(data: bytes) -> object:
        read.append(len(data))
        return load(data)

    monkeypatch.setattr(pickles, "load", counted)
    path = tmp_path / "a.bin"
    path.write_bytes(legacy(b"\x80\2" + b"}" * 100 + b"."))
    file = InputFile.of(path)
    find_references(file)
    spans = find_spans(file)
    assert len(read) == 5
    assert find_spans(file) is not spans  # which is the caller's own
    assert len(read) == 5
    path.write_bytes(legacy(b"\x80\2" + b"}" * 101 + b"."))
    find_spans(InputFile.of(path))  # another file under its name is read anew
    assert len(read) == 10
