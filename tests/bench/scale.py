"""How costs grow: one curve for each thing that can become large.

Enters: which curves, and room for files. Leaves: rows of figures, and tables of them. Whoever
adds a curve writes a function that yields rows, and adds it to `CURVES`.
"""

from __future__ import annotations

import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.bench import machine
from tests.bench.scale_history import Row, history
from tests.bench.scale_parts import parts
from tests.bench.scale_sizes import chain, files, n_bytes, tensors, threads

Say = Callable[[str], None]


@dataclass(frozen=True)
class Curve:
    """One thing that grows.

    Attributes:
        name: for the command line.
        title: says what grows and what is measured.
        note: what has to be known to read the table.
        rows: called with an empty directory, and whether a minute must be enough.
    """

    name: str
    title: str
    note: str
    rows: Callable[[Path, bool], Iterator[Row]]


_WHOLE = (
    "CPU seconds are user and system time of the whole process, its start included, and MiB its "
    "peak memory, each the least of up to three runs, none begun after eight seconds."
)
_PARTS = (
    "163 files of like size; widths as they are, and divided, so that all parts can be made on one "
    "machine. The words are holes of sparse files, with one changed byte in 4 MiB: planning, "
    "reading, comparing and merging are measured, coding hardly."
)

CURVES = [
    Curve(
        "history",
        "History: what a store with many versions costs",
        "All versions but the last six are synthetic, and their patches are nowhere; of the last "
        "five, each is shipped and then pulled, by a machine that has the one before; figures are "
        "medians. Bytes are those beside the patches themselves: on a "
        "directory what is read and written, on S3 all that passes the wire, signed headers "
        "included. “idle” is a `pull` that finds nothing new, with the store open from the one "
        "before. “read all” lists the whole history, “prune half” drops half of it and deletes "
        "nothing yet. Layout 1 is what releases before layout 2 write.",
        history,
    ),
    Curve(
        "parts",
        "Parts: a checkpoint of 671 billion parameters on many machines",
        "Names and shapes of DeepSeek-V3 in bf16, " + _PARTS,
        partial(parts, fp8=False),
    ),
    Curve(
        "parts-fp8",
        "Parts: the same model as it was released, in fp8",
        "Names, types and shapes of DeepSeek-V3 as released: fp8 with scales, " + _PARTS,
        partial(parts, fp8=True),
    ),
    Curve(
        "tensors",
        "Many tensors",
        "Tensors of 64 words in bf16, in 8 files; one word of a hundred moved by one step. "
        "`stats` prints the table of a patch, to a file. " + _WHOLE,
        tensors,
    ),
    Curve("files", "Many files", "The same 1,000 tensors, 31 MiB, in more files. " + _WHOLE, files),
    Curve(
        "threads",
        "Many tensors in many files, by threads",
        "10,000 tensors of 64 words in bf16, in 100 files; one word of a hundred moved by a step. "
        "Times of the whole process, its start included, each the least of ten runs, by turns.",
        threads,
    ),
    Curve(
        "bytes",
        "Many bytes",
        "Tensors of one MiB in one file; one word of a hundred moved by one step. " + _WHOLE,
        n_bytes,
    ),
    Curve(
        "chain",
        "Long chains",
        "Patches of a checkpoint of 100 tensors, 0.2 MB, all applied by one command; each moved "
        "one word of a hundred by one step. " + _WHOLE,
        chain,
    ),
]


def main(names: list[str], place: Path | None, quick: bool, say: Say) -> str:
    """Measure, and return a page of tables.

    Args:
        names: of the curves; none for all.
        place: where files go; None for a temporary directory.
        quick: small sizes only.
        say: told of each row as it comes.
    """
    about = machine.describe()
    work = Path(tempfile.mkdtemp(prefix="sparsediff-scale-", dir=place))
    command = shlex.join(["python", "-m", "tests.bench", *sys.argv[1:]])
    pages = [
        f"Measured by `{command}` on {about['processor']}, {about['cores']} cores, "
        f"{about['memory']}, {about['kernel']}, Python {about['python']}; files on "
        f"{machine.filesystem(work)}; commit {about['commit']}.\n"
    ]
    try:
        for curve in CURVES:
            if names and curve.name not in names:
                continue
            room = work / curve.name
            room.mkdir()
            rows = []
            for row in curve.rows(room, quick):
                say(f"{curve.name}: {', '.join(f'{k} {_text(v)}' for k, v in row.items())}")
                rows.append(row)
            pages.append(f"## {curve.title}\n\n{_table(rows)}\n{curve.note}\n")
            shutil.rmtree(room)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return "\n".join(pages)


def _table(rows: list[Row]) -> str:
    heads = list(dict.fromkeys(name for row in rows for name in row))
    lines = [heads, ["--:" if isinstance(rows[0].get(h), int | float) else "---" for h in heads]]
    lines += [[_text(row.get(h, "–")) for h in heads] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _text(value: str | int | float) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if value < 100 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else value
