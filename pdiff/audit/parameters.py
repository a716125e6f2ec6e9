"""Figures of the parameters themselves: generated models beside originals, value distributions.

Axes: M models of a group, K originals, G generated, D parameters.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64
from matplotlib import pyplot as plt
from torch import Tensor

from pdiff.audit.distances import distances, nearest
from pdiff.audit.draw import empty_figure, save_small
from pdiff.baselines.registry import colour, label
from pdiff.novelty.summary import tidy
from pdiff.parameters.subset import spread_evenly

Matrix = Float[Tensor, "_ D"]


def finite_rows(matrix: Matrix) -> Int64[Tensor, " _"]:
    """Indices of the models without NaN or infinity."""
    return matrix.isfinite().all(1).nonzero().flatten()


def nearest_rows(models: Float[Tensor, "M D"], originals: Float[Tensor, "K D"]) -> list[int]:
    """Index of the original at the smallest L2 distance of each model."""
    return nearest(distances(models, originals))[1].tolist()


def plot_heat_map(
    path: Path,
    generated: Float[Tensor, "G D"],
    originals: Float[Tensor, "K D"],
    columns: slice,
    models: int,
) -> None:
    """Generated models, each above its nearest original, in a stretch of the parameters.

    What is shown is the deviation from the originals' mean, in the parameters' own units: the
    values themselves differ far more between parameters than between models, so all rows would
    look the same. The lower panel shows generated minus nearest on the same scale.
    """
    usable = finite_rows(generated)
    if not len(usable):
        return empty_figure(path, "no generated model has finite parameters")
    chosen = generated[usable[spread_evenly(len(usable), models)]]
    nearest_ones = nearest_rows(chosen, originals)
    mean = originals[:, columns].mean(0)
    ours, theirs = chosen[:, columns] - mean, originals[nearest_ones][:, columns] - mean
    pairs = torch.stack([ours, theirs, torch.full_like(ours, torch.nan)], 1).flatten(0, 1)[:-1]
    limit = float((originals[:, columns] - mean).abs().flatten().quantile(0.95)) or 1.0
    count = len(chosen)
    figure, (above, below) = plt.subplots(
        2,
        1,
        figsize=(10, 2.2 + 0.4 * count),
        height_ratios=[3, 1],
        sharex=True,
        layout="constrained",
    )
    style = {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit, "interpolation": "nearest"}
    picture = above.imshow(
        pairs.numpy(), aspect="auto", extent=_extent(columns, len(pairs)), **style
    )
    below.imshow((ours - theirs).numpy(), aspect="auto", extent=_extent(columns, count), **style)
    rows = [f"generated {int(usable[i])}" for i in spread_evenly(len(usable), models)]
    above.set_yticks(
        [3 * i + j for i in range(count) for j in (0.5, 1.5)],
        [
            text
            for row, near in zip(rows, nearest_ones, strict=True)
            for text in (row, f"original {near}")
        ],
        fontsize=7,
    )
    below.set_yticks([i + 0.5 for i in range(count)], rows, fontsize=7)
    below.set(xlabel="parameter", title="generated minus nearest original")
    above.set_title("deviation from the originals' mean")
    figure.colorbar(
        picture, ax=[above, below], extend="both", shrink=0.7, label="difference in value"
    )
    save_small(figure, path)


def _extent(columns: slice, rows: int) -> tuple[int, int, int, int]:
    return columns.start, columns.stop, rows, 0


def plot_values(path: Path, groups: Mapping[str, Float[Tensor, "_ D"]], parameters: int) -> None:
    """Distribution of some parameters' values, one panel each, in all `groups`.

    The parameters are spread evenly over the rank of their variance among the originals. Bins
    cover the originals' and the generated values; what lies outside is counted at the edges.
    """
    variance = groups["original"].double().var(0, correction=0)
    order = variance.argsort(descending=True)
    ranks = spread_evenly(len(order), parameters)
    columns = min(3, len(ranks))
    rows = -(-len(ranks) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(10, 0.8 + 2.1 * rows), layout="constrained", squeeze=False
    )
    for panel, rank in zip(axes.flat, ranks, strict=False):
        column = int(order[rank])
        _draw_histograms(panel, {name: m[:, column] for name, m in groups.items()})
        panel.set_title(f"parameter {column}, rank {rank + 1} of {len(order)}", fontsize=9)
        tidy(panel)
    for panel in axes.flat[len(ranks) :]:
        panel.set_axis_off()
    handles = [plt.Line2D([], [], color=colour(g, groups), lw=2, label=label(g)) for g in groups]
    figure.legend(handles=handles, loc="outside upper center", ncols=6, frameon=False, fontsize=8)
    figure.supylabel("density", fontsize=9)
    save_small(figure, path)


def _draw_histograms(axes: plt.Axes, values: Mapping[str, Float[Tensor, " _"]]) -> None:
    """Overlaid steps on common bins; the originals are filled, the generated line is thicker."""
    found = {group: v[v.isfinite()].double().numpy() for group, v in values.items()}
    shown = [found[group] for group in ("original", "generated") if group in found]
    low, high = np.quantile(np.concatenate(shown), [0.001, 0.999])
    room = 0.15 * (high - low) or 0.5 * max(abs(low), 1e-6)
    bins = np.linspace(low - room, high + room, 41)
    for group, own in found.items():
        if len(own):
            weights = np.full(len(own), 1 / (len(own) * (bins[1] - bins[0])))
            density, _ = np.histogram(own.clip(bins[0], bins[-1]), bins, weights=weights)
            width = 1.8 if group == "generated" else 1.1
            style = {"fill": True, "alpha": 0.3, "lw": 0} if group == "original" else {"lw": width}
            axes.stairs(density, bins, color=colour(group, values), **style)
    axes.set_yticks([])
    axes.tick_params(labelsize=7)
