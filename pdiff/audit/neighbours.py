"""How much of the originals' likeness is that of neighbours: checkpoints a few steps apart.

Axes: K originals, M models of a group, N test images.
"""

import math

import pandas as pd
import torch
from jaxtyping import Bool

from pdiff.audit.analysis import Analysis
from pdiff.audit.distances import distances, nearest, places
from pdiff.audit.evidence import Evidence
from pdiff.config import FinetuneConfig
from pdiff.novelty.iou import wrong_iou
from pdiff.parameters.subset import positions

BESIDE = ("held_back", "fresh", "generated")


def neighbours(config: FinetuneConfig, steps: int) -> Bool[torch.Tensor, "K K"]:
    """Which of K originals are the same, or at most `steps` optimiser steps apart in one run."""
    run, step = torch.tensor(positions(config)).T
    return (run[:, None] == run) & ((step[:, None] - step).abs() <= steps)


def neighbour_table(evidence: Evidence) -> pd.DataFrame:
    """Mean maximum similarity and mean distance to the nearest original, by what is left out.

    The originals have two rows: `itself` leaves each out of its own comparison, as the paper does,
    `neighbours` also those near it in its run. An original with no other left counts in neither
    mean. Nothing is left out for groups beside them (`nothing`).
    """
    similar = evidence.models.groupby("group")["max_similarity"].mean()
    near = places(evidence).groupby("group")["nearest"].mean()
    rows = [("original", "itself", similar["original"], near["original"])]
    rows.append(("original", "neighbours", *_apart(evidence)))
    rows += [(g, "nothing", similar[g], near[g]) for g in BESIDE if g in evidence.wrong]
    return pd.DataFrame(rows, columns=["group", "left_out", "max_similarity", "nearest"])


def _apart(evidence: Evidence) -> tuple[float, float]:
    wrong, parameters = evidence.wrong["original"], evidence.matrices["original"]
    similar = wrong_iou(wrong, wrong).double().masked_fill(evidence.near, -1).amax(1)
    near = nearest(distances(parameters, parameters).masked_fill(evidence.near, math.nan))
    return similar[similar >= 0].mean().item(), near[near.isfinite()].mean().item()


ANALYSIS = Analysis(
    name="neighbours",
    order=3,
    title="Neighbours",
    question="Are originals alike, or only those a few steps apart?",
    reading="An original resembles its neighbours in the run most, so its maximum similarity and "
    "its nearest distance are in units of an optimiser step. Compare generated models and fresh "
    "runs with the row that leaves neighbours out.",
    definition="Mean maximum similarity (IoU of wrong predictions) and mean L2 distance to the "
    "nearest original; neighbours lie at most novelty.neighbours optimiser steps apart in a run.",
    source="Not in the paper.",
    table=neighbour_table,
    numbers=lambda table: (
        table[table["left_out"] == "neighbours"]
        .iloc[0][["max_similarity", "nearest"]]
        .rename({"max_similarity": "original_max_apart", "nearest": "original_nearest_apart"})
        .to_dict()
    ),
)
