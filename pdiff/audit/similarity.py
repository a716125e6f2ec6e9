"""Who errs like whom: maximum similarities, and the mean IoU within and between groups."""

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt

from pdiff.audit.analysis import PAPER, Analysis
from pdiff.audit.evidence import Evidence
from pdiff.baselines.registry import label, split
from pdiff.novelty.pictures import Picture, few, plot_similarities
from pdiff.novelty.summary import similarity_table

SHOWN = ("original", "ensemble", "generated", "reconstructed", "latent_gaussian", "held_back")
SHOWN += ("fresh", "soup", "gaussian_full", "noised")
"""Families of the map; the table holds every group."""


def plot_matrix(evidence: Evidence, table: pd.DataFrame) -> Picture:
    """Heat map of the mean IoU within and between the groups of `SHOWN`, with its numbers.

    A cell without a pair stays empty.
    """
    groups = [group for group in few(table["group"]) if split(group)[0] in SHOWN]
    known = table.set_index("group").loc[groups, groups]
    values = known.to_numpy(dtype=float)
    figure, axes = plt.subplots(figsize=(6.4, 6.0), layout="constrained")
    finite = values[np.isfinite(values)]
    low, high = (finite.min(), finite.max()) if len(finite) else (0.0, 1.0)
    axes.imshow(values, cmap="cividis", vmin=low, vmax=high)
    for (i, j), value in np.ndenumerate(values):
        if np.isfinite(value):
            style = {"color": "white" if value < (low + high) / 2 else "black", "fontsize": 8}
            axes.text(j, i, f"{value:.2f}", ha="center", va="center", **style)
    names = [label(group) for group in groups]
    axes.set_xticks(range(len(groups)), names, rotation=90, fontsize=9)
    axes.set_yticks(range(len(groups)), names, fontsize=9)
    axes.set_title("mean IoU of wrong predictions", fontsize=10, loc="left")
    own, other = known.loc["generated", "generated"], known.loc["generated", "original"]
    return figure, (
        f"Two generated models have a mean IoU of {own:.3f}, two originals of "
        f"{known.loc['original', 'original']:.3f}, one of each of {other:.3f}."
    )


ANALYSIS = Analysis(
    name="similarity_matrix",
    order=3,
    title="Distribution of similarity",
    question="Do generated models err like the originals, more so than other models do?",
    reading="A group left of the originals is more novel than originals are among themselves; the "
    "dashed lines are the medians of originals and generated models. A high number on the "
    "diagonal of the map says that the models of a group are all alike.",
    definition="Line: 5 to 95 % of a group's models; bar: the middle half; dot: the median. The "
    "map and the table average the IoU of wrong predictions over pairs of different models. "
    "Figures show three levels of a kind that has more.",
    source=f"{PAPER}, Section 4, Figure 5c.",
    table=lambda evidence: similarity_table(evidence.wrong),
    figures={
        "similarity": lambda evidence, _: plot_similarities(evidence.models),
        "similarity_matrix": plot_matrix,
    },
)
