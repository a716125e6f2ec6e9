"""What several of the audit's figures share."""

from collections.abc import Iterable

from matplotlib import pyplot as plt
from matplotlib.axes import Axes


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
