"""The numbers that figures and tables show, as rows.

Enters: a `SeriesStats`. Leaves: lists of records and of columns, small whatever the
number of tensors and steps: where there are more rows than a screen has lines, rows that
lie side by side are one. Draws nothing.
"""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import Any

import numpy as np

from sparsediff.dtypes import DTYPES
from sparsediff.patch import measures
from sparsediff.stats import SeriesStats, names
from sparsediff.stats.history import Floats, Int64s

MAX_ROWS = 160  # of a heat map
MAX_COLUMNS = 120
MAX_KINDS = 12  # shown by name, the others together

Row = dict[str, Any]


def checkpoint_names(stats: SeriesStats) -> list[str]:
    """The checkpoints without what all of their paths begin with."""
    paths = [PurePath(c).parts for c in stats.checkpoints]
    shortest = min(map(len, paths)) - 1
    same = 0
    while same < shortest and len({p[same] for p in paths}) == 1:
        same += 1
    return [str(PurePath(*p[same:])) for p in paths]


def by_step(stats: SeriesStats) -> list[Row]:
    """One record for each step; the five quantiles are those of locality over the tensors."""
    rows = []
    checkpoints = checkpoint_names(stats)
    for i, s in enumerate(stats.steps):
        q = stats.spread("locality", i).quantiles
        rows.append(
            {
                "step": i + 1,
                "target": checkpoints[i + 1],
                "density": s.density,
                "patch": s.patch_bytes,
                "ratio": s.ratio,
                "locality": s.locality,
                "jaccard": s.jaccard,
                "low": q[1] if q else None,
                "first": q[2] if q else None,
                "third": q[4] if q else None,
                "high": q[5] if q else None,
            }
        )
    return rows


def by_layer_and_kind(stats: SeriesStats) -> tuple[list[Row], list[str], list[str]]:
    """Mean density of each layer and kind of module; then layers and kinds, in order."""
    layers, kinds = stats.keys("layer"), stats.keys("kind")
    changed, compared = stats.n_changed.sum(0), stats.n_elements.sum(0)
    cells: dict[tuple[str, str], list[int]] = {}
    for i, key in enumerate(zip(layers, kinds, strict=True)):
        cell = cells.setdefault(key, [0, 0, 0])
        cell[0] += int(changed[i])
        cell[1] += int(compared[i])
        cell[2] += 1
    stems = {re.sub(r"\d+$", "", layer) for layer in layers if layer != names.NONE}

    def short(layer: str) -> str:
        number = re.search(r"\d+$", layer)
        return number[0] if number and len(stems) == 1 else layer

    ordered = sorted(set(layers), key=_natural)
    rows = [
        {
            "layer": short(layer),
            "name": layer,
            "kind": kind,
            "density": measures.share(n_changed, n),
            "tensors": n_tensors,
        }
        for (layer, kind), (n_changed, n, n_tensors) in cells.items()
        if n
    ]
    return rows, [short(layer) for layer in ordered], list(dict.fromkeys(kinds))


def _natural(layer: str) -> tuple[bool, list[tuple[bool, int, str]]]:
    """Layers by number, what belongs to none last."""
    parts = re.split(r"(\d+)", layer)
    return layer == names.NONE, [(p.isdecimal(), int(p) if p.isdecimal() else 0, p) for p in parts]


def by_tensor_and_step(stats: SeriesStats) -> tuple[list[Row], list[str]]:
    """Density of each tensor in each step, and the tensors' labels in order.

    Of many tensors or steps, neighbours are taken together.
    """
    order = sorted(range(len(stats.tensors)), key=lambda i: _natural(stats.tensors[i].name))
    rows_at = _bands(len(order), MAX_ROWS)
    steps_at = _bands(len(stats.checkpoints) - 1, MAX_COLUMNS)

    def banded(counts: Int64s) -> Int64s:
        columns = np.add.reduceat(counts, steps_at, axis=0)
        return np.asarray(np.add.reduceat(columns[:, order], rows_at, axis=1))

    if not order:
        return [], []
    changed, compared = banded(stats.n_changed), banded(stats.n_elements)
    skip = _common([t.label for t in stats.tensors])
    labels = []
    for first, end in zip(rows_at, [*rows_at[1:], len(order)], strict=True):
        a, b = (stats.tensors[order[i]].label[skip:] for i in (first, end - 1))
        labels.append(a if end - first == 1 else f"{a} … {b} ({end - first:,} tensors)")
    labels = _distinct(labels)
    return [
        {
            "row": labels[r],
            "step": steps_at[s] + 1,
            "density": int(changed[s, r]) / int(compared[s, r]),
        }
        for s in range(len(steps_at))
        for r in range(len(rows_at))
        if compared[s, r]
    ], labels


def _common(labels: list[str]) -> int:
    """How long a beginning all labels share, up to and with a dot: what it says is said once."""
    if len(labels) < 2:
        return 0
    first, last = min(labels), max(labels)
    pairs = enumerate(zip(first, last, strict=False))
    return first[: next((i for i, (a, b) in pairs if a != b), 0)].rfind(".") + 1


def _bands(n: int, most: int) -> list[int]:
    """Where at most ``most`` bands of ``n`` neighbours start."""
    return sorted({i * n // min(n, most) for i in range(min(n, most))})


def _distinct(labels: list[str]) -> list[str]:
    """The same, those that occurred before with a number: two files may hold one name."""
    seen: dict[str, int] = {}
    found = []
    for label in labels:
        seen[label] = seen.get(label, 0) + 1
        found.append(label if seen[label] == 1 else f"{label} ({seen[label]})")
    return found


def by_exponent(stats: SeriesStats) -> list[Row]:
    """Density and step sizes by the binary exponent of the base word."""
    return [
        {
            "dtype": e.dtype,
            "exponent": int(np.log2(e.magnitude)),
            "magnitude": e.magnitude,
            "elements": e.n_elements,
            "density": e.density or None,
            "ones": measures.share(e.n_ones, e.n_changed),
            "median": e.median or None,
        }
        for e in stats.exponents
        if 0 < e.magnitude < np.inf
    ]


def by_size(stats: SeriesStats) -> list[Row]:
    """Share of the changes of all steps by |step|."""
    counts: dict[tuple[int, int], int] = {}
    for i in range(len(stats.checkpoints) - 1):
        for s in stats.step_sizes(i):
            counts[s.first, s.last] = counts.get((s.first, s.last), 0) + s.n_changed
    total = sum(counts.values())
    return [
        {"size": f"{a:,}" if a == b else f"{a:,}–{b:,}", "share": n / total, "changes": n}
        for (a, b), n in sorted(counts.items())
    ]


def over_tensors(stats: SeriesStats) -> list[Row]:
    """Cumulative distribution of density over tensors: of the first, middle and last step."""
    n = len(stats.checkpoints) - 1
    return [
        {"step": f"step {i + 1}", "share": share / 100, "density": density}
        for i in sorted({0, n // 2, n - 1})
        for share, density in enumerate(stats.spread("density", i).curve)
    ]


def by_destination(stats: SeriesStats) -> list[Row]:
    """Where the bytes of the patches go: kinds of module, and what is no payload of a tensor."""
    known = ~np.isnan(stats.step_patch_bytes)
    total = float(stats.step_patch_bytes[known].sum())
    if not total:
        return []
    sums: dict[str, float] = {}
    per_tensor = stats.patch_bytes[known].sum(0)
    for key, n_bytes in zip(stats.keys("kind"), per_tensor.tolist(), strict=True):
        sums[key] = sums.get(key, 0.0) + n_bytes
    ordered = sorted(sums.items(), key=lambda item: -item[1])
    rows = [(key, n) for key, n in ordered[:MAX_KINDS] if n]
    rows.append((f"{len(ordered) - MAX_KINDS} other kinds", sum(n for _, n in ordered[MAX_KINDS:])))
    rows.append(("headers, manifest, other files", total - float(per_tensor.sum())))
    return [{"what": what, "bytes": n, "share": n / total} for what, n in rows if n > 0]


def costs(stats: SeriesStats) -> list[Row]:
    """What is sent for each byte of the checkpoint, mean over the steps.

    Whole; as int32 indices and values, the raw form of the cost model of SparseRL-Sync
    (arXiv 2605.07330); as patches, where they are known.
    """
    width = np.array([DTYPES[t.dtype].word_bytes for t in stats.tensors])
    changed = stats.n_changed.sum(0)
    whole = float(stats.target_bytes.sum())
    pairs = measures.raw_pairs_bytes(int((changed * width).sum()), int(changed.sum()))
    found = [("whole checkpoint", 1.0), ("index and value pairs", pairs / whole)]
    known = ~np.isnan(stats.step_patch_bytes)
    if known.any():
        sent = float(stats.step_patch_bytes[known].sum())
        found.append(("patch", sent / float(stats.target_bytes[known].sum())))
    return [{"what": what, "share": share} for what, share in found]


def tensor_columns(stats: SeriesStats) -> dict[str, list[Any]]:
    """Columns of the table of tensors, each with one value for each tensor."""
    elements, changed = stats.n_elements.sum(0), stats.n_changed.sum(0)
    based = changed - stats.n_new.sum(0)
    there = stats.n_elements > 0
    with np.errstate(invalid="ignore"):
        sent = np.where(np.isnan(stats.patch_bytes).all(0), np.nan, np.nansum(stats.patch_bytes, 0))
    return {
        "tensor": [t.label for t in stats.tensors],
        "dtype": [t.dtype for t in stats.tensors],
        "shape": [" × ".join(map(str, t.shape)) for t in stats.tensors],
        "elements": [t.n_elements for t in stats.tensors],
        "density": _shares(changed, elements),
        "untouched": (there & (stats.n_changed == 0)).sum(0).tolist(),
        "ones": _shares(stats.n_ones.sum(0), based),
        "median": stats.median[-1].tolist(),
        "largest": stats.largest.max(0).tolist(),
        "locality": _known(stats.per_tensor("locality")[-1]),
        "patch": _known(sent),
    }


def _shares(part: Int64s, whole: Int64s) -> list[float | None]:
    return [measures.share(a, b) for a, b in zip(part.tolist(), whole.tolist(), strict=True)]


def _known(values: Floats) -> list[float | None]:
    return [None if np.isnan(v) else round(v, 8) for v in values.tolist()]
