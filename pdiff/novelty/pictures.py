"""The paper's figures of one run, and what all figures share: legends, rows of boxes, small files.

A kind is a family of groups; a group's name has a level behind it where the family has several.
"""

from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from textwrap import fill

import matplotlib
import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.legend_handler import HandlerTuple
from matplotlib.lines import Line2D
from PIL import Image

from pdiff.baselines.registry import colour, label, ordered, split

matplotlib.use("Agg")

FRONT = ("reconstructed", "held_back", "fresh", "original", "generated", "ensemble")
"""Drawn last, so that no rival hides them."""
NOTE = {"fontsize": 8, "color": "#555555"}
SIMILARITY = "maximum similarity to an original (IoU of wrong predictions)"


def kinds(groups: Iterable[str]) -> dict[str, list[str]]:
    """The groups of each kind, levels rising, in the order of tables."""
    members: dict[str, list[str]] = {}
    for group in ordered(groups):
        members.setdefault(split(group)[0], []).append(group)
    return members


def back_to_front(groups: Iterable[str]) -> list[str]:
    """Groups in the order in which a figure draws them, one over the other."""
    names = ordered(groups)[::-1]
    return sorted(names, key=lambda group: FRONT.index(group) if group in FRONT else -1)


def plot_scatter(
    models: pd.DataFrame,
    split: str,
    front: Bool[np.ndarray, " M"] | None = None,
    note: str = "",
) -> plt.Figure:
    """Accuracy against maximum similarity, one point a model.

    The paper's Figures 3, 4 and 5a, with a line through the means of groups that differ in a
    level, and through the models on the Pareto `front`. It shows the range of the originals and
    the generated models and names the groups of models below; `note` ends its caption.
    """
    figure, axes = plt.subplots(figsize=(9.4, 5.6), layout="constrained")
    groups = set(models["group"])
    for group in back_to_front(groups):
        part = models[models["group"] == group]
        style = {"s": 130, "marker": "*"} if group == "ensemble" else {"s": 13}
        place = part["max_similarity"], 100 * part["accuracy"]
        axes.scatter(*place, color=colour(group, groups), lw=0, alpha=0.7, **style)
    means = models.groupby("group")[["max_similarity", "accuracy"]].mean()
    for members in (names for names in kinds(groups).values() if len(names) > 1):
        x, y = means.loc[members, "max_similarity"], 100 * means.loc[members, "accuracy"]
        shades = [colour(group, groups) for group in members]
        axes.plot(x, y, color=shades[len(shades) // 2], lw=1, zorder=3)
        axes.scatter(x, y, c=shades, s=34, marker="D", edgecolors="white", lw=0.8, zorder=3.5)
    lines = []
    if front is not None:
        best = models[front].sort_values(["max_similarity", "accuracy"])
        x, y = best["max_similarity"], 100 * best["accuracy"]
        shades = [colour(group, groups) for group in best["group"]]
        axes.step(x, y, "k-", where="post", lw=1.1)
        axes.scatter(x, y, c=shades, s=26, edgecolors="black", lw=0.9, zorder=4)
        lines = [Line2D([], [], color="black", lw=1.1, label=f"Pareto front ({len(best)})")]
    axes.set(xlabel=SIMILARITY, ylabel=f"{split} accuracy (%)")
    caption = [fill(text, 130) for text in (_focus(axes, models), note) if text]
    if caption:
        figure.supxlabel("\n".join(caption), x=0.01, ha="left", **NOTE)
    tidy(axes)
    group_legend(figure, models["group"].value_counts().to_dict(), lines)
    return figure


def _focus(axes: Axes, models: pd.DataFrame) -> str:
    """Limits around originals and generated models: rivals that failed must not flatten them.

    Says which models lie below, "" if none.
    """
    main = models[models["group"].isin(("original", "generated", "ensemble"))]
    low = min(main["accuracy"].quantile(0.01), main.groupby("group")["accuracy"].median().min())
    room = max(models["accuracy"].max() - low, 0.005)
    bottom, top = low - 0.6 * room, models["accuracy"].max() + 0.08 * room
    inside = models["accuracy"] >= bottom
    left, right = models.loc[inside, "max_similarity"].agg(["min", "max"])
    margin = 0.04 * max(right - left, 0.05)
    if np.isfinite(left):
        axes.set_xlim(left - margin, right + margin)
    axes.set_ylim(100 * bottom, 100 * top)
    below = models.loc[~inside, "group"].value_counts().to_dict()
    names = ", ".join(f"{label(group)} ({below[group]})" for group in ordered(below))
    text = f"{sum(below.values())} of {len(models)} models lie below this picture: {names}"
    return text if below else ""


def plot_similarities(models: pd.DataFrame) -> plt.Figure:
    """Distribution of the maximum similarity in each group (the paper's Figure 5c)."""
    groups = ordered(models["group"])
    values = {g: models.loc[models["group"] == g, "max_similarity"] for g in groups}
    figure, axes = plt.subplots(figsize=(7.6, rows_height(len(groups))), layout="constrained")
    draw_boxes(axes, {group: own.to_numpy() for group, own in values.items()})
    for group in ("original", "generated"):
        style = {"color": colour(group, [group]), "lw": 1, "ls": "--", "zorder": 0}
        axes.axvline(values[group].median(), **style)
    axes.set_xlabel(SIMILARITY)
    tidy(axes)
    name_rows(axes, [f"{label(group)} ({len(values[group])})" for group in groups])
    return figure


def draw_boxes(axes: Axes, values: Mapping[str, Float[np.ndarray, " _"]]) -> None:
    """One row per group from top to bottom: line 5 to 95 %, bar the middle half, dot the median.

    NaN are left out; a group without a value keeps its empty row.
    """
    for y, (group, found) in enumerate(values.items()):
        finite, shade = found[np.isfinite(found)], colour(group, values)
        if not len(finite):
            continue
        low, first, middle, third, high = np.quantile(finite, [0.05, 0.25, 0.5, 0.75, 0.95])
        axes.hlines(y, low, high, color=shade, linewidth=1.3)
        axes.hlines(y, first, third, color=shade, linewidth=7)
        style = {"color": "white", "mec": "#222222", "zorder": 4, "clip_on": False}
        axes.plot(middle, y, "o", markersize=5, **style)


def name_rows(axes: Axes, labels: Iterable[str]) -> None:
    """Labels of the rows of `draw_boxes`, the first one on top."""
    names = list(labels)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)


def rows_height(count: int) -> float:
    """Inches of a figure with `count` rows."""
    return 1.3 + 0.21 * max(count, 4)


def group_legend(
    figure: plt.Figure, counts: Mapping[str, int], extra: Sequence[Line2D] = ()
) -> None:
    """One entry per kind, right of the axes, with the number of its models.

    A kind with levels shows three of its colours and the range of its levels.
    """
    handles, labels = [], []
    for groups in kinds(counts).values():
        last = f" to {split(groups[-1])[1]:g}" if len(groups) > 1 else ""
        labels.append(f"{label(groups[0])}{last} ({sum(counts[g] for g in groups):,})")
        marker, size = ("*", 10) if "ensemble" in groups else ("o", 5)
        style = {"marker": marker, "markersize": size, "linestyle": "none"}
        shown = [groups[0], groups[len(groups) // 2], groups[-1]] if len(groups) > 2 else groups
        dots = (Line2D([], [], color=colour(group, counts), **style) for group in shown)
        handles.append(tuple(dots))
    handles += [(line,) for line in extra]
    labels += [line.get_label() for line in extra]
    style = {"loc": "outside right upper", "frameon": False, "fontsize": 8, "labelspacing": 0.6}
    beside = {tuple: HandlerTuple(ndivide=None, pad=0.2)}
    figure.legend(handles, labels, handler_map=beside, **style)


def tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)


def save_figure(figure: plt.Figure, path: Path) -> None:
    """PNG with a palette of 256 colours: a third of the size, and the same bytes each time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = BytesIO()
    figure.savefig(buffer, dpi=110, metadata={"Software": None}, facecolor="white")
    plt.close(figure)
    picture = Image.open(buffer).convert("RGB")
    picture = picture.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=1, dither=Image.Dither.NONE)
    picture.save(path, optimize=True)


def plain_ticks(axes: Axes, ticks: Iterable[float | int]) -> None:
    """Those of the ticks that lie within the x axis, as plain numbers."""
    low, high = axes.get_xlim()
    shown = [tick for tick in ticks if low <= tick <= high]
    axes.set_xticks(shown, [f"{tick:g}" for tick in shown])
    axes.set_xticks([], minor=True)
    axes.set_xlim(low, high)


def empty_figure(why: str) -> plt.Figure:
    """A figure that says why there is nothing to see."""
    figure, axes = plt.subplots(figsize=(6.4, 1.2), layout="constrained")
    axes.text(0.5, 0.5, why, ha="center", va="center", wrap=True)
    axes.set_axis_off()
    return figure
