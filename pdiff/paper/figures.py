"""The paper's figures from the results of a table's experiments.

Axes: K checkpoints, D parameters of the subset.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from pdiff import outputs
from pdiff.baselines import registry as families
from pdiff.core.files import load_tensors
from pdiff.novelty.pictures import save_figure, tidy
from pdiff.paper.results import Measured
from pdiff.system.errors import InputError

PAIR = ("original", "generated")
LINES = ("#3b6fb6", "#d1495b", "#e0a030", "#5cae72", "#7a5195", "#444444")
SHOWN = 64
"""Values of each tensor that the heat map shows: more cannot be told apart."""


def draw(name: str, path: Path, rows: Sequence[Measured]) -> bool:
    """Draw figure `name` from the rows that have run; False, and no file, if none has."""
    ready = [row for row in rows if len(row.models)]
    if ready:
        DRAW[name](path, ready)
    return bool(ready)


def _finish(figure: plt.Figure, axes: Axes, path: Path, columns: int = 6) -> None:
    """Write the figure with the legend of `axes` above it."""
    style = {"loc": "outside upper center", "frameon": False, "fontsize": 8}
    figure.legend(*axes.get_legend_handles_labels(), ncols=columns, **style)
    for each in figure.axes:
        tidy(each)
    save_figure(figure, path)


def scatter_panels(path: Path, rows: Sequence[Measured]) -> None:
    """Accuracy against maximum similarity, one panel a row (Figures 3 and 4)."""
    size = (4.2 * len(rows), 4.0)
    figure, panels = plt.subplots(1, len(rows), figsize=size, layout="constrained", squeeze=False)
    for axes, row in zip(panels[0], rows, strict=True):
        levels = row.experiments[0].params["baselines"]["noise_levels"]
        noised = [families.name("noised", level) for level in levels]
        for group in [*noised, *PAIR]:
            _points(axes, row, group, families.colour(group, noised), families.label(group))
        axes.set_title(row.row.label, fontsize=10)
        axes.set_xlabel("maximum similarity")
    panels[0][0].set_ylabel("test accuracy (%)")
    _finish(figure, panels[0][0], path, columns=3 * len(rows))


def _points(axes: Axes, row: Measured, group: str, colour: str, label: str) -> None:
    """One point a model of the group."""
    models = row.models[row.models["group"] == group]
    x, y = models["max_similarity"], 100 * models["accuracy"]
    axes.scatter(x, y, s=10, alpha=0.6, linewidths=0, color=colour, label=label)


def scatter_together(path: Path, rows: Sequence[Measured]) -> None:
    """Accuracy against maximum similarity of every row's generated models (Figure 5a)."""
    figure, axes = plt.subplots(figsize=(6.4, 4.6), layout="constrained")
    _points(axes, rows[0], "original", "#999999", "original")
    for row, colour in zip(rows, LINES, strict=False):
        _points(axes, row, "generated", colour, row.row.label)
    axes.set(xlabel="maximum similarity to an original", ylabel="test accuracy (%)")
    _finish(figure, axes, path, columns=5)


def trajectories(path: Path, rows: Sequence[Measured]) -> None:
    """Accuracy of unfinished samples along the reverse process (Figure 5b)."""
    frame = rows[0].found[0].frame(outputs.TRAJECTORY_CURVE)
    if frame is None or frame.empty:
        raise InputError("figure_5b: the experiment followed no sample; generate.trajectories is 0")
    figure, axes = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    samples = 100 * frame.set_index("step").drop(columns="trajectory_mean")
    samples.columns = samples.columns.str.replace("trajectory_", "sample ")
    samples.iloc[:, : len(LINES)].plot(ax=axes, color=LINES, linewidth=1.3, legend=False)
    mean = 100 * rows[0].value("original_mean")
    axes.axhline(mean, color="black", linestyle="--", linewidth=1, label="originals' mean")
    axes.set(xlabel="sampling step", ylabel="test accuracy (%)")
    _finish(figure, axes, path)


def violins(path: Path, rows: Sequence[Measured]) -> None:
    """Maximum similarity of originals and of generated models, a pair a row (Figure 5c)."""
    figure, axes = plt.subplots(figsize=(1.6 * len(rows) + 1.5, 4.2), layout="constrained")
    for offset, group in zip((-0.2, 0.2), PAIR, strict=True):
        colour = families.colour(group, PAIR)
        axes.plot([], [], color=colour, linewidth=6, alpha=0.7, label=f"{group} (best, %)")
        for i, row in enumerate(rows):
            part = row.models.loc[row.models["group"] == group, "max_similarity"]
            found = axes.violinplot([part], [i + offset], widths=0.36, showmedians=True)
            found["bodies"][0].set(facecolor=colour, alpha=0.7)
            for line in ("cmedians", "cmins", "cmaxes", "cbars"):
                found[line].set(color="#444444", linewidth=1)
            best, top = f"{100 * row.value(f'{group}_best'):.1f}", (i + offset, part.max())
            style = {"ha": "center", "fontsize": 7, "color": colour}
            axes.annotate(best, top, xytext=(0, 3), textcoords="offset points", **style)
    axes.set_xticks(range(len(rows)), [row.row.label for row in rows])
    axes.set_ylabel("maximum similarity")
    _finish(figure, axes, path)


def heat_map(path: Path, rows: Sequence[Measured]) -> None:
    """Values of the generated tensors at every checkpoint, weights above biases (Figure 1)."""
    found = rows[0].found[0].file(outputs.CHECKPOINTS)
    if found is None:
        raise InputError("figure_1: the checkpoints are no longer on this machine")
    stack, _ = load_tensors(found)
    names = sorted(stack, key=lambda name: (name.endswith("bias"), name))[:4]
    size = (8, 1.5 * len(names) + 0.6)
    figure, panels = plt.subplots(len(names), 1, figsize=size, layout="constrained", squeeze=False)
    for axes, name in zip(panels[:, 0], names, strict=True):
        flat = stack[name].flatten(1)[:, :SHOWN]  # (K, SHOWN)
        values = (flat - flat[0]).numpy()
        limit = float(np.abs(values).max()) or 1.0
        style = {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit, "interpolation": "nearest"}
        image = axes.imshow(values.T, aspect="auto", **style)
        axes.set_title(f"{name}, change since the first checkpoint", fontsize=8, loc="left")
        axes.set_yticks([])
        figure.colorbar(image, ax=axes, pad=0.01)
    panels[-1, 0].set_xlabel("checkpoint")
    save_figure(figure, path)


FIGURES = (scatter_panels, scatter_together, trajectories, violins, heat_map)
DRAW: dict[str, Callable[[Path, Sequence[Measured]], None]] = {f.__name__: f for f in FIGURES}
