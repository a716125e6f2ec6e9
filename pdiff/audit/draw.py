"""What the audit's figures share: order of groups, legends, rows of boxes, small files."""

from collections.abc import Iterable, Mapping
from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.legend_handler import HandlerTuple
from matplotlib.lines import Line2D
from PIL import Image

from pdiff.baselines.registry import FAMILIES, colour, family, level, ordered
from pdiff.parameters.subset import spread_evenly

FRONT = ("reconstructed", "held_back", "second_run", "original", "generated", "ensemble")
"""Drawn last, so that no rival hides them."""
NOTE = {"fontsize": 8, "color": "#555555"}


def back_to_front(groups: Iterable[str]) -> list[str]:
    """Groups in the order in which a figure draws them, one over the other."""
    names = list(reversed(ordered(set(groups))))
    front = [group for group in FRONT if group in names]
    return [group for group in names if group not in front] + front


def ladders(groups: Iterable[str]) -> dict[str, list[str]]:
    """Families with several groups, which differ in a level that rises."""
    return {kind: names for kind, names in _members(groups).items() if len(names) > 1}


def _members(groups: Iterable[str]) -> dict[str, list[str]]:
    """The groups of each family, both in order."""
    members: dict[str, list[str]] = {}
    for group in ordered(set(groups)):
        members.setdefault(family(group), []).append(group)
    return members


def few_levels(groups: Iterable[str]) -> list[str]:
    """The groups in order, without the levels of a ladder between its first, middle and last."""
    names = ordered(set(groups))
    hidden: set[str] = set()
    for members in ladders(names).values():
        hidden |= set(members) - {members[i] for i in spread_evenly(len(members), 3)}
    return [group for group in names if group not in hidden]


def family_legend(figure: plt.Figure, counts: Mapping[str, int], extra: Iterable[Line2D] = ()):
    """One entry per family, right of the axes, with the number of its models.

    A ladder shows three of its colours and the range of its levels.
    """
    handles, labels = [], []
    for kind, groups in _members(counts).items():
        shown = [groups[0], groups[len(groups) // 2], groups[-1]] if len(groups) > 2 else groups
        handles.append(tuple(_dot(colour(group, counts), group) for group in shown))
        levels = " to ".join(dict.fromkeys(f"{level(g):g}" for g in (groups[0], groups[-1])))
        number = sum(counts[group] for group in groups)
        labels.append(f"{FAMILIES[kind].label.format(levels)} ({number:,})")
    for line in extra:
        handles.append((line,))
        labels.append(line.get_label())
    figure.legend(
        handles,
        labels,
        loc="outside right upper",
        frameon=False,
        fontsize=8,
        labelspacing=0.6,
        handler_map={tuple: HandlerTuple(ndivide=None, pad=0.2)},
    )


def _dot(shade: str, group: str) -> Line2D:
    star = group == "ensemble"
    marker, size = ("*", 10) if star else ("o", 5)
    return Line2D([], [], color=shade, marker=marker, markersize=size, linestyle="none")


def draw_boxes(axes: Axes, values: Mapping[str, Float[np.ndarray, " _"]], shades: Iterable[str]):
    """One row per group from top to bottom: line 5 to 95 %, bar the middle half, dot the median.

    NaN are left out; a group without a value keeps its empty row.
    """
    for y, (found, shade) in enumerate(zip(values.values(), shades, strict=True)):
        finite = found[np.isfinite(found)]
        if not len(finite):
            continue
        low, first, middle, third, high = np.quantile(finite, [0.05, 0.25, 0.5, 0.75, 0.95])
        axes.hlines(y, low, high, color=shade, linewidth=1.3)
        axes.hlines(y, first, third, color=shade, linewidth=7)
        axes.plot(
            middle, y, "o", markersize=5, color="white", mec="#222222", zorder=4, clip_on=False
        )


def name_rows(axes: Axes, labels: Iterable[str]) -> None:
    """Labels of the rows of `draw_boxes`, the first one on top."""
    names = list(labels)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)


def rows_height(count: int) -> float:
    """Inches of a figure with so many rows."""
    return 1.3 + 0.21 * max(count, 4)


def positive_scale(axes: Axes, values: Float[np.ndarray, " _"]) -> None:
    """A logarithmic x axis; values of 0, as of exact copies, are kept in a linear start of it."""
    positive = values[np.isfinite(values) & (values > 0)]
    if not len(positive):
        return
    if (values == 0).any():
        axes.set_xscale("symlog", linthresh=float(positive.min()))
        axes.set_xlim(left=0)
    else:
        axes.set_xscale("log")


def plain_ticks(axes: Axes, ticks: Iterable[float | int]) -> None:
    """Those of the ticks that lie within the x axis, as plain numbers."""
    low, high = axes.get_xlim()
    shown = [tick for tick in ticks if low <= tick <= high]
    axes.set_xticks(shown, [f"{tick:g}" for tick in shown])
    axes.set_xticks([], minor=True)
    axes.set_xlim(low, high)


def empty_figure(path: Path, why: str) -> None:
    """A figure that says why there is nothing to see."""
    figure, axes = plt.subplots(figsize=(6.4, 1.2), layout="constrained")
    axes.text(0.5, 0.5, why, ha="center", va="center", wrap=True)
    axes.set_axis_off()
    save_small(figure, path)


def save_small(figure: plt.Figure, path: Path) -> None:
    """PNG with a palette of 256 colours: a third of the size, and the same bytes each time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = BytesIO()
    figure.savefig(buffer, dpi=110, metadata={"Software": None}, facecolor="white")
    plt.close(figure)
    picture = Image.open(buffer).convert("RGB")
    picture = picture.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=1, dither=Image.Dither.NONE)
    picture.save(path, optimize=True)
