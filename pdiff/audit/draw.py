"""What several of the audit's figures share."""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Float
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from pdiff.baselines.registry import ordered
from pdiff.novelty.pictures import kinds
from pdiff.parameters.subset import spread_evenly


def few_levels(groups: Iterable[str]) -> list[str]:
    """The groups in order; of a kind with levels the first, the middle and the last one."""
    members = kinds(groups).values()
    return ordered(own[i] for own in members for i in spread_evenly(len(own), 3))


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


def empty_figure(why: str) -> plt.Figure:
    """A figure that says why there is nothing to see."""
    figure, axes = plt.subplots(figsize=(6.4, 1.2), layout="constrained")
    axes.text(0.5, 0.5, why, ha="center", va="center", wrap=True)
    axes.set_axis_off()
    return figure
