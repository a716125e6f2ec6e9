"""The paper's figures of one run, and what all figures share: legends, rows of boxes, small files.

A kind is a family of groups; a group's name has a level behind it where the family has several.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from textwrap import fill

import matplotlib
import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from PIL import Image

from pdiff.baselines.registry import label, ordered, split
from pdiff.novelty.looks import MAIN, OTHER, look
from pdiff.parameters.subset import spread_evenly

matplotlib.use("Agg")

FRONT = ("fresh", "latent_gaussian", "original", "generated", "ensemble")
"""Drawn last, so that no rival hides them."""
NOTE = {"fontsize": 8, "color": "#555555"}
Picture = tuple[plt.Figure, str]
"""A figure, and in words what it shows: its alternative text."""
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
    reported: str,
    named: Collection[str] = MAIN,
    front: Bool[np.ndarray, " M"] | None = None,
    note: str = "",
    metric: str = "accuracy",
) -> Picture:
    """Accuracy against maximum similarity, a small point a model, and what it shows in words.

    The paper's Figures 3, 4 and 5a. Large markers are the means of the `named` groups, with a line
    through levels of one kind; all others are grey. `front` marks the models that a line joins.
    The picture shows the range of originals and generated models and names the groups below it;
    `note` stands above it. Another `metric` is in the column `score`.
    """
    scored = metric != "accuracy"
    if scored:
        models = models.assign(accuracy=models["score"] / 100)
    finite = np.isfinite(models["accuracy"]).to_numpy()  # a distance may be infinite
    models, front = models[finite], None if front is None else front[finite]
    if not models["max_similarity"].notna().any():
        return empty_figure("no model has a maximum similarity")
    figure, axes = plt.subplots(figsize=(5.6, 5.2), layout="constrained")
    groups = ordered(group for group in set(models["group"]) if group in named)
    others = models[~models["group"].isin(groups)]
    place = others["max_similarity"], 100 * others["accuracy"]
    axes.scatter(*place, s=7, color=OTHER.colour, alpha=0.4, lw=0)
    for group in back_to_front(groups):
        part, (colour, marker) = models[models["group"] == group], look(group)
        place, style = (part["max_similarity"], 100 * part["accuracy"]), {"alpha": 0.3, "lw": 0}
        if len(part) > 1:
            axes.scatter(*place, s=13, color=colour, marker=marker, **style)
    means = models.groupby("group")[["max_similarity", "accuracy"]].mean()
    _draw_means(axes, means["max_similarity"], 100 * means["accuracy"], groups)
    lines = []
    if front is not None:
        best = models[front].sort_values(["max_similarity", "accuracy"])
        axes.step(best["max_similarity"], 100 * best["accuracy"], "k-", where="post", lw=1.1)
        lines.append(Line2D([], [], color="black", lw=1.1, label=f"Pareto front ({len(best)})"))
    axes.set(xlabel=SIMILARITY, ylabel=f"{reported} {metric}" + " (%)" * (not scored))
    _focus(axes, models, models["group"].isin(groups) | (front is not None))
    if note:
        figure.suptitle(fill(note, 80), x=0.01, ha="left", **NOTE)
    tidy(axes)
    group_legend(figure, models["group"], groups, lines)
    unit = "" if scored else " %"
    said = {g: f"{100 * a:.2f}{unit} at {m:.3f}" for g, m, a in means.loc[groups].itertuples()}
    return figure, f"Mean {metric} at mean maximum similarity: {in_words(said)}."


def _draw_means(axes: Axes, x: pd.Series, y: pd.Series, groups: Sequence[str]) -> None:
    """Large markers at the means of the groups, and a line through the levels of one kind."""
    for depth, group in enumerate(back_to_front(groups)):
        colour, marker = look(group)
        style = {"color": colour, "marker": marker, "edgecolors": "white", "lw": 1.2}
        size = 300 if marker == "*" else 120
        axes.scatter(x[group], y[group], s=size, zorder=4 + depth, **style)
    for members in (own for own in kinds(groups).values() if len(own) > 1):
        axes.plot(x[members], y[members], color=look(members[0]).colour, lw=1, zorder=3)
        for group in members:
            style = {"xytext": (0, -15), "textcoords": "offset points", "ha": "center"}
            text, place = f"{split(group)[1]:g}", (x[group], y[group])
            axes.annotate(text, place, color="#333333", fontsize=8, zorder=20, **style)


def _focus(axes: Axes, models: pd.DataFrame, wide: pd.Series) -> None:
    """Limits around originals and generated models: rivals that failed must not flatten them.

    `wide` are the models that the x axis has to hold; those outside the picture are named.
    """
    main = models[models["group"].isin(("original", "generated", "ensemble"))]
    low = min(main["accuracy"].quantile(0.01), main.groupby("group")["accuracy"].median().min())
    room = max(models["accuracy"].max() - low, 0.005)
    bottom, top = low - 0.2 * room, models["accuracy"].max() + 0.08 * room
    inside = models["accuracy"] >= bottom
    left, right = models.loc[inside & wide, "max_similarity"].agg(["min", "max"])
    margin = 0.04 * max(right - left, 0.05)
    if np.isfinite(left):
        axes.set_xlim(left - margin, right + margin)
        inside &= ~(models["max_similarity"] < left - margin)
    axes.set_ylim(100 * bottom, 100 * top)
    if outside := models.loc[~inside, "group"].value_counts().to_dict():
        names = "; ".join(f"{label(group)} ({outside[group]})" for group in ordered(outside))
        text = f"{sum(outside.values())} of {len(models)} models lie outside this picture: {names}"
        axes.set_title(fill(text, 80), loc="left", **NOTE)


def plot_similarities(models: pd.DataFrame) -> Picture:
    """Distribution of the maximum similarity in each group (the paper's Figure 5c), and its words.

    A kind of more than three levels shows three.
    """
    groups = few(models["group"])
    values = {g: models.loc[models["group"] == g, "max_similarity"] for g in groups}
    figure, axes = plt.subplots(figsize=(5.6, rows_height(len(groups))), layout="constrained")
    draw_boxes(axes, {group: own.to_numpy() for group, own in values.items()})
    for group in ("original", "generated"):
        style = {"color": look(group).colour, "lw": 1, "ls": "--", "zorder": 0}
        axes.axvline(values[group].median(), **style)
    axes.set_xlabel(SIMILARITY.replace(" (", "\n("))
    tidy(axes)
    name_rows(axes, [f"{label(group)} ({len(values[group])})" for group in groups])
    medians = {group: f"{values[group].median():.3f}" for group in groups if group in MAIN}
    return figure, f"Median maximum similarity: {in_words(medians)}."


def draw_boxes(axes: Axes, values: Mapping[str, Float[np.ndarray, " _"]]) -> None:
    """One row per group from top to bottom: line 5 to 95 %, bar the middle half, dot the median.

    NaN are left out; a group without a value keeps its empty row.
    """
    for y, (group, found) in enumerate(values.items()):
        finite, shade = found[np.isfinite(found)], look(group).colour
        if not len(finite):
            continue
        low, first, middle, third, high = np.quantile(finite, [0.05, 0.25, 0.5, 0.75, 0.95])
        axes.hlines(y, low, high, color=shade, linewidth=1.3)
        axes.hlines(y, first, third, color=shade, linewidth=7)
        style = {"color": "white", "mec": "#222222", "zorder": 4, "clip_on": False}
        axes.plot(middle, y, "o", markersize=5, **style)


def few(groups: Iterable[str]) -> list[str]:
    """The groups in the order of tables, of a kind with more than three levels three."""
    return [own[i] for own in kinds(groups).values() for i in spread_evenly(len(own), 3)]


def in_words(values: Mapping[str, str]) -> str:
    """What each group has, as in `original: 0.98; soup of 8: 0.92`."""
    return "; ".join(f"{label(group)}: {value}" for group, value in values.items())


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
    figure: plt.Figure, models: pd.Series, named: Sequence[str], extra: Sequence[Line2D] = ()
) -> None:
    """One entry per kind below the axes, with the range of its levels and the number of models.

    `models` has the group of each model that is shown; those that are not `named` share an entry.
    """
    counts, handles = models.value_counts(), []
    for groups in kinds(named).values():
        last = f" to {split(groups[-1])[1]:g}" if len(groups) > 1 else ""
        text = f"{label(groups[0])}{last} ({counts[groups].sum():,})"
        colour, marker = look(groups[0])
        style = {"color": colour, "marker": marker, "ms": 10 if marker == "*" else 7, "ls": "none"}
        handles.append(Line2D([], [], label=text, **style))
    if len(others := counts.drop(named)):
        style = {"color": OTHER.colour, "marker": OTHER.marker, "ls": "none", "ms": 4}
        text = f"{len(others)} other groups ({others.sum():,})"
        handles.append(Line2D([], [], label=text, **style))
    style = {"loc": "outside lower center", "frameon": False, "fontsize": 9, "ncols": 2}
    figure.legend(handles=[*handles, *extra], **style)


def tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)


def save_figure(figure: plt.Figure, path: Path) -> None:
    """PNG with a palette of 256 colours: a third of the size, and the same bytes each time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = BytesIO()
    figure.savefig(buffer, dpi=130, metadata={"Software": None}, facecolor="white")
    plt.close(figure)
    picture = Image.open(buffer).convert("RGB")
    picture = picture.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=1, dither=Image.Dither.NONE)
    picture.save(path, optimize=True)


def save_both(figure: plt.Figure, path: Path) -> list[Path]:
    """The PNG at `path` and a PDF beside it for print, the same bytes each time."""
    save_figure(figure, path)
    vector = path.with_suffix(".pdf")
    figure.savefig(vector, metadata={"CreationDate": None, "Creator": None, "Producer": None})
    return [path, vector]


def empty_figure(why: str) -> Picture:
    """A figure that says why there is nothing to see."""
    figure, axes = plt.subplots(figsize=(6.4, 1.2), layout="constrained")
    axes.text(0.5, 0.5, why, ha="center", va="center", wrap=True)
    axes.set_axis_off()
    return figure, f"Nothing to see: {why}."
