"""Wrong predictions to tables: what the paper's Section 4 reports.

Axes: M models of a group, N images of the split that is reported, V of the one that chooses.
"""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from pdiff.baselines.registry import ordered
from pdiff.evaluation.predict import wrong
from pdiff.evaluation.predictions import Groups, load_predictions, load_scores
from pdiff.novelty.bootstrap import Replicates, interval_around
from pdiff.novelty.iou import (
    best_of_n,
    max_similarity,
    max_similarity_among,
    similarity_within,
    wrong_iou,
)

Wrong = Mapping[str, Bool[Tensor, "_ _"]]
"""{group: wrong predictions (M, N)}, True where a model errs; M differs from group to group."""


def load_groups(paths: Iterable[Path], split: str) -> tuple[Groups, Int64[Tensor, " N"]]:
    """Predictions of every group in files of predictions, in the order of tables, and the labels,
    which are the same in all files."""
    parts = [load_predictions(path, split) for path in paths]
    found = {group: rows for groups, _ in parts for group, rows in groups.items()}
    return {group: found[group] for group in ordered(found)}, parts[0][1]


def load_wrong(paths: Iterable[Path], split: str) -> dict[str, Bool[Tensor, "_ _"]]:
    """The wrong predictions of every group in files of predictions, in the order of tables."""
    predictions, labels = load_groups(paths, split)
    return {group: wrong(rows, labels) for group, rows in predictions.items()}


class Scores(NamedTuple):
    """The scores of a task other than classification."""

    metric: str
    larger_is_better: bool
    reported: Mapping[str, Float[Tensor, " _"]]
    """{group: (M,)} on the split that is reported."""
    choosing: Mapping[str, Float[Tensor, " _"]]
    """The same on the other split."""

    def best(self, values: pd.Series) -> int:
        """Index of the best value."""
        return values.idxmax() if self.larger_is_better else values.idxmin()


def gather_scores(paths: Iterable[Path], split: str, other: str) -> Scores | None:
    """The scores in files of predictions; None where the accuracy is the score."""
    paths, found = list(paths), []
    for name in (split, other):
        parts = [load_scores(path, name) for path in paths]
        found.append({group: own for groups, *_ in parts for group, own in groups.items()})
    return Scores(*parts[0][1:], *found) if found[0] else None


def model_table(errors: Wrong, choosing: Wrong, scores: Scores | None = None) -> pd.DataFrame:
    """One row per model: group, index, accuracy, accuracy on the split that chooses, similarity.

    Accuracies are fractions. `max_similarity` is the IoU with the most similar original; an
    original leaves out itself. With scores there are `score` and `choosing_score` too.
    """
    tables, original = {}, errors["original"]
    for group in ordered(errors):
        own, same = errors[group], group == "original"
        columns = {
            "accuracy": (~own).float().mean(1),
            "choosing_accuracy": (~choosing[group]).float().mean(1),
            "max_similarity": max_similarity_among(own) if same else max_similarity(own, original),
        }
        if scores:
            columns |= {"score": scores.reported[group], "choosing_score": scores.choosing[group]}
        tables[group] = pd.DataFrame({name: v.double().numpy() for name, v in columns.items()})
    return pd.concat(tables, names=["group", "model"]).reset_index()


def summary_table(
    models: pd.DataFrame, errors: Wrong, scores: Scores | None = None
) -> pd.DataFrame:
    """One row per group. Accuracies are fractions; `chosen` is the accuracy of the model that the
    other split would choose; `similarity_within` is the mean IoU among a group's own models.
    With scores there are `score`, what they are called, and the same numbers of them."""
    rows = []
    for group, part in models.groupby("group", sort=False):
        accuracies, similar = part["accuracy"], part["max_similarity"]
        row = {"group": group, "accuracy_mean": accuracies.mean()}
        row |= {"accuracy_std": accuracies.std(), "accuracy_best": accuracies.max()}
        row["accuracy_chosen"] = part.loc[part["choosing_accuracy"].idxmax(), "accuracy"]
        row |= {"max_similarity_mean": similar.mean(), "max_similarity_low": similar.min()}
        row |= {"max_similarity_high": similar.max()}
        row |= {"similarity_within": similarity_within(errors[group]), "models": len(part)}
        if scores:
            own, chosen = part["score"], scores.best(part["choosing_score"])
            row |= {"score": scores.metric, "score_mean": own.mean(), "score_std": own.std()}
            row |= {"score_best": own[scores.best(own)], "score_chosen": own[chosen]}
        rows.append(row)
    return pd.DataFrame(rows)


def difference_table(
    models: pd.DataFrame, errors: Wrong, replicates: Mapping[str, Replicates]
) -> pd.DataFrame:
    """One row per group: its means, and the generated models' means less these.

    `*_low` and `*_high` are 95 % intervals over images and generated models; differences are
    paired on the images. They describe this run; a claim needs several (`pdiff.paper.verdict`).
    """
    means = models.groupby("group", sort=False)[["accuracy", "max_similarity"]].mean()
    rows = []
    for group in means.index:
        row: dict[str, Any] = {"group": group, "models": len(errors[group])}
        for column, name in (("accuracy", "accuracy"), ("max_similarity", "similarity")):
            estimate = means.loc[group, column]
            difference = means.loc["generated", column] - estimate
            ours, theirs = (getattr(replicates[g], name) for g in ("generated", group))
            low, high = np.clip(interval_around(estimate, theirs), 0, 1)
            row |= {column: estimate, f"{column}_low": low, f"{column}_high": high}
            low, high = interval_around(difference, ours - theirs)
            name = f"{name}_difference"
            row |= {name: difference, f"{name}_low": low, f"{name}_high": high}
        rows.append(row | {"similarity_within": similarity_within(errors[group])})
    table = pd.DataFrame(rows)
    table.loc[table["group"] == "generated", table.columns.str.contains("difference")] = math.nan
    return table


def similarity_table(errors: Wrong) -> pd.DataFrame:
    """Mean IoU within and between groups over pairs of different models, from one product.

    NaN where there is no pair: a group of one with itself, and an empty group.
    """
    groups = ordered(errors)
    sizes = torch.tensor([len(errors[group]) for group in groups])
    everything = torch.cat([errors[group] for group in groups])
    iou = wrong_iou(everything, everything).double()
    itself = torch.eye(len(groups)).repeat_interleave(sizes, 1).double()  # (groups, M)
    sums, pairs = itself @ iou @ itself.T, torch.outer(sizes, sizes).double()
    sums -= torch.diag(itself @ iou.diagonal())
    pairs -= torch.diag(sizes.double())
    table = pd.DataFrame((sums / pairs).numpy(), columns=groups)  # 0 / 0 is NaN
    table.insert(0, "group", groups)
    return table


def headline(summary: pd.DataFrame, models: pd.DataFrame) -> dict[str, Any]:
    """The numbers that experiments are compared by, nested as DVC and MLflow show them."""
    rows = summary.set_index("group").to_dict("index")
    pair = ("original", "generated")
    n = min(rows[group]["models"] for group in pair)
    accuracy: dict[str, float] = {}
    for group in pair:
        own = torch.tensor(models.loc[models["group"] == group, "accuracy"].to_numpy())
        for name in ("best", "mean", "chosen"):
            accuracy[f"{group}_{name}"] = rows[group][f"accuracy_{name}"]
        accuracy[f"{group}_best_of_n"] = best_of_n(own, n)
    accuracy["ensemble"] = rows["ensemble"]["accuracy_mean"]
    others = [group for group in rows if group not in (*pair, "ensemble")]
    accuracy |= {f"{group}_mean": rows[group]["accuracy_mean"] for group in others}
    similarity = {"original_max_mean": rows["original"]["max_similarity_mean"]}
    similarity["original_within"] = rows["original"]["similarity_within"]
    for name in ("mean", "low", "high"):
        similarity[f"generated_max_{name}"] = rows["generated"][f"max_similarity_{name}"]
    for group in ("generated", "reconstructed"):
        similarity[f"{group}_within"] = rows[group]["similarity_within"]
    found = {"accuracy": accuracy, "similarity": similarity, "n": n}
    if "score" in summary:
        means = {f"{group}_mean": row["score_mean"] for group, row in rows.items()}
        means["ensemble"] = means.pop("ensemble_mean")
        best = {f"{group}_best": rows[group]["score_best"] for group in pair}
        found["score"] = best | means
    return found


def save_table(path: Path, table: pd.DataFrame) -> None:
    """CSV with six digits, which is more than any accuracy here holds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, index=False, float_format="%.6f", lineterminator="\n")
