"""Decision boundaries on the plane through three test images.

Two nets that are copies of each other classify the whole plane alike; nets that merely have the
same accuracy do not (Somepalli et al. 2022, "Can Neural Nets Learn the Same Model Twice?").

Axes: M models, K originals, G generated, D parameters, N images, S side of the grid, P = S * S.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int16, Int64
from matplotlib import pyplot as plt
from matplotlib.lines import Line2D
from torch import Tensor, nn

from pdiff.audit.draw import empty_figure, save_small
from pdiff.audit.parameters import finite_rows, nearest_rows
from pdiff.config import DataConfig
from pdiff.evaluation.predict import NOT_FINITE, CutNet, predict
from pdiff.images.batches import EvaluationBatches, Split
from pdiff.parameters.subset import Models, Subset, spread_evenly

MARGIN = 0.3
"""How far the grid reaches beyond the three images, as a share of their extent on each axis."""
COLUMNS = [
    "model",
    "nearest",
    "nearest_to_nearest",
    "agreement_nearest",
    "agreement_originals",
    "agreement_ensemble",
]


@dataclass(frozen=True)
class Boundaries:
    """What models predict on a plane; no model if there is no plane."""

    labels: list[str]
    """What each model is: "generated 4", "original 17", "ensemble"."""
    classes: Int16[Tensor, "M S S"]
    """Predicted classes, -1 where a logit is not finite; rows are the plane's second axis."""
    anchors: Float[Tensor, "A 2"]
    """Where the three images lie, in cells of the grid; A = 3, or 0 without a plane."""
    table: pd.DataFrame
    """One row per generated model, see `boundary_maps`."""


def plane(
    images: Float[Tensor, "3 C H W"], side: int
) -> tuple[Float[Tensor, "P C H W"], Float[Tensor, "3 2"]]:
    """A grid of points on the plane through three images, and where these lie, in cells.

    The first axis runs from the first image to the second, the second one at a right angle to it
    towards the third. Images that coincide or lie on a line give a plane of one dimension or none.
    """
    flat = images.flatten(1).double()
    towards, other = flat[1] - flat[0], flat[2] - flat[0]
    first = _unit(towards)
    along = other @ first
    rest = other - along * first
    second = _unit(rest)
    places = flat.new_tensor([[0, 0], [towards @ first, 0], [along, rest @ second]])
    low, high = places.amin(0), places.amax(0)
    low, high = low - MARGIN * (high - low), high + MARGIN * (high - low)
    steps = torch.linspace(0, 1, side, dtype=flat.dtype, device=flat.device)
    x, y = low[0] + steps * (high[0] - low[0]), low[1] + steps * (high[1] - low[1])
    points = flat[0] + x[None, :, None] * first + y[:, None, None] * second  # (S, S, C*H*W)
    extent = torch.where(high > low, high - low, 1.0)
    cells = (places - low) / extent * (side - 1)
    return points.flatten(0, 1).unflatten(1, images.shape[1:]).to(images.dtype), cells.float()


def _unit(vector: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    length = vector.norm()
    return vector / length if length > 1e-6 else torch.zeros_like(vector)


def pick_images(predicted: Int16[Tensor, " N"], labels: Int64[Tensor, " N"]) -> list[int]:
    """The first three images of different classes that are classified rightly.

    Where there are fewer than three classes, further images of the same ones; fewer indices than
    three if not even three images are right.
    """
    right = (predicted == labels).nonzero().flatten().tolist()
    seen = [int(labels[i]) for i in right]
    first = [index for at, index in enumerate(right) if seen[at] not in seen[:at]]
    return (first + [index for index in right if index not in first])[:3]


def boundary_maps(
    net: nn.Module,
    subset: Subset,
    originals: Float[Tensor, "K D"],
    generated: Float[Tensor, "G D"],
    split: Split,
    data: DataConfig,
    *,
    models: int,
    side: int,
    batch_size: int,
    boundary_mib: int,
) -> Boundaries:
    """Predictions of a few generated models, their nearest originals, and the ensemble.

    The three images are those of the first batch of `split` that `pick_images` takes by the base
    net. The table's agreements are shares of the plane that get the same class: of a generated
    model and its nearest original; of that original and the one nearest to it (NaN for a single
    original); of the generated model and the ensemble. The table has no rows if fewer than three
    images are right, or all generated models hold a NaN.
    """
    batch = next(iter(EvaluationBatches(split, data, batch_size)))
    cut = CutNet(net, subset.names, batch[:2])
    options = {"boundary_mib": boundary_mib}
    predicted = predict(cut, [subset.read(net)], lambda: [batch], **options)[0]
    picked = pick_images(predicted, split.labels[: len(batch)].cpu())
    usable = finite_rows(generated)
    if len(picked) < 3 or not len(usable):
        none = torch.empty(0, side, side, dtype=torch.int16)
        return Boundaries([], none, torch.empty(0, 2), pd.DataFrame(columns=COLUMNS))
    chosen = usable[spread_evenly(len(usable), models)]
    nearest = nearest_rows(generated[chosen], originals)
    other = [_nearest_other(originals, row) for row in nearest]
    shown = sorted({row for row in nearest + other if row is not None})
    matrix = torch.cat([generated[chosen], originals[shown], originals.mean(0, keepdim=True)])
    points, anchors = plane(batch[picked], side)
    found = predict(cut, Models(subset, matrix), lambda: points.split(batch_size), **options)
    labels = [f"generated {row}" for row in chosen.tolist()]
    labels += [f"original {row}" for row in shown] + ["ensemble"]
    table = _agreements(dict(zip(labels, found, strict=True)), chosen.tolist(), nearest, other)
    return Boundaries(labels, found.unflatten(1, (side, side)), anchors.cpu(), table)


def _nearest_other(originals: Float[Tensor, "K D"], row: int) -> int | None:
    distances = (originals - originals[row]).double().norm(dim=1)
    distances[row] = torch.inf
    return int(distances.argmin()) if len(originals) > 1 else None


def agreement(a: Int16[Tensor, " P"], b: Int16[Tensor, " P"]) -> float:
    """Share of the plane that two models give the same class."""
    return (a == b).double().mean().item()


def _agreements(
    found: dict[str, Int16[Tensor, " P"]],
    chosen: Sequence[int],
    nearest: Sequence[int],
    other: Sequence[int | None],
) -> pd.DataFrame:
    rows = []
    for model, near, next_one in zip(chosen, nearest, other, strict=True):
        ours, theirs = found[f"generated {model}"], found[f"original {near}"]
        alone = next_one is None
        between = np.nan if alone else agreement(theirs, found[f"original {next_one}"])
        numbers = (agreement(ours, theirs), between, agreement(ours, found["ensemble"]))
        rows.append((model, near, next_one, *numbers))
    return pd.DataFrame(rows, columns=COLUMNS).astype({"nearest_to_nearest": "Int64"})


def plot_boundaries(path: Path, maps: Boundaries, classes: Sequence[str]) -> None:
    """One row for each generated model: itself, its nearest original, that one's nearest, ensemble.

    A column's heading says what it is, a panel's how far it agrees with the one on its left or,
    for the ensemble, with the generated model. The three images are marked by points.
    """
    if maps.table.empty:
        return empty_figure(
            path, "no plane: fewer than three images are right, or no model is finite"
        )
    found = dict(zip(maps.labels, maps.classes, strict=True))
    figure, panels = plt.subplots(
        len(maps.table),
        4,
        figsize=(9.6, 2.3 * len(maps.table) + 0.7),
        layout="constrained",
        squeeze=False,
    )
    for panel in panels.flat:
        panel.set_axis_off()
    for row, panel in zip(maps.table.itertuples(), panels, strict=True):
        near, beside = f"original {row.nearest}", f"original {row.nearest_to_nearest}"
        shown = {
            f"generated {row.model}": "",
            near: f"\nnearest, agrees {100 * row.agreement_nearest:.1f} %",
            beside: f"\nnearest to that, agrees {100 * row.agreement_originals:.1f} %",
            "ensemble": f"\nagrees with generated {100 * row.agreement_ensemble:.1f} %",
        }
        for axes, (name, text) in zip(panel, shown.items(), strict=True):
            if name in found:  # a single original has none beside it
                _draw(axes, maps, found[name], name + text)
    present = sorted(set(maps.classes.flatten().tolist()))
    handles = [_patch(c, "not finite" if c == NOT_FINITE else classes[c]) for c in present]
    figure.legend(
        handles=handles, loc="outside right upper", frameon=False, fontsize=8, title="class"
    )
    save_small(figure, path)


def _draw(axes: plt.Axes, maps: Boundaries, classes: Int16[Tensor, "S S"], title: str) -> None:
    shades = np.array([_shade(c) for c in classes.flatten().tolist()])
    axes.imshow(shades.reshape(*classes.shape, 3), origin="lower", interpolation="nearest")
    axes.plot(*maps.anchors.T.numpy(), "o", ms=6, color="white", mec="black", mew=1.2)
    axes.set_title(title, fontsize=8)


def _shade(index: int) -> tuple[float, float, float]:
    """Twenty colours, then again; grey where a prediction was not finite."""
    return (0.6, 0.6, 0.6) if index == NOT_FINITE else matplotlib.colormaps["tab20"](index % 20)[:3]


def _patch(index: int, text: str) -> Line2D:
    return Line2D([], [], marker="s", ms=8, ls="none", color=_shade(index), label=text)
