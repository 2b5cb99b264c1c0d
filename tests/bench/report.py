"""From raw results to a page of Markdown. Every figure comes from the results."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any

Row = dict[str, Any]
OURS = "sparsediff"

READING = """\
Every tool ran on the same files in the same run, as a process of its own, its
repeats interleaved with the others'; the tables give medians. Times are what a
user waits for and include the start of the program: Python, and for some tools
PyTorch, which the pair “unchanged” shows by itself. On files of this size that is
a large part of the time of the fast tools; the speed section has larger ones.

- **ratio** is target bytes / patch bytes; **÷ ours** is how many times larger the
  patch is than that of sparsediff.
- **CPU** is user + system time of `make`, all threads. Tools that can use two
  threads were given two.
- **peak** is the larger resident memory of `make` and `apply`; {floor} MB is the
  least this benchmark can see.
- **exact**: “yes” if the rebuilt file is byte-identical with the target;
  “tensors” if all tensors are, but the file is not, because the tool writes a
  header of its own; “no” if bits were lost or it failed.
- Tools differ in what they promise. sparsediff refuses a wrong base, verifies the
  output, syncs it to disk and renames it into place, which its times include; the
  NumPy codecs, zipnn and `zstd --patch-from` check nothing about the base.
- arc_v3 by default takes what its candidates have ready in time, so its size varies
  from run to run.
- A store that has to hold the base (lmz, moonclip, reminis) was given it
  beforehand, untimed; its patch is what it grew by, or its delta file.
"""

LEFT_OUT = """\
Looked at and left out: deltatensors and sparse-llm, made for fine-tuned models,
quantise the difference or describe it by floats, and have no setting that is exact
and smaller than the target; bsdiff4 is the algorithm of bsdiff.
"""


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; the columns after the first two are figures."""
    lines = [head, ["---" if i < 2 else "--:" for i in range(len(head))], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def mid(runs: list[Row], what: str) -> float:
    """Median of a figure over repeats."""
    return float(median(r[what] for r in runs))


def least(runs: list[Row], what: str) -> float:
    """Least of a figure over repeats."""
    return float(min(r[what] for r in runs))


def figure(x: float) -> str:
    """Three digits that count."""
    return f"{x:,.0f}" if x >= 100 else f"{x:.3g}" if x >= 1 else f"{x:.2f}"


def mb(nbytes: float) -> str:
    """Bytes in MB, for memory."""
    return f"{nbytes / 1e6:,.0f}"


def ours(pair: Row) -> Row | None:
    """Our own result on a pair."""
    return next((r for r in pair["results"] if r["tool"] == OURS and not r["error"]), None)


def pair_table(pair: Row) -> str:
    """All tools on one pair, smallest patch first, failures last."""
    own = ours(pair)
    rows = []
    for r in sorted(pair["results"], key=lambda r: (bool(r["error"]), r["patch_bytes"])):
        name = f"**{r['tool']}**" if r["tool"] == OURS else r["tool"]
        if r["error"]:
            failed = f"failed: {r['error'].replace('|', '/')}"
            rows.append([name, f"`{r['setting']}`, {failed}", *["–"] * 7, "no"])
            continue
        peak = max(u["peak"] for u in r["make"] + r["apply"])
        rows.append(
            [
                name,
                f"`{r['setting']}`",
                f"{r['patch_bytes']:,}",
                figure(pair["target_bytes"] / max(r["patch_bytes"], 1)),
                f"{r['patch_bytes'] / own['patch_bytes']:.2f}" if own else "–",
                figure(mid(r["make"], "wall")),
                figure(mid(r["apply"], "wall")),
                figure(mid(r["make"], "cpu")),
                mb(peak),
                r["exact"],
            ]
        )
    head = ["tool", "setting", "patch bytes", "ratio", "÷ ours"]
    return table([*head, "make s", "apply s", "make CPU s", "peak MB", "exact"], rows)


def facts(pair: Row) -> str:
    """One paragraph on what a pair is and how far our patch is from its bound."""
    share = pair["n_changed"] / max(pair["n_elements"], 1)
    text = f"{pair['target_bytes']:,} bytes; {pair['about']}. {pair['n_changed']:,} of "
    text += f"{pair['n_elements']:,} elements changed ({share:.2%})."
    own = ours(pair)
    if own and pair["bound_bits"]:
        bound = pair["bound_bits"] / 8
        text += f" Entropy bound {bound:,.0f} bytes; our patch is "
        text += f"{own['patch_bytes'] / bound:.3f} times that, everything in the file counted."
        if pair["target_bytes"] >= 4 * pair["n_elements"]:
            text += " (Of words this wide hardly two steps are alike, and the bound, which does"
            text += " not charge for describing them, lies far below what can be reached.)"
    return text + "\n"


def summary(documents: list[Row]) -> str:
    """One line per pair: our patch, the bound, and the next best."""
    rows = []
    for pair in (p for d in documents for p in d.get("pairs", [])):
        own = ours(pair)
        others = [r for r in pair["results"] if r["tool"] != OURS and r["exact"] != "no"]
        if not own or not others:
            continue
        best = min(others, key=lambda r: r["patch_bytes"])
        bound = (pair["bound_bits"] or 0) / 8
        rows.append(
            [
                pair["title"],
                f"{best['tool']} `{best['setting']}`",
                f"{pair['n_changed'] / max(pair['n_elements'], 1):.2%}",
                f"{own['patch_bytes']:,}",
                f"{own['patch_bytes'] / bound:.3f}" if bound else "–",
                f"{best['patch_bytes']:,}",
                f"{best['patch_bytes'] / own['patch_bytes']:.2f}",
                f"{mid(own['make'], 'wall') / mid(best['make'], 'wall'):.2f}",
                f"{mid(own['apply'], 'wall') / mid(best['apply'], 'wall'):.2f}",
            ]
        )
    head = ["pair", "smallest of the others", "density", "our bytes", "÷ bound", "its bytes"]
    head += ["its bytes ÷ ours", "our make s ÷ its", "our apply s ÷ its"]
    return table(head, rows) if rows else ""


REFERENCE = {"make": "cmp", "apply": "cp"}


def by_size(rows: list[Row]) -> str:
    """One line per size at the same density: time and memory should not depend on it."""
    lines = []
    for row in rows:
        gib = row["size"] / 2**30
        runs = row["runs"]
        cells = [
            f"{row['mib']} MiB on {row['filesystem']}, {row['kernels']}",
            f"{row['density']:.2%}",
        ]
        for verb in REFERENCE:
            wall = least(runs[f"{verb} -j 2"], "wall")
            cells += [f"{wall / gib:.2f}", f"{wall / least(runs[REFERENCE[verb]], 'wall'):.2f}"]
            cells.append(mb(max(r["peak"] for r in runs[f"{verb} -j 2"])))
        lines.append(cells)
    head = ["size", "density"]
    for verb, other in REFERENCE.items():
        head += [f"{verb} s/GiB", f"÷ {other}", "peak MB"]
    return table(head, lines)


ACCOUNT = """\
CPU seconds for a GiB, without the start of the program. Reading, writing, hashing and the kernels
release the interpreter lock, also where one call does several of them, piece by piece (“at once”);
what is left is Python, where one thread at a time gets on, so it bounds what any number of threads
can do: with more threads than in the last column, they wait for each other at the latest. Of `make`
it is opening, planning and the manifest, some 3 ms whatever the size, and a third of a millisecond
for each bucket, of which format 1 has one for every 32 MiB of bf16. Beyond that bound, several
processes can make the [parts](howto.md#merge-one-patch-made-by-many-machines) of one patch.
"""
WORK = ("at once", "read", "write", "hash", "kernels", "rest")


def _pair(row: Row) -> str:
    """Where and what: instruction sets, like file systems, make more of a difference than pairs."""
    return f"{row['mib']} MiB on {row['filesystem']}, {row['kernels']}, {row['density']:.2%}"


def accounts(rows: list[Row]) -> str:
    """One line per run of which an account was taken."""
    lines = []
    for row in rows:
        for verb, account in row["account"].items():
            gib = row["size"] / 2**30
            spent = [f"{account[k] / gib:.3f}" if k in account else "–" for k in WORK]
            share = f"{account['rest'] / account['total']:.1%}"
            bound = f"{gib / account['rest']:.1f}"
            threads = f"{account['total'] / account['rest']:.0f}"
            lines.append([_pair(row), f"`{verb}`", *spent, share, bound, threads])
    head = ["pair", "verb", *WORK[:-1], "Python", "its share", "bound GiB/s", "threads"]
    return table(head, lines)


def speed_section(rows: list[Row]) -> str:
    """One table per size and density."""
    out = ["## Speed\n"]
    out.append(
        "`cmp` compares the base with an equal file, `sha256sum` reads base and target, `cp`\n"
        "copies a file of the same size. Ratios compare the least of the repeats with the least\n"
        "of the other's, since nothing else on a machine makes a run faster; GB/s is the size\n"
        "of the target over it. `apply` syncs what it wrote to the disk, which `cp` does not: on\n"
        "ext4 that is most of its time.\n"
    )
    if len({row["mib"] for row in rows}) > 1:
        out += ["### By size, two threads\n", by_size(sorted(rows, key=lambda r: r["mib"]))]
    out += ["### Where one thread's time goes\n", ACCOUNT, accounts(rows)]
    for row in rows:
        gb = row["size"] / 1e9
        out.append(f"### {_pair(row)} changed\n")
        text = f"Patch {row['patch_bytes']:,} bytes; outputs byte-identical: "
        text += "yes" if row["exact"] else "**no**"
        if not row["interleaved"]:
            text += "; `cmp` ran before the others, for lack of room"
        limits = ", ".join(f"{k} {v:.1f} GB/s" for k, v in row["limits"].items())
        out.append(f"{text}. One thread of this machine: {limits}.\n")
        lines = []
        for name, runs in row["runs"].items():
            verb = name.split(" ")[0]
            wall, fastest = mid(runs, "wall"), least(runs, "wall")
            ratio = cpu = "–"
            if verb in REFERENCE:
                other = REFERENCE[verb]
                ratio = f"{fastest / least(row['runs'][other], 'wall'):.2f} × {other}"
                hashing = mid(row["runs"]["sha256sum"], "cpu")
                cpu = f"{mid(runs, 'cpu') / hashing:.2f}"
            lines.append(
                [
                    f"`{name}`",
                    ratio,
                    f"{wall:.3f}",
                    f"{fastest:.3f}",
                    f"{gb / fastest:.2f}",
                    f"{mid(runs, 'cpu'):.2f}",
                    cpu,
                    mb(max(r["peak"] for r in runs)),
                ]
            )
        head = ["command", "time", "median s", "min s", "GB/s", "CPU s", "CPU ÷ sha256sum"]
        out.append(table([*head, "peak MB"], lines))
    return "\n".join(out)


def _where(document: Row) -> str:
    """The machine that something was measured on."""
    m = document["machine"]
    return (
        f"{m['processor']}, {m['cores']} cores, {m['memory']}, {m['kernel']}, {m['libc']}, "
        f"Python {m['python']}, kernels {m['kernels']}; files on {document['filesystem']}; "
        f"commit {m['commit']}."
    )


def setup(documents: list[Row]) -> str:
    """Machine, commands, versions, notes."""
    text = ""
    for where, of_it in groupby(documents, _where):
        commands = "\n".join(d["command"] for d in of_it)
        text += f"{where}\n\n```sh\n{commands}\n```\n\n"
    versions = {k: v for d in documents for k, v in d["versions"].items()}
    text += "Versions: " + ", ".join(f"{k} {v}" for k, v in sorted(versions.items())) + ".\n"
    notes = [note for d in documents for note in d.get("notes", [])]
    return text + "".join(f"\n- {note}" for note in notes) + ("\n" if notes else "")


def report(documents: list[Row], path: Path | None) -> str:
    """The whole page; with a ``path`` for it, a plot appears beside it."""
    out = [
        "# Benchmarks\n",
        "Written by `python -m tests.bench`; do not edit. "
        "[Contributing](../CONTRIBUTING.md) says how to run it.\n",
    ]
    found = [p for d in documents for p in d.get("pairs", [])]
    if found:
        out += ["## In short\n", summary(documents)]
    out += ["## Setup\n", setup(documents)]
    if found:
        out += ["## How to read the tables\n", READING.format(floor=mb(documents[0]["floor"]))]
        out += [LEFT_OUT]
        if path:
            from tests.bench.plot import plot

            image = path.with_suffix(".svg")
            if problem := plot(found, image):
                out.append(f"{problem}\n")
            else:
                out.append(f"![Patch size against the time to make it]({image.name})\n")
        for pair in found:
            out += [f"## {pair['title']}\n", facts(pair), pair_table(pair)]
    rows = [
        row | {"filesystem": d["filesystem"], "kernels": d["machine"]["kernels"]}
        for d in documents
        for row in d.get("speed", {}).get("rows", [])
    ]
    if rows:
        out.append(speed_section(rows))
    return "\n".join(out)
