"""All groups of models on the first two principal components of the originals.

Axes: M models of a group, D parameters, P points over all groups.
"""

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from sklearn.decomposition import PCA

from pdiff.audit.analysis import Analysis
from pdiff.audit.evidence import Evidence, Matrices, finite_rows
from pdiff.baselines.registry import ordered
from pdiff.novelty.looks import MAIN, OTHER, look
from pdiff.novelty.pictures import (
    Picture,
    back_to_front,
    empty_figure,
    few,
    group_legend,
    in_words,
    tidy,
)

MODELS = 60
"""Most models of a group that are shown."""


def project(matrices: Matrices) -> tuple[pd.DataFrame, tuple[float, float]]:
    """Columns group, model, pc1, pc2; and the share of the originals' variance along each.

    The components are those of all finite originals; the points are finite models spread evenly
    over each group, at three levels of a kind that has more. No points where fewer than two
    originals, or parameters, are there, or where the originals are equal.
    """
    table = pd.DataFrame(columns=["group", "model", "pc1", "pc2"])
    originals = matrices["original"]
    originals = originals[originals.isfinite().all(1)].double().numpy()
    if min(originals.shape) < 2 or not np.ptp(originals, axis=0).any():
        return table, (0.0, 0.0)
    pca = PCA(2, svd_solver="randomized", random_state=0).fit(originals)
    parts = []
    for group in few(matrices):
        picked = finite_rows(matrices[group], MODELS)
        if len(picked):
            part = pd.DataFrame({"group": group, "model": picked.tolist()})
            points = pca.transform(matrices[group][picked].double().numpy())
            parts.append(part.assign(pc1=points[:, 0], pc2=points[:, 1]))
    return pd.concat(parts, ignore_index=True), tuple(map(float, pca.explained_variance_ratio_))


def plot_projection(evidence: Evidence, table: None) -> Picture:
    """All groups projected on the originals' first two principal components.

    The picture shows the range of the groups that it names.
    """
    points, shares = project(evidence.matrices)
    if points.empty:
        return empty_figure("the originals have no two principal components")
    figure, axes = plt.subplots(figsize=(5.6, 5.6), layout="constrained")
    named = [group for group in ordered(set(points["group"])) if group in MAIN]
    others = points[~points["group"].isin(named)]
    axes.scatter(others["pc1"], others["pc2"], s=6, color=OTHER.colour, alpha=0.35, lw=0)
    for group in back_to_front(named):
        part, (colour, marker) = points[points["group"] == group], look(group)
        style = {"marker": marker, "s": 200 if marker == "*" else 20, "alpha": 0.7, "lw": 0}
        axes.scatter(part["pc1"], part["pc2"], color=colour, **style)
    axes.set_xlabel(f"component 1 ({100 * shares[0]:.1f} % of the originals' variance)")
    axes.set_ylabel(f"component 2 ({100 * shares[1]:.1f} %)")
    main = points[points["group"].isin(named)]
    for column, limit in (("pc1", axes.set_xlim), ("pc2", axes.set_ylim)):
        low, high = main[column].min(), main[column].max()
        if high > low:
            limit(low - 0.1 * (high - low), high + 0.1 * (high - low))
    tidy(axes)
    group_legend(figure, points["group"], named)
    spread = points.groupby("group")["pc1"].std()
    wide = {
        g: f"{spread[g] / spread['original']:.2f}" for g in ("generated", "fresh") if g in named
    }
    return figure, (
        f"Two components hold {100 * sum(shares):.0f} % of the originals' variance. Spread along "
        f"the first, in that of the originals: {in_words(wide)}."
    )


ANALYSIS = Analysis(
    name="projection",
    order=7,
    title="Map of all models",
    question="Where do generated models lie among all others?",
    reading="Generated models on the originals' path repeat it, those at the star average it.",
    definition="The originals' first two principal components, on which all models are projected.",
    source="Not in the paper.",
    figures={"projection": plot_projection},
)
