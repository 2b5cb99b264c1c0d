"""What unfolds to many objects is not searched for garbage meanwhile, and is afterwards."""

from __future__ import annotations

import gc
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from sparsediff.checkpoint.formats import find_references, find_spans
from sparsediff.disk.inputs import InputFile
from sparsediff.errors import CorruptError
from sparsediff.patch import manifest_json
from sparsediff.shipping import fields
from sparsediff.unfolding import uncollected
from tests.checkpoint.test_archives import zip_bytes

LISTS = b"[" + b"[]," * 100_000 + b"0]"


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
        fields.parsed(LISTS)
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
