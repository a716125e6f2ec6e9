"""The paper's figures from the results of a table's experiments.

Axes: K checkpoints, D parameters of the subset.
"""

from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from textwrap import fill

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from PIL import Image

from pdiff import outputs
from pdiff.baselines.registry import label, name, split
from pdiff.core.files import load_tensor, load_tensors
from pdiff.novelty.looks import look
from pdiff.novelty.pictures import NOTE, draw_boxes, few, save_both, tidy
from pdiff.paper.results import Measured, difference
from pdiff.system.errors import InputError

PAIR = ("original", "generated")
LINES = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#000000", "#56B4E9")
MARKERS = "Dos^vP"
ZOO = ("generated", "s_kde30", "sane_kde30", "interpolated", "soup_8", "soup_shuffled_8")
"""Groups of a zoo's picture."""
SCORED = ("original", "ensemble", "reconstructed", "generated", "noised", "latent_gaussian")
"""Groups of a picture of scores."""
SHOWN = 64
"""Values of each tensor that the heat map shows: more cannot be told apart."""


def draw(figure: str, path: Path, rows: Sequence[Measured]) -> list[Path]:
    """Draw a figure as PNG and PDF; the files, none if no row has run.

    Panels and places of rows that have not run say so.
    """
    if not any(map(_has_run, rows)):
        return []
    return save_both(DRAW[figure](rows), path)


def _has_run(row: Measured) -> bool:
    return bool(len(row.models))


def _finish(figure: plt.Figure, axes: Axes, columns: int = 6) -> plt.Figure:
    """The figure with the legend of `axes` above it."""
    style = {"loc": "outside upper center", "frameon": False, "fontsize": 8}
    figure.legend(*axes.get_legend_handles_labels(), ncols=columns, **style)
    for each in figure.axes:
        tidy(each)
    return figure


def scatter_panels(rows: Sequence[Measured]) -> plt.Figure:
    """Accuracy against maximum similarity, one panel a row on the same axes (Figures 3 and 4)."""
    shape = {"figsize": (3.2 * len(rows), 3.8), "sharex": True, "sharey": True, "squeeze": False}
    figure, panels = plt.subplots(1, len(rows), layout="constrained", **shape)
    levels = next(filter(_has_run, rows)).experiments[0].params["baselines"]["noise_levels"]
    for axes, row in zip(panels[0], rows, strict=True):
        axes.set_title(row.row.label, fontsize=10)
        axes.set_xlabel("maximum similarity")
        if not _has_run(row):
            style = {"ha": "center", "transform": axes.transAxes, **NOTE}
            axes.text(0.5, 0.5, row.status.partition(":")[0], **style)
            continue
        for group in [*(name("noised", level) for level in levels), *PAIR]:
            entry = "noise" if group.startswith("noised") else label(group)
            _points(axes, row, group, *look(group), entry)
    panels[0][0].set_ylabel("test accuracy (%)")
    drawn = next(axes for axes, row in zip(panels[0], rows, strict=True) if _has_run(row))
    return _finish(figure, drawn)


def _points(axes: Axes, row: Measured, group: str, colour: str, marker: str, entry: str) -> None:
    """One point a model of the group; an entry that the legend has is not repeated."""
    models = row.models[row.models["group"] == group]
    x, y = models["max_similarity"], 100 * models["accuracy"]
    known = entry in axes.get_legend_handles_labels()[1]
    style = {"s": 12, "alpha": 0.5, "linewidths": 0, "color": colour, "marker": marker}
    axes.scatter(x, y, label=None if known else entry, **style)


def scatter_together(rows: Sequence[Measured]) -> plt.Figure:
    """Accuracy against maximum similarity of every row's generated models (Figure 5a).

    Beside it, with 95 % intervals that are paired on the images, the means of generated models
    less those of the originals.
    """
    rows = [row for row in rows if _has_run(row)]
    panels = [["cloud", "accuracy"], ["cloud", "similarity"]]
    shape = {"figsize": (8.6, 4.6), "width_ratios": [3, 2], "layout": "constrained"}
    figure, axes = plt.subplot_mosaic(panels, **shape)
    cloud, by_label = axes["cloud"], {row.row.label: row for row in rows}
    _points(cloud, rows[0], "original", "#A6A6A6", "o", "original")
    styles = list(zip(rows, LINES, MARKERS, strict=False))
    for row, colour, marker in styles:
        _points(cloud, row, "generated", colour, marker, row.row.label)
    cloud.set(xlabel="maximum similarity to an original", ylabel="test accuracy (%)")
    sides = (("accuracy", "mean", 100, " (points)"), ("similarity", "similarity", 1, ""))
    for kind, measure, scale, unit in sides:
        own = axes[kind]
        own.axvline(0, color="#888888", lw=1, ls="--")
        for i, (row, colour, marker) in enumerate(styles):
            pair = [(row.row.label, f"{group}_{measure}") for group in ("generated", "original")]
            found = difference("", *pair, by_label)
            own.hlines(i, scale * found.low, scale * found.high, color=colour, lw=2)
            own.plot(scale * found.estimate, i, marker, color=colour, ms=7)
        own.set_yticks(range(len(styles)), by_label)
        own.set_ylim(len(styles) - 0.5, -0.5)
        own.set_xlabel(f"generated less original, {kind}{unit}", fontsize=8)
        own.tick_params(labelsize=8)
    return _finish(figure, cloud, columns=5)


def zoo_panels(rows: Sequence[Measured]) -> plt.Figure:
    """Accuracy against maximum similarity of a zoo's generators and averages, a panel a zoo."""
    rows = [row for row in rows if _has_run(row)]
    shape = {"figsize": (max(6.5, 5.0 * len(rows)), 4.6), "sharey": True, "squeeze": False}
    figure, panels = plt.subplots(1, len(rows), layout="constrained", **shape)
    for axes, row in zip(panels[0], rows, strict=True):
        axes.set_title(row.row.label, fontsize=10)
        axes.set_xlabel("maximum similarity to an original")
        _points(axes, row, "original", "#A6A6A6", "o", "original")
        for group, colour, marker in zip(ZOO, LINES, MARKERS, strict=True):
            _points(axes, row, group, colour, marker, label(group))
    panels[0][0].set_ylabel("test accuracy (%)")
    return _finish(figure, panels[0][0], columns=4)


def score_panels(rows: Sequence[Measured]) -> plt.Figure:
    """Scores of the groups' models over all seeds, and an original and a generated model at work.

    The lower part is `report/examples.png` of the first seed (Tables 10 to 12).
    """
    rows = [row for row in rows if _has_run(row)]
    shape = {"figsize": (8.0 * len(rows), 7.2), "height_ratios": (1, 2), "squeeze": False}
    figure, panels = plt.subplots(2, len(rows), layout="constrained", **shape)
    for (boxes, examples), row in zip(panels.T, rows, strict=True):
        own = row.models[row.models["group"].map(lambda group: split(group)[0] in SCORED)]
        values = {g: own.loc[own["group"] == g, "score"].to_numpy() for g in few(own["group"])}
        draw_boxes(boxes, values)
        boxes.set_yticks(range(len(values)), map(label, values))
        boxes.invert_yaxis()
        boxes.set_title(row.row.label, fontsize=10)
        boxes.set_xlabel(f"test {row.found[0].frame(outputs.SUMMARY)['score'][0]}")
        picture = Image.open(BytesIO(row.found[0].tree.read(str(outputs.EXAMPLES))))
        examples.imshow(picture, interpolation="nearest")
        examples.set_title(fill(picture.text["Description"], 90), loc="left", **NOTE)
        examples.set_axis_off()
        tidy(boxes)
    return figure


def trajectories(rows: Sequence[Measured]) -> plt.Figure:
    """Accuracy of unfinished samples along the reverse process (Figure 5b), from 0 to 100 %.

    An inset shows samples that are never far from each other at their own range.
    """
    run = rows[0].found[0]
    frame = run.frame(outputs.TRAJECTORY_CURVE)
    predictions = run.file(outputs.PREDICTIONS_GENERATED)
    if frame is None or frame.empty:
        raise InputError("figure_5b: the experiment followed no sample; generate.trajectories is 0")
    figure, axes = plt.subplots(figsize=(6.4, 4.6), layout="constrained")
    samples = 100 * frame.set_index("step").drop(columns="trajectory_mean")
    samples.columns = samples.columns.str.replace("trajectory_", "sample ")
    samples = samples.iloc[:, : len(LINES)]
    mean = 100 * rows[0].value("original_mean")
    low, high = min(samples.min().min(), mean), max(samples.max().max(), mean)
    panels = [axes, axes.inset_axes([0.12, 0.12, 0.82, 0.45])] if low > 65 else [axes]
    for each in panels:
        samples.plot(ax=each, color=LINES, linewidth=1.3, legend=False)
        each.axhline(mean, color="black", linestyle="--", linewidth=1, label="originals' mean")
    for inset in panels[1:]:
        room = 0.15 * (high - low) or 1.0
        inset.set(ylim=(low - room, high + room), xlabel="")
        inset.set_title(f"the same from {low:.1f} to {high:.1f} %", loc="left", **NOTE)
        inset.tick_params(labelsize=7)
    images = f" on {len(load_tensor(predictions, 'labels.test')):,} images" if predictions else ""
    axes.set(ylim=(0, 101), ylabel=f"test accuracy{images} (%)")
    axes.set_xlabel(r"pure noise $\leftarrow$  sampling step  $\rightarrow$ sample")
    return _finish(figure, axes, columns=4)


def violins(rows: Sequence[Measured]) -> plt.Figure:
    """Maximum similarity of originals and of generated models, a pair a row (Figure 5c)."""
    figure, axes = plt.subplots(figsize=(1.6 * len(rows) + 1.5, 4.2), layout="constrained")
    for offset, group in zip((-0.2, 0.2), PAIR, strict=True):
        colour, _ = look(group)
        entry = f"{group} (above: best accuracy, %)"
        axes.plot([], [], color=colour, linewidth=6, alpha=0.7, label=entry)
        for i, row in enumerate(rows):
            if not _has_run(row):
                continue
            part = row.models.loc[row.models["group"] == group, "max_similarity"]
            found = axes.violinplot([part], [i + offset], widths=0.36, showmedians=True)
            found["bodies"][0].set(facecolor=colour, alpha=0.7)
            for line in ("cmedians", "cmins", "cmaxes", "cbars"):
                found[line].set(color="#444444", linewidth=1)
            best, top = f"{100 * row.value(f'{group}_best'):.1f}", (i + offset, part.max())
            style = {"ha": "center", "fontsize": 7, "color": colour}
            axes.annotate(best, top, xytext=(0, 3), textcoords="offset points", **style)
    names = [row.row.label + ("" if _has_run(row) else "\nnot run") for row in rows]
    axes.set_xticks(range(len(rows)), names)
    axes.set_xlim(-0.6, len(rows) - 0.4)
    axes.set_ylabel("maximum similarity")
    return _finish(figure, axes)


def heat_map(rows: Sequence[Measured]) -> plt.Figure:
    """Change of the generated tensors, weights above biases (Figure 1).

    Left along the base net's training, as in the paper, where they are norms or biases and the
    experiment kept them; right along the checkpoints. Each side has one scale of colours, which
    ends where a hundredth of the values lies beyond.
    """
    paths = [rows[0].found[0].file(path) for path in (outputs.BASE_EPOCHS, outputs.CHECKPOINTS)]
    if paths[1] is None:
        raise InputError("figure_1: the checkpoints are no longer on this machine")
    epochs, stack = (load_tensors(path)[0] if path else {} for path in paths)
    names = sorted(stack, key=lambda tensor: (tensor.endswith("bias"), tensor))[:4]
    sides = {"epoch of base training": epochs} if epochs.keys() >= set(names) else {}
    sides["checkpoint"] = stack
    size = (2 + 6 * len(sides), 1.5 * len(names) + 0.9)
    figure, panels = plt.subplots(
        len(names), len(sides), figsize=size, layout="constrained", squeeze=False
    )
    for column, (along, tensors) in zip(panels.T, sides.items(), strict=True):
        flats = [tensors[tensor].flatten(1) for tensor in names]
        changes = [(flat[:, :SHOWN] - flat[0, :SHOWN]).numpy() for flat in flats]  # (K, SHOWN)
        limit = float(np.quantile(np.abs(np.concatenate(changes, 1)), 0.99)) or 1.0
        style = {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit, "interpolation": "nearest"}
        for axes, tensor, flat, values in zip(column, names, flats, changes, strict=True):
            image = axes.imshow(values.T, aspect="auto", **style)
            axes.set_title(tensor, fontsize=9, loc="left")
            axes.set_ylabel(f"value\n(first {values.shape[1]} of {flat.shape[1]})", fontsize=8)
        bar = {"extend": "both", "label": "change since the first"}
        figure.colorbar(image, ax=list(column), pad=0.01, **bar)
        column[-1].set_xlabel(along)
    return figure


FIGURES = (scatter_panels, scatter_together, zoo_panels, score_panels)
FIGURES += (trajectories, violins, heat_map)
DRAW: dict[str, Callable[[Sequence[Measured]], plt.Figure]] = {f.__name__: f for f in FIGURES}
