"""Curve of `scale`: what shipping, pulling and looking cost after so many versions.

Enters: an empty directory. Leaves: rows of figures, for a directory and, where SeaweedFS is
installed, for S3.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from statistics import median, median_low

from sparsediff.shipping.catalog import Catalog
from sparsediff.shipping.catalog_json import POINTER, read_catalog
from sparsediff.shipping.prune import prune
from sparsediff.shipping.pull import pull
from sparsediff.shipping.sealing import write_catalog
from sparsediff.shipping.ship import ship
from sparsediff.stores import Throttle, open_store
from sparsediff.stores.directory import DirectoryStore
from sparsediff.stores.retry import Retrying
from tests.support.counting import Counting
from tests.support.histories import versions
from tests.support.pairs import tree
from tests.support.runs import Trainer
from tests.support.seaweed import Proxy, Seaweed

Row = dict[str, str | int | float]
"""Figures by the heading of their column."""

SIZES = (100, 1000, 10_000, 100_000)
_QUICK = (100, 1000)
_LONGEST_1 = 10_000  # in layout 1, in which a ship takes seconds by then
_REPEATS = 5  # of what is measured in milliseconds; the median counts
_SETTLED = 2.1  # seconds after which a file is not read again


def history(work: Path, quick: bool) -> Iterator[Row]:
    """See `scale.CURVES`."""
    with ExitStack() as stack:
        proxy = _proxy(work, stack)
        for where in ("directory", *(["S3"] if proxy else [])):
            for layout in (2, 1):
                sizes = [n for n in SIZES if layout > 1 or n <= _LONGEST_1]
                for n in _QUICK if quick else sizes:
                    place = work / "point"
                    place.mkdir()
                    figures = _point(place, n, layout, proxy if where == "S3" else None)
                    row: Row = {"store": where, "layout": layout, "versions": n}
                    yield row | figures
                    shutil.rmtree(place)


def _proxy(work: Path, stack: ExitStack) -> Proxy | None:
    """The way to an S3 server, with this process set to use it; None if there is none."""
    if shutil.which("weed") is None:
        return None
    (work / "weed").mkdir()
    server = Seaweed(work / "weed")
    server.start()
    stack.callback(server.kill)
    proxy = stack.enter_context(Proxy(server.ports["s3"]))
    os.environ |= server.env_through(proxy.port)
    return proxy


class _Meter:
    """A store, and what passes to it and from it.

    Attributes:
        ours: the store for who ships.
        theirs: the same for who pulls, who remembers nothing of what the other did.
    """

    def __init__(self, place: Path, proxy: Proxy | None) -> None:
        self._counter: Proxy | Counting
        if proxy is not None:
            self._counter, url = proxy, f"s3://test-bucket/{time.monotonic_ns()}"
            self.ours, self.theirs = open_store(url), open_store(url)
        else:
            (place / "store").mkdir()
            self._counter = Counting(DirectoryStore(place / "store", Throttle()))
            self.ours, self.theirs = Retrying(self._counter, 0), Retrying(self._counter, 0)
        self.taken: dict[str, list[tuple[float, int, int]]] = {}

    def take(self, name: str, act: Callable[[], int]) -> None:
        """Time and count what returns how many bytes of patches it moved."""
        counter = self._counter
        counter.reset()
        started = time.perf_counter()
        moved = act()
        took = time.perf_counter() - started
        if isinstance(counter, Proxy):
            n, n_bytes = counter.requests, counter.bytes_in + counter.bytes_out
        else:
            n, n_bytes = sum(counter.calls.values()), sum(counter.bytes.values())
        self.taken.setdefault(name, []).append((took, n, n_bytes - moved))

    def figures(self) -> Row:
        """The median of each."""
        row: Row = {}
        for name, taken in self.taken.items():
            times, requests, n_bytes = zip(*taken, strict=True)
            row[f"{name} ms"] = 1000 * median(times)
            row[f"{name} requests"] = median_low(requests)
            row[f"{name} kB"] = median_low(n_bytes) / 1000
        return row


def _point(place: Path, n: int, layout: int, proxy: Proxy | None) -> Row:
    meter = _Meter(place, proxy)
    store, dest = meter.ours, place / "dest"
    assert write_catalog(store, Catalog("0" * 32, tuple(versions(n)), layout=layout), None)
    trainer = Trainer(place / "run", n=20_000, lr=1e-7)

    def ship_one() -> int:
        (shipped,) = ship(trainer.run, store, jobs=1, streams=1).shipped
        return sum(p.n_bytes for p in shipped.version.patches)

    def pull_one() -> int:
        return pull(meter.theirs, dest, jobs=1, streams=1).fetched_bytes

    for i in range(_REPEATS + 1):
        (saved,) = trainer.save_steps(10 * n + 1 + i)
        if i == 0:  # whole: nothing was kept of what is synthetic
            ship_one()
            pull_one()
        else:
            meter.take("ship", ship_one)
            meter.take("pull", pull_one)
            assert tree(dest / "current") == tree(saved)
    time.sleep(_SETTLED)
    pull_one()
    for _ in range(_REPEATS):
        meter.take("idle", pull_one)
    figures = meter.figures()
    found = store.get(POINTER)
    assert found is not None
    figures["pointer kB"] = len(found[0]) / 1000
    started = time.perf_counter()
    catalog = read_catalog(store)
    assert catalog is not None
    assert sum(1 for _ in catalog[0].versions) == n + 1 + _REPEATS
    figures["read all s"] = time.perf_counter() - started
    started = time.perf_counter()
    prune(store, now=time.time(), keep=n // 2)
    figures["prune half s"] = time.perf_counter() - started
    return figures
