"""What several models know together: do generated models err apart enough to correct each other?

Axes: M models of a group, N test images, C classes.
"""

import pandas as pd
import torch
from jaxtyping import Int, Int64
from matplotlib import pyplot as plt
from torch import Tensor

from pdiff.audit.analysis import Analysis
from pdiff.audit.evidence import Evidence
from pdiff.baselines.registry import label
from pdiff.novelty.looks import MAIN, look
from pdiff.novelty.pictures import Picture, few, in_words, name_rows, rows_height, tidy
from pdiff.parameters.subset import spread_evenly

VOTERS = 20
"""Models of each group that vote, spread evenly over it; a smaller group has no row."""


def vote_accuracy(predictions: Int[Tensor, "M N"], labels: Int64[Tensor, " N"]) -> float:
    """Accuracy of the majority vote; a tie counts as its expectation when chance decides it."""
    classes = int(max(predictions.max(), labels.max())) + 1
    votes = torch.nn.functional.one_hot(predictions.long(), classes).sum(0)  # (N, C)
    won = votes == votes.amax(1, keepdim=True)
    return (won.gather(1, labels[:, None])[:, 0].double() / won.sum(1)).mean().item()


def disagreement(predictions: Int[Tensor, "M N"]) -> float:
    """Share of images on which two different models predict different classes, over all pairs."""
    count, images = predictions.shape
    differ = torch.pdist(predictions.double(), p=0)  # counts the images that differ
    return (differ.sum() / (count * (count - 1) / 2) / images).item()


def vote_table(evidence: Evidence) -> pd.DataFrame:
    """One row for each group of at least VOTERS models: mean accuracy, vote gain, disagreement."""
    rows = []
    for group, predictions in evidence.predictions.items():
        if len(predictions) >= VOTERS:
            voters = predictions[spread_evenly(len(predictions), VOTERS)]
            accuracy = (voters == evidence.labels).double().mean().item()
            row = {"group": group, "voters": VOTERS, "accuracy": accuracy}
            row["vote_gain"] = vote_accuracy(voters, evidence.labels) - accuracy
            rows.append(row | {"disagreement": disagreement(voters)})
    return pd.DataFrame(rows, columns=["group", "voters", "accuracy", "vote_gain", "disagreement"])


def plot_votes(evidence: Evidence, table: pd.DataFrame) -> Picture:
    """Bars for each group of what the vote of its models gains over their mean accuracy."""
    groups = few(table["group"])
    gains = 100 * table.set_index("group")["vote_gain"]
    size = (5.6, max(4.0, rows_height(len(groups))))
    figure, axes = plt.subplots(figsize=size, layout="constrained")
    axes.barh(range(len(groups)), gains[groups], color=[look(g).colour for g in groups])
    axes.axvline(0, color="#333333", lw=1)
    axes.set_xlabel(
        f"{evidence.split} accuracy of {VOTERS} models' vote,\nless their mean (points)"
    )
    name_rows(axes, [label(group) for group in groups])
    tidy(axes)
    shown = {group: f"{gains[group]:+.2f}" for group in groups if group in MAIN}
    return (
        figure,
        f"Points that a vote of {VOTERS} gains: {in_words(shown) or 'no group has as many'}.",
    )


ANALYSIS = Analysis(
    name="votes",
    order=3,
    title="Votes",
    question="Do generated models know different things?",
    reading="Models that err on different images correct each other when they vote. A group whose "
    "gain is near 0 is one model in many copies, however its parameters differ; an ideal "
    "generator gains what fresh runs gain.",
    definition=f"{VOTERS} models of a group, spread evenly over it, vote for a class; chance "
    "decides ties. The gain is the accuracy of the vote less the voters' mean accuracy; "
    "disagreement is the share of images on which two of them predict different classes.",
    source="Not in the paper.",
    table=vote_table,
    figures={"votes": plot_votes},
    numbers=lambda table: (
        table.set_index("group")[["vote_gain", "disagreement"]]
        .reindex(["generated"])
        .iloc[0]
        .to_dict()
    ),
)
