"""Tables that compare all groups of models at once: who is on the Pareto front, who errs like whom.

Axes: M models of a group, N test images.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool
from torch import Tensor

from pdiff.baselines.registry import FAMILIES, family, ordered
from pdiff.novelty.iou import wrong_iou


def pareto_front(models: pd.DataFrame) -> Bool[np.ndarray, " M"]:
    """Which models no other beats: as accurate and less similar, or as novel and more accurate.

    `models` has the columns `accuracy` and `max_similarity`. Equal models are on the front
    together; one with a NaN is not on it.
    """
    known = models[["accuracy", "max_similarity"]].reset_index(drop=True).dropna()
    best = known.groupby("max_similarity")["accuracy"].max()  # similarities rise
    less_similar = best.cummax().shift(fill_value=-np.inf)
    similarity = known["max_similarity"]
    as_good = known["accuracy"].to_numpy() == best.loc[similarity].to_numpy()
    better = known["accuracy"].to_numpy() > less_similar.loc[similarity].to_numpy()
    front = np.zeros(len(models), dtype=bool)
    front[known.index] = as_good & better
    return front


def front_table(models: pd.DataFrame) -> pd.DataFrame:
    """One row per family: its models, those on the front, its share of the front and of all."""
    kinds = models["group"].map(family)
    on_front = pareto_front(models)
    shown = [kind for kind in FAMILIES if (kinds == kind).any()]
    counts = pd.DataFrame(
        {
            "family": shown,
            "models": [int((kinds == kind).sum()) for kind in shown],
            "on_front": [int(on_front[kinds == kind].sum()) for kind in shown],
        }
    )
    counts["share_of_front"] = counts["on_front"] / max(int(on_front.sum()), 1)
    counts["share_of_models"] = counts["models"] / max(len(models), 1)
    return counts


def similarity_matrix(wrong: Mapping[str, Bool[Tensor, "_ N"]]) -> pd.DataFrame:
    """Mean IoU within and between groups, as `report.similarity_table`, from one matrix product.

    Pairs are of different models. NaN where there is none: a group of one with itself, and an
    empty group.
    """
    groups = ordered(wrong)
    sizes = torch.tensor([len(wrong[group]) for group in groups])
    errors = torch.cat([wrong[group] for group in groups])
    iou = wrong_iou(errors, errors).double()
    itself = torch.eye(len(groups)).repeat_interleave(sizes, 1).double()  # (groups, M)
    sums, pairs = itself @ iou @ itself.T, torch.outer(sizes, sizes).double()
    sums -= torch.diag(itself @ iou.diagonal())
    pairs -= torch.diag(sizes.double())
    table = pd.DataFrame((sums / pairs).numpy(), columns=groups)  # 0 / 0 is NaN
    table.insert(0, "group", groups)
    return table
