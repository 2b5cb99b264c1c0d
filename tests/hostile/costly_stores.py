"""Pointers below 1 MB that are made to cost much, for the verbs on a store."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sparsediff.shipping.check import check
from sparsediff.shipping.prune import prune
from sparsediff.shipping.pull import pull
from sparsediff.shipping.status import status_of_store
from sparsediff.stores import open_store
from tests.hostile import write

STORE = "store"  # what `costly` calls them; the fuzzer has no reader of this name


def stores() -> dict[str, Callable[[], bytes]]:
    """Pointers whose ways are many, and lead nowhere."""

    def store(*patches: list[Any]) -> bytes:
        row = write.pointer()["versions"][0]
        rows = [
            row | {"version": i, "name": str(i), "patches": p} for i, p in enumerate(patches, 2)
        ]
        return write.sealed(write.pointer(versions=rows, latest=rows[-1]["version"]))

    def way(base: int | None, key: object = 1) -> dict[str, Any]:
        (found,) = write.pointer(base=base, key=f"versions/{key}")["versions"][0]["patches"]
        return dict(found)

    return {
        "chain": lambda: store(*([way(i)] for i in range(1, 3_400))),
        "anchors": lambda: store([way(None, i) for i in range(7_400)]),
        "two ways": lambda: store(
            *([way(None, i)] for i in range(2_300)), [way(i, f"{i}-") for i in range(2, 2_302)]
        ),
    }


def verbs(data: bytes) -> None:
    """What reads a store with this pointer, and changes nothing in it."""
    with tempfile.TemporaryDirectory() as directory:
        store = Path(directory, "store")
        (store / "versions").mkdir(parents=True)
        (store / "latest.json").write_bytes(data)
        opened = open_store(str(store))
        status_of_store(opened)
        prune(opened, now=0.0, dry_run=True)
        check(opened, now=0.0)
        pull(opened, Path(directory, "out"))
