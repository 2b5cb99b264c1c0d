"""What a reader of hostile bytes is to the fuzzer, and what all of them use."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from sparsediff.errors import CorruptError, SparsediffError, UnsupportedError
from tests.fuzz.watch import FindingError, unwatched
from tests.hostile import write as hostile

GOLDEN = Path(__file__).parents[1] / "golden"


@dataclass(frozen=True)
class Target:
    """A reader.

    Attributes:
        read: returns, or raises one of ``refusals``.
        seeds: valid inputs, and inputs that were once of interest.
        refusals: the errors it may raise.
        mutate: makes a mutant of an input with a random number; None: bytes are changed anyhow.
    """

    read: Callable[[bytes], object]
    seeds: Callable[[], list[bytes]]
    refusals: tuple[type[SparsediffError], ...] = (CorruptError, UnsupportedError)
    mutate: Callable[[bytes, int], bytes] | None = None


def agree(what: str, ours: object, theirs: object) -> None:
    """Two readers must say the same."""
    if ours != theirs:
        raise FindingError(f"{what}: {str(ours)[:200]}, and the other reader: {str(theirs)[:200]}")


def on_disk(read: Callable[[Path], object], name: str, data: bytes) -> None:
    """Let something read the bytes as a file; the watch does not mind how they got there."""
    with unwatched():
        (room() / name).write_bytes(data)
    read(room() / name)


@cache
def room() -> Path:
    """A directory for what has to be a file."""
    made = tempfile.TemporaryDirectory()
    _KEPT.append(made)
    return Path(made.name)


_KEPT: list[object] = []


def files(*suffixes: str) -> list[bytes]:
    """Hostile files whose names end so, of those that are small."""
    found = [p for s in suffixes for p in sorted(hostile.FILES.glob(f"*{s}"))]
    return [p.read_bytes() for p in found if p.stat().st_size < 1 << 13]
