"""Who errs like whom: maximum similarities, and the mean IoU within and between groups."""

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from pdiff.audit.analysis import PAPER, Analysis
from pdiff.audit.evidence import Evidence
from pdiff.baselines.registry import label
from pdiff.novelty.pictures import plot_similarities
from pdiff.novelty.summary import similarity_table


def plot_boxes(evidence: Evidence, table: pd.DataFrame) -> Figure:
    """Box for each group of the maximum similarity to an original."""
    return plot_similarities(evidence.models)


def plot_matrix(evidence: Evidence, table: pd.DataFrame) -> Figure:
    """Heat map of the mean IoU within and between groups; a cell without a pair stays empty."""
    groups = list(table["group"])
    values = table[groups].to_numpy(dtype=float)
    side = 2.6 + 0.2 * len(groups)
    figure, axes = plt.subplots(figsize=(side + 1, side), layout="constrained")
    known = values[np.isfinite(values)]
    low = float(np.quantile(known, 0.05)) if len(known) else 0.0  # a failed rival takes no colours
    picture = axes.imshow(values, cmap="viridis", vmin=low, vmax=max(1.0, low))
    names = [label(group) for group in groups]
    axes.set_xticks(range(len(groups)), names, rotation=90, fontsize=8)
    axes.set_yticks(range(len(groups)), names, fontsize=8)
    figure.colorbar(picture, shrink=0.6, extend="min", label="mean IoU of wrong predictions")
    return figure


ANALYSIS = Analysis(
    name="similarity_matrix",
    order=3,
    title="Distribution of similarity",
    question="Do generated models err like the originals, more so than other models do?",
    reading="A group left of the originals is more novel than originals are among themselves; the "
    "dashed lines are the medians of originals and generated models. A bright cell on the "
    "diagonal of the map is a group whose models are all alike.",
    definition="Line: 5 to 95 % of a group's models; bar: the middle half; dot: the median. The "
    "map and the table average the IoU of wrong predictions over pairs of different models.",
    source=f"{PAPER}, Section 4, Figure 5c.",
    table=lambda evidence: similarity_table(evidence.wrong),
    figures={"similarity": plot_boxes, "similarity_matrix": plot_matrix},
)
