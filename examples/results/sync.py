"""A sync from end to end over a throttled link: whole weights against a patch.

Enters: a size, a density. Leaves: seconds, of each part. The weights are made up, Gaussian
masters of which each step moves as many words of bf16 as a run does, because no model of this
size trains here in minutes; everything else is real: files, `ship`, a store, `pull`. The link is
the store's own throttle, which lets so many bytes a second through, there and back.
"""

from __future__ import annotations

import filecmp
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from safetensors.torch import save_file
from small_lm import Say

from results.page import Table, duration, percent, significant, size
from sparsediff import Policy, Store, open_store, pull, ship
from sparsediff.shipping.source import Rule
from sparsediff.stores import Throttle

PAPER = (45.6, 2.26)  # seconds, of 106B weights without RDMA
SIGMA = 0.02
PIECE = 8 << 20
MARKER = "DONE"


@dataclass(frozen=True)
class Sync:
    """One sync.

    Attributes:
        make: seconds from the checkpoint to what is sent; 0 for whole weights.
        send: into the store.
        fetch: out of it.
        apply: until the checkpoint is there, verified; 0 for whole weights.
    """

    make: float
    send: float
    fetch: float
    apply: float

    @property
    def total(self) -> float:
        """Seconds from the trainer's checkpoint to the rollout's."""
        return self.make + self.send + self.fetch + self.apply


def steps(run: Path, n_bytes: int, density: float) -> Iterator[tuple[Path, float]]:
    """Checkpoints of made-up weights, without end; of each, and its density."""
    generator = torch.Generator().manual_seed(0)
    n_layers = 24
    shape = (n_bytes // 2 // n_layers // 1024, 1024)
    names = [f"model.layers.{i}.mlp.up_proj.weight" for i in range(n_layers)]
    masters = {n: torch.randn(shape, generator=generator) * SIGMA for n in names}
    rate = 1e-6
    for step in range(1_000_000):
        n_changed = 0
        for i, master in enumerate(masters.values()):
            moves = torch.randn(shape, generator=generator)
            before = master.bfloat16()
            if not step or i:
                master -= rate * moves * bool(step)
            else:  # find the rate on the first tensor; the chance of a change is in proportion
                for _ in range(3):
                    found = (before != (master - rate * moves).bfloat16()).float().mean()
                    rate *= density / float(found)
                master -= rate * moves
            n_changed += int((before != master.bfloat16()).sum())
        path = run / f"step_{step:06}"
        path.mkdir(parents=True)
        save_file({n: m.bfloat16() for n, m in masters.items()}, path / "model.safetensors")
        (path / MARKER).touch()
        yield path, n_changed / (n_layers * shape[0] * shape[1])


def linked(store: Path, bytes_per_second: float) -> Store:
    """One side's way to the store."""
    return open_store(str(store), throttle=Throttle(bytes_per_second), create=True)


def whole(path: Path, store: Path, dest: Path, rate: float) -> Sync:
    """Put the weights as they are, fetch them, sync them to disk."""
    file = path / "model.safetensors"
    start = time.perf_counter()
    linked(store, rate).put("whole", file)
    sent = time.perf_counter()
    opened = linked(store, rate)
    n_bytes = file.stat().st_size
    with open(dest, "wb") as out:
        for offset in range(0, n_bytes, PIECE):
            out.write(opened.read("whole", offset, min(PIECE, n_bytes - offset)))
        out.flush()
        os.fsync(out.fileno())
    fetched = time.perf_counter()
    check(file, dest)
    return Sync(0.0, sent - start, fetched - sent, 0.0)


def patched(path: Path, store: Path, dest: Path, rate: float) -> tuple[Sync, int]:
    """`ship` the newest checkpoint and `pull` it; and the bytes that moved."""
    policy = Policy(rule=Rule(marker=MARKER), newest=True)
    start = time.perf_counter()
    (shipped,) = ship(path.parent, linked(store, rate), policy).shipped
    sent = time.perf_counter()
    pulled = pull(linked(store, rate), dest)
    done = time.perf_counter()
    assert pulled.path is not None
    check(path / "model.safetensors", pulled.path / "model.safetensors")
    making, fetching = sent - start - shipped.send_seconds, pulled.fetch_seconds
    sync = Sync(making, shipped.send_seconds, fetching, done - sent - fetching)
    return sync, pulled.fetched_bytes


def check(a: Path, b: Path) -> None:
    """Stop unless two files are the same to the byte."""
    if not filecmp.cmp(a, b, shallow=False):
        raise SystemExit(f"{a} and {b} differ")


def end_to_end(
    place: Path, n_bytes: int, density: float, rates: dict[float, int], say: Say
) -> Table:
    """The table.

    Args:
        place: for everything.
        n_bytes: of the weights.
        density: of their steps.
        rates: Gbit/s, and how often to measure.
        say: told of each sync.
    """
    made = steps(place / "run", n_bytes, density)
    base, _ = next(made)
    unlimited = 1e12
    patched(base, place / "store", place / "dest", unlimited)
    rows = []
    found = density
    for gigabits, times in rates.items():
        rate = gigabits * 1e9 / 8
        ways: dict[str, list[Sync]] = {"whole": [], "patch": []}
        moved = 0
        for _ in range(times):
            path, found = next(made)
            ways["whole"].append(whole(path, place / "whole", place / "whole.out", rate))
            sync, moved = patched(path, place / "store", place / "dest", rate)
            ways["patch"].append(sync)
            say(
                f"sync at {gigabits:g} Gbit/s: {duration(ways['whole'][-1].total)} whole, "
                f"{duration(sync.total)} as a patch"
            )
            for old in sorted((place / "run").iterdir())[:-1]:
                for file in old.iterdir():
                    file.unlink()
                old.rmdir()
        totals = {way: median(s.total for s in syncs) for way, syncs in ways.items()}
        for way, sent in (("whole", n_bytes), ("patch", moved)):
            parts = [
                median(getattr(s, part) for s in ways[way])
                for part in ("make", "send", "fetch", "apply")
            ]
            rows.append(
                [
                    f"{gigabits:g} Gbit/s, {way}",
                    size(sent),
                    *(duration(p) if p else "-" for p in parts),
                    duration(totals[way]),
                    significant(totals["whole"] / totals[way]),
                ]
            )
    slow = [row[0].partition(",")[0] for row in rows if "patch" in row[0] and float(row[-1]) < 1]
    slower = f"At {' and '.join(slow)} whole weights were faster." if slow else ""
    rows.append(["the paper, whole", "", "", "", "", "", f"{PAPER[0]} s", "1.00"])
    faster = significant(PAPER[0] / PAPER[1])
    rows.append(["the paper, raw pairs", "", "", "", "", "", f"{PAPER[1]} s", faster])
    return Table(
        "A sync from end to end",
        f"Measured, on {size(n_bytes)} of made-up weights of which a step changes "
        f"{percent(found)}, as in the run above: from a checkpoint that the trainer has saved to "
        "the same checkpoint, byte for byte, on the other side. The store is a directory, and "
        "what goes into it and out of it passes a throttle, so that the time for a transfer is "
        "there twice. Medians where there are several. Making is all that `ship` does before it "
        "sends, with a copy of the checkpoint that it keeps; applying all that `pull` does after "
        "it has fetched, with checksums of everything. Meanwhile the load of the machine, which "
        f"has {os.cpu_count()} cores, was {os.getloadavg()[1]:.0f}.",
        ["link", "moved", "make", "send", "fetch", "apply", "total", "times faster"],
        rows,
        "python examples/results",
        "The paper's are 106B weights between machines without RDMA, whole against raw pairs, in "
        "memory, where the wire is all that counts. Here both sides and the store are one machine "
        "with few cores and other things to do, files are written and synced, and everything is "
        f"verified on the way. {slower}",
    )
