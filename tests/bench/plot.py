"""Patch size against the time to make it, one panel per pair, both axes logarithmic."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from statistics import median
from typing import Any

OURS = "sparsediff"
MARKERS = "osD^v<>phPX*d8"


def _label(result: dict[str, Any]) -> str:
    """Short enough to stand in a plot."""
    tool, setting = str(result["tool"]), str(result["setting"])
    short: dict[str, str] = {
        "zstd --patch-from": f"zstd {setting.split(' ')[0]}",
        "XOR": f"XOR {setting}",
        "moonclip": f"moonclip {setting.split(' ')[-1]}",
        "fireworks arc_v3": f"arc_v3 {'default' if setting == 'default' else 'all'}",
        "indices + values": "COO",
        "u16 gaps + values": "gaps zstd -1",
    }
    return short.get(tool, tool)


def _spread(ax: Any, texts: list[Any], points: list[tuple[float, float]]) -> None:
    """Move each label to the free place nearest to its point; draw a line if it is far."""
    figure = ax.figure
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    frame = ax.get_window_extent(renderer)
    spots = [ax.transData.transform(p) for p in points]
    taken: list[Any] = []
    offsets = [
        (dx, dy)
        for r in range(12)
        for dy in range(-r, r + 1)
        for dx in (-2 * r, -r, 0, r, 2 * r)
        if max(abs(dx) / 2, abs(dy)) >= r / 2
    ]
    offsets.sort(key=lambda o: (o[0] / 2) ** 2 + o[1] ** 2)
    for text in texts:
        for dx, dy in offsets:
            for side in ("left", "right"):
                sign = 1 if side == "left" else -1
                text.set_horizontalalignment(side)
                text.set_position((sign * 6 + 7 * dx, 7 * dy))
                box = text.get_window_extent(renderer).expanded(1.02, 0.92)
                inside = frame.x0 < box.x0 and box.x1 < frame.x1
                inside &= frame.y0 < box.y0 and box.y1 < frame.y1
                clear = not any(box.overlaps(t) for t in taken)
                clear &= not any(
                    box.x0 - 3 < s[0] < box.x1 + 3 and box.y0 - 3 < s[1] < box.y1 + 3 for s in spots
                )
                if inside and clear:
                    break
            else:
                continue
            break
        taken.append(text.get_window_extent(renderer).expanded(1.02, 0.92))


def plot(pairs: list[dict[str, Any]], path: Path) -> str:
    """Write the plot; returns why not, if it could not."""
    if not importlib.util.find_spec("matplotlib"):
        return "No plot: matplotlib is not installed."
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "sparsediff", "font.size": 8})
    names = list(dict.fromkeys(_label(r) for p in pairs for r in p["results"]))
    colours = mpl.colormaps["tab20"]
    columns = min(2, len(pairs))
    rows = -(-len(pairs) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(6.2 * columns, 4.2 * rows), squeeze=False, layout="constrained"
    )
    for ax in axes.flat[len(pairs) :]:
        ax.set_axis_off()
    jobs = []
    for ax, pair in zip(axes.flat, pairs, strict=False):
        texts, points = [], []
        for r in sorted(pair["results"], key=lambda r: r["tool"] != OURS):
            if r["error"]:
                continue
            label, own = _label(r), r["tool"] == OURS
            point = (median(u["wall"] for u in r["make"]), max(r["patch_bytes"], 1))
            i = names.index(label)
            colour = "black" if own else colours(i % 20)
            marker = "*" if own else MARKERS[i % len(MARKERS)]
            fill = colour if r["exact"] == "yes" else "none"
            ax.plot(*point, marker, color=colour, markerfacecolor=fill, markersize=11 if own else 6)
            text = ax.annotate(
                label,
                point,
                xytext=(6, 0),
                textcoords="offset pixels",
                va="center",
                fontweight="bold" if own else "normal",
                arrowprops={"arrowstyle": "-", "lw": 0.4, "color": "0.6", "shrinkB": 3},
            )
            texts.append(text)
            points.append(point)
        if pair["bound_bits"]:
            ax.axhline(pair["bound_bits"] / 8, lw=0.8, ls="--", color="0.5", zorder=0)
        ax.set(xscale="log", yscale="log", title=pair["title"])
        ax.set(xlabel="seconds to make the patch", ylabel="bytes of the patch")
        ax.margins(x=0.18, y=0.14)
        ax.grid(which="major", lw=0.3)
        jobs.append((ax, texts, points))
    figure.suptitle("Down and left is better. Dashed: entropy bound. Hollow: file not byte-exact.")
    figure.canvas.draw()
    for ax, texts, points in jobs:
        _spread(ax, texts, points)
    figure.set_layout_engine("none")
    metadata = {"Date": None} if path.suffix == ".svg" else None
    figure.savefig(path, metadata=metadata, dpi=110)
    plt.close(figure)
    return ""
