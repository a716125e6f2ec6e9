"""Wrong predictions to tables: what the paper's Section 4 reports.

Axes: M models of a group, N images of the split that is reported, V of the one that chooses.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool
from torch import Tensor

from pdiff.baselines.registry import ordered
from pdiff.evaluation.predict import wrong
from pdiff.evaluation.predictions import load_predictions
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


def load_wrong(paths: Iterable[Path], split: str) -> dict[str, Bool[Tensor, "_ _"]]:
    """The wrong predictions of every group in files of predictions, in the order of tables."""
    found = {}
    for path in paths:
        predictions, labels = load_predictions(path, split)
        found |= {group: wrong(part, labels) for group, part in predictions.items()}
    return {group: found[group] for group in ordered(found)}


def model_table(errors: Wrong, choosing: Wrong) -> pd.DataFrame:
    """One row per model: group, index, accuracy, accuracy on the split that chooses, similarity.

    Accuracies are fractions. `max_similarity` is the IoU with the most similar original; an
    original leaves out itself.
    """
    tables = []
    for group in ordered(errors):
        own = errors[group]
        original = group == "original"
        similar = max_similarity_among(own) if original else max_similarity(own, errors["original"])
        columns = {
            "group": group,
            "model": range(len(own)),
            "accuracy": _accuracy(own),
            "choosing_accuracy": _accuracy(choosing[group]),
            "max_similarity": similar.double().numpy(),
        }
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)


def _accuracy(errors: Bool[Tensor, "M N"]) -> Any:
    return (~errors).float().mean(1).double().numpy()


def summary_table(models: pd.DataFrame, errors: Wrong) -> pd.DataFrame:
    """One row per group. Accuracies are fractions; `chosen` is the accuracy of the model that the
    other split would choose; `similarity_within` is the mean IoU among a group's own models."""
    rows = []
    for group, part in models.groupby("group", sort=False):
        accuracies, similar = part["accuracy"], part["max_similarity"]
        rows.append(
            {
                "group": group,
                "accuracy_mean": accuracies.mean(),
                "accuracy_std": accuracies.std(),
                "accuracy_best": accuracies.max(),
                "accuracy_chosen": part.loc[part["choosing_accuracy"].idxmax(), "accuracy"],
                "max_similarity_mean": similar.mean(),
                "max_similarity_low": similar.min(),
                "max_similarity_high": similar.max(),
                "similarity_within": similarity_within(errors[str(group)]),
                "models": len(part),
            }
        )
    return pd.DataFrame(rows)


def difference_table(
    models: pd.DataFrame, errors: Wrong, replicates: Mapping[str, Replicates]
) -> pd.DataFrame:
    """One row per group: its means, and the generated models' means less these.

    `*_low` and `*_high` are 95 % intervals over images and generated models; differences are
    paired on the images. They describe this run; a claim needs several (`pdiff.paper.verdict`).
    """
    means = models.groupby("group", sort=False)[["accuracy", "max_similarity"]].mean()
    ours, rows = replicates["generated"], []
    for group in means.index:
        row: dict[str, Any] = {"group": group, "models": len(errors[group])}
        theirs = replicates[group]
        for column, name, own, other in (
            ("accuracy", "accuracy", ours.accuracy, theirs.accuracy),
            ("max_similarity", "similarity", ours.similarity, theirs.similarity),
        ):
            estimate = means.loc[group, column]
            difference = means.loc["generated", column] - estimate
            row[column] = estimate
            row[f"{column}_low"], row[f"{column}_high"] = interval_around(estimate, other)
            ends = interval_around(difference, own - other)
            numbers = (difference, *ends) if group != "generated" else (float("nan"),) * 3
            row |= zip(
                (f"{name}_difference", f"{name}_difference_low", f"{name}_difference_high"),
                numbers,
                strict=True,
            )
        rows.append(row | {"similarity_within": similarity_within(errors[group])})
    return pd.DataFrame(rows)


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
    values = {g: models.loc[models["group"] == g, "accuracy"].to_numpy() for g in pair}
    n = min(len(own) for own in values.values())
    accuracy: dict[str, float] = {}
    for group, own in values.items():
        accuracy |= {
            f"{group}_best": rows[group]["accuracy_best"],
            f"{group}_mean": rows[group]["accuracy_mean"],
            f"{group}_chosen": rows[group]["accuracy_chosen"],
            f"{group}_best_of_n": best_of_n(torch.tensor(own), n),
        }
    accuracy["ensemble"] = rows["ensemble"]["accuracy_mean"]
    others = [group for group in rows if group not in (*pair, "ensemble")]
    accuracy |= {f"{group}_mean": rows[group]["accuracy_mean"] for group in others}
    original, generated = (rows[group] for group in pair)
    similarity = {
        "original_max_mean": original["max_similarity_mean"],
        "original_within": original["similarity_within"],
        "generated_max_mean": generated["max_similarity_mean"],
        "generated_max_low": generated["max_similarity_low"],
        "generated_max_high": generated["max_similarity_high"],
        "generated_within": generated["similarity_within"],
        "reconstructed_within": rows["reconstructed"]["similarity_within"],
    }
    return {"accuracy": accuracy, "similarity": similarity, "n": n}


def save_table(path: Path, table: pd.DataFrame) -> None:
    """CSV with six digits, which is more than any accuracy here holds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, index=False, float_format="%.6f", lineterminator="\n")
