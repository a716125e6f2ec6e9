"""How much of p-diff is its codec: the originals as exact codecs of rising rank give them back.

A codec that keeps the originals' first R principal components and nothing else is one number, R:
at 0 it returns the mean of the originals ("ensemble") for each of them, at K - 1 the originals.
The trained codec and the generator are read beside it.

Axes: K originals, M models of a group, D parameters, N images.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from torch import Tensor

from pdiff.audit.draw import save_small
from pdiff.baselines.registry import colour, family, label, level, ordered
from pdiff.novelty.iou import similarity_within, wrong_iou
from pdiff.novelty.summary import tidy
from pdiff.parameters.subset import spans, spread_evenly

OF_THE_ORIGINALS = ("original", "projected", "reconstructed")
"""Families whose model i stands for one original, the i-th of M spread evenly over the K."""
BESIDE = ("reconstructed", "generated", "second_run")
"""What is read beside the ranks: trained codec, generator, and what an ideal generator makes."""


OTHERS = "max_similarity_others"
LINE = "#999999"
MARKERS = {"ensemble": ("*", 12), "original": ("o", 7), "generated": ("D", 8)}
MARKERS |= {"reconstructed": ("s", 8), "second_run": ("^", 9)}
LABEL = (24, 16)
"""Width and height of a rank in the figure, in its pixels."""


def rank_table(
    models: pd.DataFrame,
    wrong: Mapping[str, Bool[Tensor, "_ N"]],
    matrices: Mapping[str, Float[Tensor, "_ D"]],
) -> pd.DataFrame:
    """One row for each rank, from `ensemble` to `original`, and for each group beside them.

    `rank` is empty for the latter, `r2` for what is not made of one original each. `max_similarity`
    is that of every other table, where a projection or reconstruction is compared with its own
    original too; `max_similarity_others` leaves that one out, as originals leave out themselves.
    All models of rank 0 are the same, so its `similarity_within` is 1.
    """
    ranks = {
        "ensemble": 0,
        **{g: int(level(g)) for g in ordered(wrong) if family(g) == "projected"},
    }
    ranks["original"] = len(wrong["original"]) - 1
    rows = []
    for group in [*ranks, *(group for group in BESIDE if group in wrong)]:
        part = models[models["group"] == group]
        copies = group == "ensemble" or family(group) in OF_THE_ORIGINALS
        within = similarity_within(wrong[group])
        row = {"group": group, "models": len(part), "rank": ranks.get(group)}
        row["r2"] = explained(matrices[group], matrices["original"]) if copies else None
        row |= {"accuracy": part["accuracy"].mean(), "accuracy_std": part["accuracy"].std()}
        row["similarity_within"] = 1.0 if group == "ensemble" else within
        row["max_similarity"] = part["max_similarity"].mean()
        row[OTHERS] = _similarity_to_others(group, wrong)
        rows.append(row)
    return pd.DataFrame(rows).astype({"rank": "Int64", "r2": float})


def explained(models: Float[Tensor, "M D"], originals: Float[Tensor, "K D"]) -> float:
    """R2: what share of the originals' squared deviation from their mean these copies keep.

    Model i stands for the i-th of M originals that are spread evenly over the K. 1 for the
    originals, 0 for their mean, less for copies that are worse than it.
    """
    chosen = spread_evenly(len(originals), len(models))
    lost = deviation = 0.0
    for span in spans(len(originals), originals.shape[1]):
        block = originals[:, span].double()
        lost += (models[:, span] - block[chosen]).square().sum().item()
        deviation += (block[chosen] - block.mean(0)).square().sum().item()
    return 1 - lost / deviation if deviation else float("nan")


def _similarity_to_others(group: str, wrong: Mapping[str, Bool[Tensor, "_ N"]]) -> float:
    similar = wrong_iou(wrong[group], wrong["original"])
    if family(group) in OF_THE_ORIGINALS:
        models, count = similar.shape
        similar[range(models), spread_evenly(count, models)] = -1  # K is at least 2
    return similar.amax(1).double().mean().item()


def _projected(group: str) -> bool:
    return family(group) == "projected"


def plot_codec_rank(path: Path, table: pd.DataFrame, split: str) -> None:
    """Accuracy and similarity to the other originals against similarity within, rank by rank.

    The curve goes through the exact codecs; those that lie on top of each other share a label.
    Vertical lines are the standard deviation of a group's accuracies. `table` is `rank_table`'s.
    """
    figure, panels = plt.subplots(2, 1, figsize=(7.6, 7.4), sharex=True, layout="constrained")
    accuracy, similarity = panels
    _draw(accuracy, table, 100 * table["accuracy"], 100 * table["accuracy_std"])
    _draw(similarity, table, table[OTHERS])
    accuracy.set_ylabel(f"{split} accuracy (%)")
    similarity.set_ylabel("maximum similarity to another original")
    similarity.set_xlabel("similarity within (1: all models err alike)")
    handles, labels = accuracy.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False, fontsize=8)
    figure.draw_without_rendering()  # now the axes have their size
    for axes, column in ((accuracy, 100 * table["accuracy"]), (similarity, table[OTHERS])):
        _name_ranks(axes, table, column)
    save_small(figure, path)


def _draw(axes: Axes, table: pd.DataFrame, y: pd.Series, spread: pd.Series | None = None) -> None:
    x, groups, exact = table["similarity_within"], list(table["group"]), table["rank"].notna()
    axes.plot(x[exact], y[exact], color=LINE, lw=1.2, label="exact codec of rank R", zorder=2)
    for i, group in enumerate(groups):
        marker, size = MARKERS.get(group, ("o", 5))
        style = {"color": colour(group, groups), "zorder": 3}
        named = None if family(group) == "projected" else label(group)
        axes.plot(x[i], y[i], marker, markersize=size, ls="none", label=named, **style)
        if spread is not None:
            axes.vlines(x[i], y[i] - spread[i], y[i] + spread[i], lw=1, alpha=0.45, **style)
    axes.margins(0.07, 0.1)
    tidy(axes)


def _name_ranks(axes: Axes, table: pd.DataFrame, y: pd.Series) -> None:
    """Each rank beside its point; points that would hide each other's are named together."""
    exact = table["rank"].notna()
    points = list(zip(table["similarity_within"][exact], y[exact], strict=True))
    for members in _close(axes.transData.transform(points)):
        ranks = sorted({table["rank"][exact].iloc[i] for i in (members[0], members[-1])})
        at = max((points[i] for i in members), key=lambda point: point[1])
        back = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.5}
        style = {"textcoords": "offset points", "fontsize": 9, "bbox": back, "zorder": 4}
        axes.annotate(" to ".join(map(str, ranks)), at, (6, 7), **style)


def _close(places: Float[np.ndarray, "P 2"]) -> list[list[int]]:
    """Runs of consecutive points of which each is within a label's size of the one before."""
    runs = [[0]]
    for i, step in enumerate(np.abs(np.diff(places, axis=0)), 1):
        if (step < LABEL).all():
            runs[-1].append(i)
        else:
            runs.append([i])
    return runs
