"""Figures that compare groups of models by their distances: from originals and unseen checkpoints.

Axes: M models over all groups.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from pdiff.audit.draw import (
    NOTE,
    back_to_front,
    draw_boxes,
    few_levels,
    name_rows,
    plain_ticks,
    positive_scale,
    rows_height,
    save_small,
)
from pdiff.baselines.registry import colour, label, ordered
from pdiff.novelty.summary import tidy


def plot_distances(path: Path, models: pd.DataFrame) -> None:
    """L2 distance to the nearest original, and to the mean original over the originals' radius.

    `models` has the columns group, model, nearest, interpolation_index, nearest_held_back and
    nearest_second_run. An original's `nearest` leaves out itself. A column that is all NaN, or
    missing, is not drawn.
    """
    groups = ordered(set(models["group"]))
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(10, rows_height(len(groups)) + 0.3), sharey=True, layout="constrained"
    )
    shades = [colour(group, groups) for group in groups]
    draw_boxes(left, _by_group(models, "nearest", groups), shades)
    draw_boxes(right, _by_group(models, "interpolation_index", groups), shades)
    _draw_references(left, models, groups)
    right.axvline(1, color="#3b6fb6", lw=1, ls="--", zorder=0)
    left.set_xlabel("L2 distance to the nearest original")
    right.set_xlabel("distance to the mean original / originals' radius")
    positive_scale(left, models["nearest"].to_numpy(dtype=float))
    right.set_xscale("symlog", linthresh=1, linscale=1)
    plain_ticks(right, (0, 0.25, 0.5, 0.75, 1, 2, 4, 8, 16, 32, 64))
    tidy(left)
    tidy(right)
    name_rows(left, [label(group) for group in groups])
    right.grid(axis="y", visible=False)
    figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=8)
    save_small(figure, path)


def _by_group(models: pd.DataFrame, column: str, groups: list[str]) -> dict[str, np.ndarray]:
    return {g: models.loc[models["group"] == g, column].to_numpy(dtype=float) for g in groups}


def _draw_references(axes: Axes, models: pd.DataFrame, groups: list[str]) -> None:
    """Where unseen models lie (bands), and how far each group is from those (hollow marks)."""
    bands = {
        "original": "originals, each left out",
        "held_back": "held back",
        "second_run": "second run",
    }
    for group, text in bands.items():
        found = models.loc[models["group"] == group, "nearest"].dropna()
        if len(found):
            low, high = found.quantile([0.05, 0.95])
            axes.axvspan(low, high, color=colour(group, [group]), alpha=0.25, lw=0, label=text)
    for name, marker in (("held_back", "D"), ("second_run", "^")):
        column = f"nearest_{name}"
        if column in models and models[column].notna().any():
            middle = models.groupby("group")[column].median().reindex(groups)
            axes.plot(
                middle,
                range(len(groups)),
                marker,
                markersize=4.5,
                fillstyle="none",
                color=colour(name, [name]),
                label=f"median distance to the nearest of {label(name)}",
            )


def plot_copying(path: Path, table: pd.DataFrame) -> None:
    """The data-copying statistic Z_U of each group, and how often a model is nearest of all.

    Below -1.96 a group lies closer to the originals than unseen checkpoints do (copying), above
    1.96 farther (underfitting); Meehan, Chaudhuri and Dasgupta 2020. `table` has the columns
    group, z_held_back, z_second_run, rank_median and rank_first; NaN are not drawn.
    """
    table = table.set_index("group").loc[ordered(table["group"])]
    rows, groups = np.arange(len(table)), list(table.index)
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(9.4, rows_height(len(table)) + 0.4), sharey=True, layout="constrained"
    )
    left.axvspan(-1.96, 1.96, color="#888888", alpha=0.2, lw=0, label="no difference (95 %)")
    for name, marker in (("held_back", "D"), ("second_run", "^")):
        shade, text = colour(name, [name]), f"against {label(name)}"
        left.plot(table[f"z_{name}"], rows, marker, ms=6, color=shade, label=text)
    left.set_xscale("symlog", linthresh=4, linscale=1.5)
    plain_ticks(left, (-300, -100, -30, -10, -4, -2, 0, 2, 4, 10, 30, 100, 300))
    left.set_xlabel(r"$\leftarrow$ copying     $Z_U$     underfitting $\rightarrow$")
    shades = [colour(group, groups) for group in groups]
    right.hlines(rows, 0, 100 * table["rank_first"], color=shades, lw=4)
    for row, (rank, share) in enumerate(
        zip(table["rank_median"], table["rank_first"], strict=True)
    ):
        if np.isfinite(share):
            right.text(100 * share + 1, row, f"{rank:g}", va="center", **NOTE)
    right.set_xlabel("nearest of all to its original (%); median rank", fontsize=9)
    right.set_xlim(0, 108)
    for axes in (left, right):
        tidy(axes)
        name_rows(axes, map(label, groups))
    figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=8)
    save_small(figure, path)


def plot_performant(path: Path, table: pd.DataFrame) -> None:
    """Share of models that are both novel and performant, against c.

    Novel: farther from every original than c times the originals' leave-one-out distance. `table`
    has the columns group, c, models, novel_performant, and its interval as _low and _high, which is
    shown for originals and generated models. Of ladders three levels are drawn; a group of one
    model, whose share is all or nothing, is not.
    """
    table = table[table["models"] > 1]
    figure, axes = plt.subplots(figsize=(8.8, 4.4), layout="constrained")
    groups = few_levels(table["group"])
    for group in back_to_front(groups):
        part = table[table["group"] == group].sort_values("c")
        main = group in ("original", "generated")
        style = {"lw": 2.4 if main else 1.2, "zorder": 4 if main else 2}
        shade, share = colour(group, groups), "novel_performant"
        axes.plot(part["c"], 100 * part[share], "o-", ms=4, color=shade, **style)
        if main:
            low, high = (100 * part[f"{share}_{end}"] for end in ("low", "high"))
            axes.fill_between(part["c"], low, high, color=shade, alpha=0.2, lw=0)
    axes.set(xlabel="c, times the originals' leave-one-out distance", ylabel="share of models (%)")
    axes.set_xticks(sorted(table["c"].unique()))
    axes.set_ylim(-3, 103)
    tidy(axes)
    handles = [Line2D([], [], color=colour(g, groups), label=label(g)) for g in groups]
    figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=8)
    save_small(figure, path)
