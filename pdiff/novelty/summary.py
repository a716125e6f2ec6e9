"""Predictions and latents to tables and figures: what the paper's Section 4 reports.

Axes: M models of a group, K originals, G generated, N images, V images of the split that chooses.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
import torch
from jaxtyping import Int16, Int64
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from torch import Tensor

from pdiff.baselines.registry import colour, label, ordered
from pdiff.evaluation.predict import accuracy, wrong
from pdiff.novelty.iou import (
    best_of_n,
    max_similarity,
    max_similarity_among,
    similarity_within,
    wrong_iou,
)

matplotlib.use("Agg")

Predictions = Mapping[str, Int16[Tensor, "_ _"]]
"""{group: predictions (M, N)}; M differs from group to group."""


def model_table(
    predictions: Predictions,
    labels: Int64[Tensor, " N"],
    chosen_by: Predictions,
    chosen_labels: Int64[Tensor, " V"],
) -> pd.DataFrame:
    """One row per model: group, index, accuracy, accuracy on the split that chooses, similarity.

    Accuracies are fractions. `max_similarity` is the IoU with the most similar original; an
    original leaves out itself.
    """
    originals = wrong(predictions["original"], labels)
    tables = []
    for group in ordered(predictions):
        errors = wrong(predictions[group], labels)
        similar = (
            max_similarity_among(errors)
            if group == "original"
            else max_similarity(errors, originals)
        )
        columns = {
            "group": group,
            "model": range(len(errors)),
            "accuracy": accuracy(predictions[group], labels).double().numpy(),
            "choosing_accuracy": accuracy(chosen_by[group], chosen_labels).double().numpy(),
            "max_similarity": similar.double().numpy(),
        }
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)


def summary_table(
    models: pd.DataFrame, predictions: Predictions, labels: Int64[Tensor, " N"]
) -> pd.DataFrame:
    """One row per group. Accuracies are fractions; `chosen` is the accuracy of the model that the
    other split would choose; `similarity_within` is the mean IoU among a group's own models."""
    rows = []
    for group, part in models.groupby("group", sort=False):
        accuracies, similar = part["accuracy"], part["max_similarity"]
        chosen = part.loc[part["choosing_accuracy"].idxmax(), "accuracy"]
        rows.append(
            {
                "group": group,
                "accuracy_mean": accuracies.mean(),
                "accuracy_std": accuracies.std(),
                "accuracy_best": accuracies.max(),
                "accuracy_chosen": chosen,
                "max_similarity_mean": similar.mean(),
                "max_similarity_low": similar.min(),
                "max_similarity_high": similar.max(),
                "similarity_within": similarity_within(wrong(predictions[str(group)], labels)),
                "models": len(part),
            }
        )
    return pd.DataFrame(rows)


def similarity_table(predictions: Predictions, labels: Int64[Tensor, " N"]) -> pd.DataFrame:
    """Mean IoU between groups, over pairs of different models; NaN where there is no pair."""
    groups = ordered(predictions)
    errors = {group: wrong(predictions[group], labels) for group in groups}

    def mean(a: str, b: str) -> float:
        return (
            similarity_within(errors[a])
            if a == b
            else wrong_iou(errors[a], errors[b]).double().mean().item()
        )

    rows = [{"group": a, **{b: mean(a, b) for b in groups}} for a in groups]
    return pd.DataFrame(rows)


def headline(summary: pd.DataFrame, models: pd.DataFrame) -> dict[str, Any]:
    """The numbers that experiments are compared by, nested as DVC and MLflow show them."""
    group = summary.set_index("group").to_dict("index")
    accuracies = {
        name: torch.from_numpy(models.loc[models["group"] == name, "accuracy"].to_numpy().copy())
        for name in ("original", "generated")
    }
    n = min(len(values) for values in accuracies.values())
    accuracy: dict[str, float] = {}
    for name, values in accuracies.items():
        accuracy |= {
            f"{name}_best": group[name]["accuracy_best"],
            f"{name}_mean": group[name]["accuracy_mean"],
            f"{name}_chosen": group[name]["accuracy_chosen"],
            f"{name}_best_of_n": best_of_n(values, n),
        }
    accuracy["ensemble"] = group["ensemble"]["accuracy_mean"]
    accuracy |= {
        f"{name}_mean": row["accuracy_mean"]
        for name, row in group.items()
        if name.startswith("noised") or name == "reconstructed"
    }
    similarity = {
        "original_max_mean": group["original"]["max_similarity_mean"],
        "original_within": group["original"]["similarity_within"],
        "generated_max_mean": group["generated"]["max_similarity_mean"],
        "generated_max_low": group["generated"]["max_similarity_low"],
        "generated_max_high": group["generated"]["max_similarity_high"],
        "generated_within": group["generated"]["similarity_within"],
        "reconstructed_within": group["reconstructed"]["similarity_within"],
    }
    return {"accuracy": accuracy, "similarity": similarity, "n": n}


def save_table(path: Path, table: pd.DataFrame) -> None:
    """CSV with six digits, which is more than any accuracy here holds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, index=False, float_format="%.6f", lineterminator="\n")


def plot_scatter(path: Path, models: pd.DataFrame, split: str) -> None:
    """Accuracy against maximum similarity, one point a model (the paper's Figures 3 and 4)."""
    figure, axes = plt.subplots(figsize=(6.8, 5.0), layout="constrained")
    shown = [group for group in _drawn(models) if group != "ensemble"]
    for group in shown:
        part = models[models["group"] == group]
        axes.scatter(
            part["max_similarity"],
            100 * part["accuracy"],
            s=14,
            alpha=0.65,
            linewidths=0,
            color=colour(group, shown),
            label=f"{label(group)} ({len(part)})",
        )
    ensemble = models[models["group"] == "ensemble"]
    axes.scatter(
        ensemble["max_similarity"],
        100 * ensemble["accuracy"],
        s=90,
        marker="*",
        color=colour("ensemble", shown),
        label="ensemble",
        zorder=3,
    )
    axes.set(
        xlabel="maximum similarity to an original (IoU of wrong predictions)",
        ylabel=f"{split} accuracy (%)",
    )
    axes.set_ylim(*_trimmed(100 * models["accuracy"]))
    figure.legend(loc="outside upper center", ncols=4, frameon=False, fontsize=8, markerscale=1.4)
    tidy(axes)
    save_figure(figure, path)


def plot_similarity(path: Path, models: pd.DataFrame) -> None:
    """Distribution of the maximum similarity in each group (the paper's Figure 5c)."""
    groups = [g for g in _drawn(models) if (models["group"] == g).sum() > 1]
    values = [models.loc[models["group"] == g, "max_similarity"].to_numpy() for g in groups]
    figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    violins = axes.violinplot(values, showmedians=True, showextrema=True, widths=0.8)
    for body, group in zip(violins["bodies"], groups, strict=True):
        body.set(facecolor=colour(group, groups), alpha=0.7)
    for part in ("cmedians", "cmins", "cmaxes", "cbars"):
        violins[part].set(color="#444444", linewidth=1)
    axes.set_xticks(range(1, len(groups) + 1), [label(group) for group in groups], fontsize=8)
    axes.set_ylabel("maximum similarity")
    tidy(axes)
    save_figure(figure, path)


def _drawn(models: pd.DataFrame) -> list[str]:
    """Groups from the back to the front of a figure."""
    groups = ordered(dict.fromkeys(models["group"]))
    front = ["reconstructed", "original", "generated"]
    return [g for g in groups if g not in front] + [g for g in front if g in groups]


def _trimmed(percent: pd.Series) -> tuple[float, float]:
    """Limits that show 99 % of the models: one that failed must not flatten all others."""
    low, high = float(percent.quantile(0.01)), float(percent.max())
    margin = 0.08 * max(high - low, 0.5)
    return low - margin, high + margin


def tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)


def save_figure(figure: plt.Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)
