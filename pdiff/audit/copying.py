"""Are generated models copies? Nearer to the checkpoints that were learned than unseen ones are.

The three-sample test of Meehan, Chaudhuri and Dasgupta, "A Non-Parametric Test to Detect
Data-Copying in Generative Models" (AISTATS 2020): training set, held-out set, generated set.

Axes: M models of a group, H held-out checkpoints.

The test takes each set as independent draws of one distribution, and checkpoints of a run are
not: those held back follow the originals and drift away from them, and neighbours are alike. Three
runs of one AR(1) process with coefficient 0.9 have |Z| > 1.96 in 45 % of simulations, not in 5 %.
So read Z beside that of the other groups: what copies (noise of a low level), averages and
checkpoints of the other run score against the same held-out set.
"""

import math
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float64
from matplotlib import pyplot as plt
from scipy.stats import rankdata, tiecorrect

from pdiff.audit.analysis import Analysis
from pdiff.audit.distances import HELD_OUT, places
from pdiff.audit.evidence import Evidence
from pdiff.baselines.registry import label
from pdiff.novelty.looks import look
from pdiff.novelty.pictures import Picture, few, name_rows, rows_height, tidy

Z = ("z_fresh", "z_held_back")
Distances = Float64[np.ndarray, " _"]


def mann_whitney(own: Distances, held_out: Distances) -> tuple[float, float]:
    """Z_U, and the share of pairs in which the model lies farther than the held-out checkpoint.

    Of distances to the nearest original, NaN left out. Z_U is the standardised Mann-Whitney U
    (Section 3.1): far below 0 models lie nearer to the originals than held-out checkpoints do
    (copying), far above 0 farther (underfitting). The variance is corrected for ties, without
    correction for continuity (the authors' code shifts U by a half); Z_U is 0 if all distances are
    equal. The share is U / (M H), ties counted half: it does not grow with the number of models.
    Both are NaN where either set is empty.
    """
    own, held_out = own[~np.isnan(own)], held_out[~np.isnan(held_out)]
    m, h = len(own), len(held_out)
    if not m * h:
        return math.nan, math.nan
    ranks = rankdata(np.concatenate([own, held_out]))
    u = ranks[:m].sum() - m * (m + 1) / 2
    std = math.sqrt(tiecorrect(ranks) * m * h * (m + h + 1) / 12)
    return (u - m * h / 2) / std if std > 0 else 0.0, u / (m * h)


def copying_table(models: pd.DataFrame) -> pd.DataFrame:
    """One row per group: `z_NAME` and `farther_NAME` against both held-out sets.

    NaN for the set itself and where it is empty. Originals stand for a sample of their own run,
    each left out of the others. `models` is a `distance_table`.
    """
    parts = models.groupby("group", sort=False)["nearest"]
    near = {str(group): part.to_numpy(dtype=float) for group, part in parts}
    rows = []
    for group, own in near.items():
        row: dict[str, Any] = {"group": group, "models": len(own)}
        for name in HELD_OUT:
            held_out = near.get(name, np.zeros(0)) if name != group else np.zeros(0)
            row[f"z_{name}"], row[f"farther_{name}"] = mann_whitney(own, held_out)
        rows.append(row)
    return pd.DataFrame(rows)


def plot_copying(evidence: Evidence, table: pd.DataFrame) -> Picture:
    """How often models of each group lie farther from their nearest original than unseen ones do.

    Z is not drawn, since its scale promises an error rate that these checkpoints do not keep.
    """
    rows = table.set_index("group").loc[few(table["group"])]
    size = (6.4, rows_height(len(rows)) + 0.4)
    figure, axes = plt.subplots(figsize=size, layout="constrained")
    axes.axvline(50, color="#888888", lw=1, ls="--")
    for name, (colour, marker) in zip(HELD_OUT, (("#595959", "v"), look("fresh")), strict=True):
        style = {"ms": 7, "color": colour, "label": f"than checkpoints of: {label(name)}"}
        axes.plot(100 * rows[f"farther_{name}"], range(len(rows)), marker, **style)
    axes.set_xlabel("pairs in which the model lies farther from its nearest original (%)")
    axes.set_xlim(-3, 103)
    tidy(axes)
    name_rows(axes, map(label, rows.index))
    figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=9)
    farther = 100 * rows.loc["generated", [f"farther_{name}" for name in HELD_OUT]]
    return figure, (
        "A generated model lies farther from its nearest original than a held-back checkpoint in "
        f"{farther.iloc[0]:.0f} % of pairs, and than one of a fresh run in "
        f"{farther.iloc[1]:.0f} %; a copy would in 0 %."
    )


ANALYSIS = Analysis(
    name="copying",
    order=5,
    title="Copying",
    question="Do generated models lie nearer to what was learned than unseen checkpoints do?",
    reading="Copies stand at 0 %, models that lie as far as unseen checkpoints at the line of "
    "50 %. The two unseen sets lie at different distances themselves, and checkpoints of a run are "
    "not independent, so read a group beside known copies (noise 0.001), averages (soups) and the "
    "other unseen set.",
    definition="Z_U, in the table, is the standardised Mann-Whitney U between a group's and the "
    "held-out checkpoints' distances to the nearest original. Farther is the share of pairs of a "
    "model and a held-out checkpoint in which the model lies farther from its nearest original. "
    "Z_U is no z score here: runs that copy nothing exceed 1.96 in nearly half of all simulations.",
    source="Meehan, Chaudhuri and Dasgupta, AISTATS 2020, Section 3.",
    table=lambda evidence: copying_table(places(evidence)),
    figures={"copying": plot_copying},
    numbers=lambda table: table.set_index("group").loc["generated", list(Z)].to_dict(),
)
