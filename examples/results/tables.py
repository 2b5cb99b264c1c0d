"""Figures of the runs, each with the paper's beside it.

Enters: runs, measured by `sparsediff.series_stats`. Leaves: tables. The figures of the paper
(SparseRL-Sync, arXiv 2605.07330) that are compared with are constants here; ours are none.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from results.page import Table, percent, significant, size
from results.runs import RATE, SAME_RATE, checkpoints
from sparsediff import SeriesStats, series_stats
from sparsediff.stats import Spread

PAPER_PRECISIONS = {
    "fp32": "99.5 %",
    "fp16": "2.43 %",
    "bf16": "0.614 %",
    "fp8 e4m3": "0.0655 %",
    "fp8 e4m3, not scaled": "",
}
INTERVALS = (1, 2, 5, 10, 20)


def measured(run: Path, every: int = 1) -> SeriesStats:
    """The series of a run's checkpoints, with the sizes of its patches."""
    return series_stats(checkpoints(run)[::every], patches=True)


def density(stats: SeriesStats) -> float:
    """Mean over the steps."""
    steps = stats.steps
    return sum(s.n_changed for s in steps) / sum(s.n_elements for s in steps)


def ratio(stats: SeriesStats) -> float:
    """Bytes of the checkpoints per byte of the patches."""
    return float(stats.target_bytes.sum() / stats.step_patch_bytes.sum())


def bits(stats: SeriesStats) -> float:
    """Of payload per changed element."""
    return float(8 * stats.patch_bytes.sum() / stats.n_changed.sum())


def by_precision(series: dict[str, SeriesStats], runs: dict[str, Path]) -> Table:
    """Changed elements by stored precision."""
    rows = []
    for name, stats in series.items():
        each = [s.density or 0.0 for s in stats.steps]
        row = [name, percent(density(stats)), PAPER_PRECISIONS[name]]
        rows.append([*row, percent(min(each)), percent(max(each)), significant(ratio(stats))])
    return Table(
        "Changed elements by stored precision",
        "One run, its float32 masters stored in five ways after each step; mean over the steps.",
        ["stored as", "changed", "the paper", "least", "most", "ratio"],
        rows,
        "\n".join(f"sparsediff stats {runs[name]}/step_*" for name in series),
        "A word changes with a chance in proportion to learning rate ÷ ULP, so ours differ from "
        "the paper's as the sizes of the weights do, and because these steps are the first of a "
        "fresh AdamW, which are the longest (“most” is the first). In fp16 and e4m3 small weights "
        "are subnormal, with ULPs that no longer shrink with them: how many are depends on the "
        "model, and for fp8 on the scale, which the paper does not give.",
    )


def by_interval(run: Path) -> Table:
    """Changed elements where only every n-th step is sent."""
    rows, commands = [], []
    shown = checkpoints(run)
    for every in INTERVALS:
        if every >= len(shown):
            continue
        stats = measured(run, every)
        n = len(stats.steps)
        rows.append(
            [
                f"{every}",
                percent(density(stats)),
                significant(ratio(stats)),
                size(stats.step_patch_bytes.sum() / (n * every)),
                significant(bits(stats)),
                f"{n}",
            ]
        )
        commands.append("sparsediff stats " + " ".join(map(str, shown[::every][:2])))
    return Table(
        "By interval",
        "The same run, synchronised after every so many steps; means over all intervals.",
        ["steps", "changed", "ratio", "patch per step", "bits per change", "intervals"],
        rows,
        "\n".join(commands),
        "We know of no figures of the paper for intervals. Density grows more slowly than the "
        "interval, because what changed once tends to change again, and the bytes for each step "
        "of training fall.",
    )


def by_rate(series: dict[float, SeriesStats], runs: dict[float, Path]) -> Table:
    """Changed elements by learning rate."""
    rows = [
        [
            f"{lr:g}",
            percent(density(stats)),
            "0.60 to 0.70 %" if lr == RATE else "",
            percent(density(stats) * RATE / lr),
            significant(ratio(stats)),
            significant(bits(stats)),
        ]
        for lr, stats in series.items()
    ]
    return Table(
        "By learning rate",
        f"The same start and the same seeds. The third figure is the density × {RATE:g} ÷ "
        "learning rate, which would be constant if density were in proportion to it.",
        ["learning rate", "changed", "the paper", f"at {RATE:g}", "ratio", "bits per change"],
        rows,
        "\n".join(f"sparsediff stats {run}/step_*" for run in runs.values()),
        "The paper's are its 30B runs (DAPO, GRPO, GSPO, asynchronous, agentic). Density grows "
        "more slowly than the learning rate because the smallest weights, which are the first to "
        "change, change every time and can do no more.",
    )


def by_kind(stats: SeriesStats, run: Path) -> Table:
    """Changed elements by kind of tensor."""
    rows = []
    for group in stats.grouped("kind"):
        sent = sum(s.patch_bytes or 0 for s in group.steps)
        rows.append(
            [
                group.key,
                f"{group.n_tensors}",
                percent(group.density),
                f"{group.n_never}",
                percent(sent / stats.patch_bytes.sum()),
                percent(group.steps[-1].n_elements / stats.steps[-1].n_elements),
            ]
        )
    return Table(
        "By kind of tensor",
        "Means over the steps.",
        ["kind", "tensors", "changed", "never touched", "of the payload", "of the weights"],
        rows,
        f"sparsediff stats {run}/step_* --by kind",
        "We know of no figures of the paper by kind. All matrices change alike; weights of norms "
        "are near 1, where a ULP is thousands of times what a step moves, and rows of the "
        "embedding for bytes that are in no answer get no gradient.",
    )


def untouched(dense: SeriesStats, mixture: SeriesStats, runs: tuple[Path, Path]) -> Table:
    """Tensors without a change, and experts without one in the whole run."""
    rows = []
    for name, stats in (("dense", dense), ("mixture of experts", mixture)):
        steps = stats.steps
        shares = [s.n_untouched / s.n_tensors for s in steps]
        never = (stats.n_changed.sum(axis=0) == 0).mean()
        rows.append([f"{name}: tensors, in a step", percent(float(np.mean(shares))), "5 to 6 %"])
        rows.append([f"{name}: tensors, in all {len(steps)} steps", percent(never), ""])
    steps = mixture.steps
    experts: dict[str, list[int]] = {}
    for i, tensor in enumerate(mixture.tensors):
        if ".experts." in tensor.name:
            experts.setdefault(tensor.name.rpartition("_proj")[0].rpartition(".")[0], []).append(i)
    of_expert = np.stack([mixture.n_changed[:, at].sum(axis=1) for at in experts.values()])
    tensors = np.concatenate([np.array(at) for at in experts.values()])
    never = float((mixture.n_changed[:, tensors].sum(axis=0) == 0).mean())
    rows += [
        [
            "expert tensors, in a step",
            percent(float((mixture.n_changed[:, tensors] == 0).mean())),
            "",
        ],
        [f"expert tensors, in all {len(steps)} steps", percent(never), "0.46 % (10 steps)"],
        [
            f"experts, in all {len(steps)} steps",
            percent(float((of_expert.sum(axis=1) == 0).mean())),
            "",
        ],
    ]
    return Table(
        "What is never touched",
        f"Shares without any change. The mixture has {len(experts)} experts in "
        f"{len({e.partition('.mlp')[0] for e in experts})} layers and changes "
        f"{percent(density(mixture))} of its weights in a step.",
        ["of", "untouched", "the paper"],
        rows,
        "\n".join(f"sparsediff stats {run}/step_*" for run in runs)
        + f"\nsparsediff stats {runs[1]}/step_* --by part",
        "Untouched are norms, a larger part of the tensors where a model has few of others, and "
        "experts that no token was sent to, of which a small batch leaves more. As in the paper, "
        "leaving out whole tensors saves next to nothing: they hold few weights.",
    )


def locality(stats: SeriesStats, run: Path) -> Table:
    """How much of what changes has changed before."""
    rows = []
    for i, step in enumerate(stats.steps):
        if i in (1, 2, 4, 9, 14, 19) and i:
            spread: Spread = stats.spread("locality", i)
            _, low, first, middle, third, high, _ = spread.quantiles
            paper = {1: "45 to 52 %", 9: "72 to 77 %"}.get(i, "")
            row = [f"{i + 1}", percent(step.locality), paper]
            row += [percent(v) for v in (low, first, middle, third, high)]
            rows.append([*row, percent(step.repeated_share)])
    return Table(
        "Locality",
        "Of the positions that change in a step, the share that has changed in any step before, "
        "|I ∩ U| ÷ |I|: of all positions, and its quantiles over the tensors. Beside it the share "
        "that changed in the step before.",
        ["step", "all", "the paper", "5 %", "25 %", "50 %", "75 %", "95 %", "step before"],
        rows,
        f"sparsediff stats {run}/step_*",
        "It rises as the paper's does, and stays below it. What changes again are the small "
        "weights, which change in nearly every step, so the share depends on how the sizes of "
        "weights are spread; and a gradient of 128 samples turns more from step to step than one "
        "of thousands. Which of the two it is we have not tried out.",
    )


def gates(series: dict[float, SeriesStats], runs: dict[float, Path]) -> Table:
    """The chance of a change against learning rate / ULP."""
    rows = []
    tables = {
        lr: {e.exponent: e for e in stats.exponents if e.dtype == "BF16"}
        for lr, stats in series.items()
    }
    main = tables[RATE]
    total = sum(e.n_elements for e in main.values())
    for exponent, e in sorted(main.items(), reverse=True):
        if e.n_elements < total / 500 or not e.magnitude:
            continue
        ulp = e.magnitude / 128
        row = [f"2^{round(np.log2(e.magnitude))}", percent(e.n_elements / total)]
        for lr, table in tables.items():
            found = table[exponent].density or 0.0
            row.append(f"{percent(found)} ({significant(found * ulp / lr)})")
        rows.append(row)
    return Table(
        "The gate of precision: density follows learning rate ÷ ULP",
        "Weights by the power of two that their magnitude starts with, and how many of them "
        "change in a step. In parentheses the density × ULP ÷ learning rate, a constant c where "
        "the claim holds, and less where nearly all that can change does.",
        ["magnitude", "of the weights", *(f"lr {lr:g}" for lr in tables)],
        rows,
        "\n".join(f"sparsediff stats {run}/step_* --json" for run in runs.values()),
        "The paper gives the claim without a constant. It holds here for all learning rates with "
        "one c, until a quarter of the weights changes in a step: then it saturates. At the "
        "largest weights c is the mean of a few changes.",
    )


def trajectories(series: dict[str, SeriesStats], runs: dict[str, Path]) -> Table:
    """How fine-tuning changes weights, and how a policy gradient does."""
    rows = []
    for name, stats in series.items():
        steps, last = stats.steps, stats.steps[-1]
        c = constant(stats, float(name.rpartition(" ")[2]))
        changed = sum(s.n_changed for s in steps)
        rows.append(
            [
                name,
                percent(density(stats)),
                percent(sum(s.n_ones for s in steps) / changed if changed else None),
                significant(c),
                percent(last.locality),
                percent(last.jaccard),
                percent(sum(s.n_untouched for s in steps) / sum(s.n_tensors for s in steps)),
                significant(ratio(stats)),
                significant(bits(stats)),
            ]
        )
    return Table(
        "Fine-tuning's trajectory and the policy gradient's",
        "Runs from the same start with the same optimizer: means over the steps, overlaps of the "
        "last step, and c, the density × ULP ÷ learning rate over all weights that are not "
        "saturated. FIGA's and SFT's pairs are those of `examples/figa`; each run was shipped into "
        "a store, and the store's versions are what the report shows.",
        [
            "run, learning rate",
            "changed",
            "±1 ULP",
            "c",
            "seen before",
            "Jaccard",
            "untouched",
            "ratio",
            "bits per change",
        ],
        rows,
        "\n".join(
            f"sparsediff ship {run} {run}.store\n"
            f"sparsediff stats --store {run}.store --html {run}.html --force"
            for run in runs.values()
        ),
        answer(series),
    )


def answer(series: dict[str, SeriesStats]) -> str:
    """How the two differ, as the figures say."""
    slow, fast = f"{RATE:g}", f"{SAME_RATE:g}"
    c = {name: constant(stats, float(name.rpartition(" ")[2])) for name, stats in series.items()}
    policy, figa, sft = (series[f"{way}, {fast}"] for way in ("policy gradient", "FIGA", "SFT"))
    further = density(figa) / density(policy) - 1
    more = f"{abs(further):.0%} {'more' if further > 0 else 'fewer'}"
    so = ""
    if abs(further) < 0.1:
        so = (
            "That is little: how many words change is decided by the optimizer, its rate and the "
            "sizes of the weights, hardly by what the loss is. "
        )
    again = [s.steps[-1].locality or 0.0 for s in (policy, figa, sft)]
    often = "more" if again[1] > again[0] else "less"
    usual = series[f"policy gradient, {slow}"]
    return (
        f"How does fine-tuning's trajectory differ? At the same learning rate, {fast}, FIGA "
        f"changes {more} words in a step than the policy gradient, {percent(density(figa))} "
        f"against {percent(density(policy))} (SFT {percent(density(sft))}): c is "
        f"{significant(c[f'FIGA, {fast}'])} against "
        f"{significant(c[f'policy gradient, {fast}'])}, "
        "and AdamW's steps are the longer, the more the gradients of its last steps agree. What "
        f"changes has changed before {often} often, {percent(again[1])} against "
        f"{percent(again[0])}. "
        f"{so}The larger part of the difference is the learning rate that each is used with: "
        f"FIGA at {fast} takes {significant(ratio(usual) / ratio(figa))} times the bytes of the "
        f"policy gradient at {slow}. The paper on FIGA (arXiv 2311.04072) says nothing of its "
        "weights."
    )


def constant(stats: SeriesStats, lr: float) -> float:
    """C, where a word changes with the chance c · learning rate ÷ ULP.

    Over the exponents at which less than a quarter of the words changes: above, it saturates.
    """
    shown = [e for e in stats.exponents if e.magnitude and (e.density or 0.0) < 0.25]
    return sum(e.n_changed for e in shown) / sum(
        e.n_elements * lr / (e.magnitude / 128) for e in shown
    )
