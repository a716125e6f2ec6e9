"""How much of p-diff is its codec: the originals as exact codecs of rising rank give them back.

A codec that keeps the originals' first R principal components and nothing else is one number, R:
at 0 it returns the mean of the originals ("ensemble") for each of them, at K - 1 the originals.
The trained codec and the generator are read beside it.

Axes: K originals, M models of a group, D parameters.
"""

import pandas as pd
import torch
from jaxtyping import Float
from matplotlib import pyplot as plt
from torch import Tensor

from pdiff.audit.analysis import Analysis
from pdiff.audit.evidence import Evidence
from pdiff.baselines.registry import label, split
from pdiff.novelty.iou import similarity_within, wrong_iou
from pdiff.novelty.looks import OTHER, look
from pdiff.novelty.pictures import Picture, in_words, kinds, tidy
from pdiff.novelty.summary import Wrong
from pdiff.parameters.subset import spread_evenly

BESIDE = ("reconstructed", "generated", "fresh")
"""What is read beside the ranks: trained codec, generator, and what an ideal generator makes."""
OTHERS = "max_similarity_others"


def rank_table(evidence: Evidence) -> pd.DataFrame:
    """One row for each rank, from `ensemble` to `original`, and for each group beside them.

    `rank` is empty for the latter, `r2` for what is not made of one original each. `max_similarity`
    is that of every other table, where a projection or reconstruction is compared with its own
    original too; `max_similarity_others` leaves that one out, as originals leave out themselves.
    All models of rank 0 are the same, so its `similarity_within` is 1.
    """
    models, wrong, matrices = evidence.models, evidence.wrong, evidence.matrices
    projected = kinds(wrong).get("projected", [])
    ranks = {"ensemble": 0, **{group: int(split(group)[1]) for group in projected}}
    ranks["original"] = len(wrong["original"]) - 1
    rows = []
    for group in [*ranks, *(group for group in BESIDE if group in wrong)]:
        part = models[models["group"] == group]
        copies = group in ranks or group == "reconstructed"
        row = {"group": group, "models": len(part), "rank": ranks.get(group)}
        row["r2"] = explained(matrices[group], matrices["original"]) if copies else None
        row |= {"accuracy": part["accuracy"].mean(), "accuracy_std": part["accuracy"].std()}
        alone = group == "ensemble"
        row["similarity_within"] = 1.0 if alone else similarity_within(wrong[group])
        row["max_similarity"] = part["max_similarity"].mean()
        row[OTHERS] = _similarity_to_others(wrong, group, leave_out=copies and not alone)
        rows.append(row)
    return pd.DataFrame(rows).astype({"rank": "Int64", "r2": float})


def explained(models: Float[Tensor, "M D"], originals: Float[Tensor, "K D"]) -> float:
    """R2: what share of the originals' squared deviation from their mean these copies keep.

    Model i stands for the i-th of M originals that are spread evenly over the K. 1 for the
    originals, 0 for their mean, less for copies that are worse than it, NaN if originals are equal.
    """
    chosen = originals[spread_evenly(len(originals), len(models))].double()
    deviation = (chosen - originals.mean(0, dtype=torch.float64)).square().sum()
    return float(1 - (models - chosen).square().sum() / deviation.where(deviation > 0, torch.nan))


def _similarity_to_others(wrong: Wrong, group: str, *, leave_out: bool) -> float:
    """Mean maximum similarity; `leave_out`: of a copy to other originals than its own."""
    similar = wrong_iou(wrong[group], wrong["original"])
    if leave_out:
        models, count = similar.shape
        similar[range(models), spread_evenly(count, models)] = -1  # K is at least 2
    return similar.amax(1).double().mean().item()


def plot_codec_rank(evidence: Evidence, table: pd.DataFrame) -> Picture:
    """Accuracy and maximum similarity against similarity within, along exact codecs of rising rank.

    The curve goes through the exact codecs. Vertical lines are the standard deviation of a group's
    accuracies.
    """
    figure, panels = plt.subplots(2, 1, figsize=(5.6, 7.4), sharex=True, layout="constrained")
    x, exact, groups = table["similarity_within"], table["rank"].notna(), list(table["group"])
    columns, spread = (100 * table["accuracy"], table[OTHERS]), 100 * table["accuracy_std"]
    for axes, y in zip(panels, columns, strict=True):
        axes.plot(x[exact], y[exact], "o-", color=OTHER.colour, ms=5, label="exact codec of rank N")
        for i, group in enumerate(groups):
            colour, marker = look(group)
            if split(group)[0] == "projected" and axes is panels[1] and x[i - 1] - x[i] > 0.005:
                style = {"xytext": (4, 3), "textcoords": "offset points", "fontsize": 8}
                axes.annotate(f"{table['rank'][i]}", (x[i], y[i]), color="#555555", **style)
            if split(group)[0] == "projected":
                continue
            style = {"ms": 14 if marker == "*" else 9, "ls": "none", "color": colour}
            axes.plot(x[i], y[i], marker, label=label(group), zorder=3, **style)
        axes.margins(0.07, 0.1)
        tidy(axes)
    shades = [look(group).colour for group in groups]
    panels[0].vlines(x, columns[0] - spread, columns[0] + spread, lw=1, alpha=0.45, color=shades)
    panels[0].set_ylabel(f"{evidence.split} accuracy (%)")
    panels[1].set_ylabel("maximum similarity to another original")
    panels[1].set_xlabel("similarity within (1: all models err alike)")
    entries = panels[0].get_legend_handles_labels()
    figure.legend(*entries, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    own = table.set_index("group")[["accuracy", "similarity_within"]]
    said = {
        g: f"{100 * own['accuracy'][g]:.2f} % at {own['similarity_within'][g]:.3f}" for g in groups
    }
    shown = {group: said[group] for group in ("original", "ensemble", *BESIDE) if group in said}
    return figure, f"Accuracy at similarity within: {in_words(shown)}."


ANALYSIS = Analysis(
    name="codec",
    order=2,
    title="Codec",
    question="How much of p-diff is its codec?",
    reading="The curve is what an exact codec makes of the originals: at rank 0 (right) it returns "
    "their mean, at K - 1 (left) themselves. Models on the curve do what a codec of that rank "
    "does: where it rises to the right they gain accuracy by forgetting how originals differ. "
    "Models below it in the lower panel err unlike any original. An ideal generator lies at "
    "the fresh run.",
    definition="Rank R keeps the originals' first R principal components, in the parameters as "
    "they are; r2 is the share of their squared deviation from the mean that is kept. Maximum "
    "similarity counts the original that a model was made from, as in all other tables; that to "
    "others, which is drawn, leaves it out, as originals leave out themselves. All models of rank "
    "0 are one, so its similarity within is 1. Vertical lines are the standard deviation of a "
    "group's accuracies.",
    source="Not in the paper.",
    table=rank_table,
    figures={"codec": plot_codec_rank},
)
