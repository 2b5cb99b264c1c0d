"""What a step costs to send: the paper's cost model, and our bytes.

Enters: runs and their series. Leaves: tables, of ratios and of times by arithmetic.
"""

from __future__ import annotations

from pathlib import Path

from results.page import Table, duration, percent, significant, size
from results.runs import checkpoints
from results.tables import bits, density, ratio
from sparsediff import SeriesStats, checkpoint_stats

PAPER_PAYLOADS = (  # density, raw ratio, coded ratio
    ("the paper, 8B", None, 45, 85),
    ("the paper, 30B", 0.0062, 54, 101),
    ("the paper, 106B", None, 32, 60),
    ("the paper, 671B", None, 43, 81),
)
ALPHA = 0.60  # of the paper's coded values; it says 0.60 to 0.70
MODEL = 61e9  # bytes of a model of 30B weights in bf16
BANDWIDTHS = (0.1, 1, 10, 100, 400)  # Gbit/s


def payload(
    series: dict[str, SeriesStats], runs: dict[str, Path]
) -> tuple[Table, dict[str, float]]:
    """The cost model against our bytes."""
    rows = []
    found: dict[str, float] = {}
    for name, run in runs.items():
        rho = density(series[name])
        last = checkpoints(run)[-2:]
        stats = checkpoint_stats(*last, bound=True)
        bound = stats.bound_bits or 0.0
        raw, coded = model(rho)
        ours = ratio(series[name])
        without = float(series[name].target_bytes.sum() / series[name].patch_bytes.sum())
        found = found or {"raw": raw, "coded": coded, "ours": without, "density": rho}
        rows.append(
            [
                name,
                percent(rho),
                f"{raw:,.0f}",
                f"{coded:,.0f}",
                f"{ours:,.0f}",
                f"{without:,.0f}",
                significant(bits(series[name])),
                f"{100 * (8 * stats.coded_bytes / bound - 1):.1f} %" if bound else "-",
            ]
        )
    for name, paper, raw_ratio, coded_ratio in PAPER_PAYLOADS:
        rows.append(
            [
                name,
                percent(paper),
                f"{raw_ratio}",
                f"{coded_ratio}",
                "",
                "",
                f"{8 * (2 + ALPHA * 2):.1f}",
                "",
            ]
        )
    table = Table(
        "Payload: the cost model against our bytes",
        "Ratios of the bytes of a checkpoint to what is sent: index and value as they are, "
        f"1 ÷ 3ρ; coded as the paper does, 2 ÷ ρ(2 + {ALPHA:.2f} · 2); our patches, and their "
        "payload without header and manifest, which for a model of 6 MB are a good part of "
        "a patch and for a larger one nothing. Then bits per changed element, and how far the last "
        "step's payload is above the entropy bound.",
        [
            "run",
            "changed",
            "raw",
            "coded",
            "patch",
            "payload",
            "bits per change",
            "above bound",
        ],
        rows,
        "\n".join(
            "sparsediff stats " + " ".join(map(str, checkpoints(r)[-2:])) + " --bound"
            for r in runs.values()
        ),
        "At the same density our payload is smaller than the paper's because positions and "
        "steps are coded in the context of the base, which tells where changes are likely; the "
        "paper counts two bytes for a position, wherever it is.",
    )
    return table, found


def model(rho: float) -> tuple[float, float]:
    """Ratios by the paper's cost model for bf16: raw and coded."""
    return 2 / (rho * 6), 2 / (rho * (2 + ALPHA * 2))


def transfers(ratios: dict[str, float], run: Path) -> Table:
    """Time on the wire, by arithmetic."""
    rows = []
    for gigabits in BANDWIDTHS:
        row = [f"{gigabits:g} Gbit/s"]
        for divisor in (1.0, ratios["raw"], ratios["coded"], ratios["ours"]):
            row.append(duration(8 * MODEL / divisor / (gigabits * 1e9)))
        rows.append(row)
    last = " ".join(str(p) for p in checkpoints(run)[-2:])
    return Table(
        "Transfer time",
        f"Not measured but computed: a model of 30B weights, {size(MODEL)}, at the density of the "
        f"run above ({percent(ratios['density'])}) and its ratios, bytes ÷ bandwidth.",
        ["bandwidth", "whole", "raw pairs", "coded as in the paper", "our payload"],
        rows,
        "\n".join(f"sparsediff stats {last} --bandwidth {g * 1000:g}Mbps" for g in BANDWIDTHS),
        "The columns of pairs are the paper's cost model at our density, the last is our bytes. "
        "The command says the same of the small model itself. Time to make and to apply is not "
        "in it: that is in the next table.",
    )
