"""Figures that compare groups of models by accuracy and by how alike they err.

Axes: M models over all groups.
"""

from pathlib import Path
from textwrap import fill

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from pdiff.audit.draw import (
    NOTE,
    back_to_front,
    draw_boxes,
    empty_figure,
    family_legend,
    ladders,
    name_rows,
    rows_height,
    save_small,
)
from pdiff.audit.similarity import pareto_front
from pdiff.baselines.registry import FAMILIES, colour, family, label, ordered
from pdiff.novelty.summary import tidy


def plot_pareto(path: Path, models: pd.DataFrame, split: str) -> None:
    """Accuracy against maximum similarity, one point a model, with the Pareto front over all.

    In the style of the paper's Figures 3, 4 and 5a. `models` has the columns group, accuracy and
    max_similarity. Ladders are joined through the means of their groups. The picture shows the
    range of the originals and the generated models and says how many models lie outside.
    """
    models = models.dropna(subset=["accuracy", "max_similarity"]).reset_index(drop=True)
    if models.empty:
        return empty_figure(path, "no model has a maximum similarity")
    figure, axes = plt.subplots(figsize=(9.4, 5.6), layout="constrained")
    groups = set(models["group"])
    for group in back_to_front(groups):
        part = models[models["group"] == group]
        star = {"s": 130, "marker": "*"} if group == "ensemble" else {"s": 13}
        shade = colour(group, groups)
        axes.scatter(
            part["max_similarity"], 100 * part["accuracy"], c=shade, lw=0, alpha=0.7, **star
        )
    _draw_ladders(axes, models)
    front = models[pareto_front(models)].sort_values(["max_similarity", "accuracy"])
    x, y = front["max_similarity"], 100 * front["accuracy"]
    axes.step(x, y, "k-", where="post", lw=1.1)
    shades = [colour(group, groups) for group in front["group"]]
    axes.scatter(x, y, c=shades, s=26, edgecolors="black", lw=0.9, zorder=4)
    line = Line2D([], [], color="black", lw=1.1, label=f"Pareto front ({len(front)} models)")
    axes.set(
        xlabel="maximum similarity to an original (IoU of wrong predictions)",
        ylabel=f"{split} accuracy (%)",
    )
    _focus(axes, models)
    tidy(axes)
    family_legend(figure, models["group"].value_counts().to_dict(), [line])
    save_small(figure, path)


def _draw_ladders(axes: Axes, models: pd.DataFrame) -> None:
    """A line through the means of each ladder's groups."""
    for groups in ladders(models["group"]).values():
        means = models.groupby("group")[["max_similarity", "accuracy"]].mean().loc[groups]
        shades = [colour(group, groups) for group in groups]
        x, y = means["max_similarity"], 100 * means["accuracy"]
        axes.plot(x, y, color=shades[len(shades) // 2], lw=1, zorder=3)
        axes.scatter(x, y, c=shades, s=34, marker="D", edgecolors="white", lw=0.8, zorder=3.5)


def _focus(axes: Axes, models: pd.DataFrame) -> None:
    """Limits around originals and generated models: rivals that failed must not flatten them."""
    main = models[models["group"].isin(("original", "generated", "ensemble"))]
    main = models if main.empty else main
    low = min(main["accuracy"].quantile(0.01), main.groupby("group")["accuracy"].median().min())
    room = max(models["accuracy"].max() - low, 0.005)
    bottom, top = low - 0.6 * room, models["accuracy"].max() + 0.08 * room
    inside = models["accuracy"] >= bottom
    left, right = models.loc[inside, "max_similarity"].agg(["min", "max"])
    margin = 0.04 * max(right - left, 0.05)
    axes.set(xlim=(left - margin, right + margin), ylim=(100 * bottom, 100 * top))
    below = models.loc[~inside, "group"].map(family).value_counts()
    if len(below):
        names = ", ".join(
            f"{FAMILIES[kind].label.format('').strip()} {below[kind]}"
            for kind in FAMILIES
            if kind in below
        )
        text = f"{below.sum()} of {len(models)} models lie below this picture: {names}"
        axes.figure.supxlabel(fill(text, 110), x=0.01, ha="left", **NOTE)


def plot_similarities(path: Path, models: pd.DataFrame) -> None:
    """Distribution of the maximum similarity in each group (the paper's Figure 5c)."""
    groups = ordered(set(models["group"]))
    values = {g: models.loc[models["group"] == g, "max_similarity"].to_numpy() for g in groups}
    figure, axes = plt.subplots(figsize=(7.6, rows_height(len(groups))), layout="constrained")
    draw_boxes(axes, values, [colour(group, groups) for group in groups])
    _mark_medians(axes, values)
    axes.set_xlabel("maximum similarity to an original (IoU of wrong predictions)")
    tidy(axes)
    name_rows(axes, [f"{label(group)} ({len(values[group])})" for group in groups])
    save_small(figure, path)


def _mark_medians(axes: Axes, values: dict[str, Float[np.ndarray, " _"]]) -> None:
    """Dashed lines at the medians of the originals and the generated models."""
    for group in ("original", "generated"):
        if group in values and np.isfinite(values[group]).any():
            middle = float(np.nanmedian(values[group]))
            axes.axvline(middle, color=colour(group, [group]), lw=1, ls="--", zorder=0)


def plot_similarity_matrix(path: Path, table: pd.DataFrame) -> None:
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
    if len(groups) <= 12:
        for (row, column), value in np.ndenumerate(values):
            shade = "white" if value < (low + 1) / 2 else "black"
            if np.isfinite(value):
                axes.text(column, row, f"{value:.2f}", ha="center", va="center", c=shade, size=8)
    figure.colorbar(picture, shrink=0.6, extend="min", label="mean IoU of wrong predictions")
    save_small(figure, path)
