"""Accuracy against similarity: which models no other model beats in both."""

import numpy as np
import pandas as pd
from jaxtyping import Bool

from pdiff.audit.analysis import PAPER, Analysis
from pdiff.audit.evidence import Evidence
from pdiff.baselines.registry import ordered
from pdiff.novelty.looks import MAIN
from pdiff.novelty.pictures import Picture, in_words, plot_scatter


def pareto_front(models: pd.DataFrame) -> Bool[np.ndarray, " M"]:
    """Which models no other beats: as accurate and less similar, or as novel and more accurate.

    `models` has the columns `accuracy` and `max_similarity`. Equal models are on the front
    together; one with a NaN is not on it.
    """
    similarity, accuracy = (models[c].to_numpy() for c in ("max_similarity", "accuracy"))
    as_good = (similarity[:, None] <= similarity) & (accuracy[:, None] >= accuracy)
    better = (similarity[:, None] < similarity) | (accuracy[:, None] > accuracy)
    return ~((as_good & better).any(0) | np.isnan(similarity + accuracy))


def front_table(models: pd.DataFrame) -> pd.DataFrame:
    """One row per group on the front: its models, those on the front, its share of the front."""
    on_front = models.loc[pareto_front(models), "group"].value_counts()
    groups = ordered(on_front.index)
    table = pd.DataFrame({"models": models["group"].value_counts()[groups]})
    table["on_front"] = on_front[groups]
    table["share_of_front"] = table["on_front"] / on_front.sum()
    return table.rename_axis("group").reset_index()


def plot_pareto(evidence: Evidence, table: pd.DataFrame) -> Picture:
    """Accuracy against maximum similarity, one point a model, with the Pareto front."""
    front = pareto_front(evidence.models)
    figure, _ = plot_scatter(evidence.models, evidence.split, MAIN, front)
    counts = table.set_index("group")["on_front"].astype(str).to_dict()
    own = counts.get("generated", "0")
    return figure, (
        f"Of {front.sum()} models on the Pareto front {own} are generated; by group: "
        f"{in_words(counts)}."
    )


ANALYSIS = Analysis(
    name="pareto",
    order=1,
    title="Accuracy and similarity",
    question="Is p-diff more accurate than its rivals, or as accurate and more novel?",
    reading="Up and to the left is better, and no model beats those on the black line. Generated "
    "models add something where they hold a part of it that no simple rival reaches.",
    definition="Similarity of two models is the IoU of the sets of test images they get wrong; a "
    "model's maximum similarity is that to the original most like it, and an original leaves out "
    "itself. A model is on the front if no other is as accurate and less similar, or as "
    "dissimilar and more accurate. Large markers are the means of groups.",
    source=f"{PAPER}, Section 4, Figures 3, 4 and 5a; the front is ours.",
    table=lambda evidence: front_table(evidence.models),
    figures={"pareto": plot_pareto},
)
