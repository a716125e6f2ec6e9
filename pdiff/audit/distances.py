"""How far models lie from the checkpoints that were learned, from unseen ones, and from the centre.

Axes: M models of a group, K originals, R reference models, D parameters.

All distances are L2 in the parameters as they are, neither normalised nor scaled. A model that
holds a NaN or an infinity has no distance (NaN), and nothing is near to it.
"""

import math
from functools import lru_cache
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Float64
from matplotlib import pyplot as plt
from torch import Tensor

from pdiff.audit.analysis import MEMORISATION, Analysis
from pdiff.audit.evidence import Evidence, Matrices
from pdiff.baselines.registry import label
from pdiff.novelty.looks import MAIN, look
from pdiff.novelty.pictures import (
    NOTE,
    Picture,
    draw_boxes,
    few,
    in_words,
    name_rows,
    rows_height,
    tidy,
)

BESIDE = ("generated", "latent_gaussian", "held_back", "fresh")
HELD_OUT = ("held_back", "fresh")
"""Checkpoints that nothing learned from: the next ones of the run, and those of another run."""


def distances(
    models: Float[Tensor, "M D"], reference: Float[Tensor, "R D"]
) -> Float64[Tensor, "M R"]:
    """Distance of every pair; exactly 0 for equal models, NaN where one of the two is not finite.

    From differences in fp64: checkpoints of a run differ by thousandths of their norm, which
    |a|^2 + |b|^2 - 2ab would lose.
    """
    exact = {"compute_mode": "donot_use_mm_for_euclid_dist"}
    found = torch.cdist(models.double(), reference.double(), **exact)
    return found.where(found.isfinite(), math.nan)


def nearest(found: Float64[Tensor, "M R"]) -> Float64[Tensor, " M"]:
    """Distance to the nearest reference model; NaN where there is none."""
    if not found.shape[1]:
        return found.new_full((len(found),), math.nan)
    values = found.nan_to_num(math.inf).amin(1)
    return values.where(values.isfinite(), math.nan)


def interpolation_index(
    models: Float[Tensor, "M D"], originals: Float[Tensor, "K D"]
) -> Float64[Tensor, " M"]:
    """Distance to the originals' mean, over their root mean square distance from it.

    Below 1 a model lies nearer to the centre than the originals do: averages of w of them,
    independent, have 1 / sqrt(w), their mean 0, and a fresh checkpoint about 1. NaN where the
    originals do not spread: a single one, or all equal.
    """
    finite = originals[originals.isfinite().all(1)]
    centre = finite.mean(0, dtype=torch.float64)[None]  # exact where fp32 values are all equal
    radius = distances(finite, centre).square().mean().sqrt()
    return (distances(models, centre)[:, 0] / radius).where(radius > 0, math.nan)


def outside_span(
    models: Float[Tensor, "M D"], originals: Float[Tensor, "K D"]
) -> Float64[Tensor, " M"]:
    """Share of a model's squared distance from the mean original that no mixture of them explains.

    0 for whatever is a weighted sum of originals, averages and `gaussian_full` among them; for a
    random direction 1 - (K - 1) / D. NaN at the mean itself, and where a value is not finite.
    """
    finite = originals[originals.isfinite().all(1)].double()
    if not len(finite):
        return torch.full((len(models),), math.nan, dtype=torch.float64)
    mean = finite.mean(0)
    deviations, own = finite - mean, models.double() - mean
    values, vectors = torch.linalg.eigh(deviations @ deviations.T)
    kept = values > values[-1] * len(values) * 1e-12  # what rounding makes of equal checkpoints
    scores = own @ deviations.T @ vectors[:, kept] / values[kept].sqrt()  # (M, rank)
    total = own.square().sum(1)
    share = (1 - scores.square().sum(1) / total).clamp(0, 1)
    far = total > values[-1] * 1e-12
    return torch.where(far & total.isfinite(), share, math.nan)


def distance_table(matrices: Matrices) -> pd.DataFrame:
    """One row per model: group, model, and where it lies among originals and held-out checkpoints.

    `nearest`, `nearest_held_back` and `nearest_fresh` are distances to the nearest original
    and held-out checkpoint, NaN without any; a model that belongs to the reference itself is left
    out of it. `interpolation_index` and `outside_span` are what the functions of these names give.
    """
    originals, tables = matrices["original"], []
    references = {name: matrices.get(name, originals[:0]) for name in ("original", *HELD_OUT)}
    for group, models in matrices.items():
        columns: dict[str, Any] = {"group": group, "model": range(len(models))}
        for name, reference in references.items():
            found = distances(models, reference)
            if group == name:
                found.fill_diagonal_(math.nan)
            column = "nearest" if name == "original" else f"nearest_{name}"
            columns[column] = nearest(found).numpy()
        columns["interpolation_index"] = interpolation_index(models, originals).numpy()
        columns["outside_span"] = outside_span(models, originals).numpy()
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)


@lru_cache(maxsize=1)
def places(evidence: Evidence) -> pd.DataFrame:
    """The distance table of some evidence, made once for all analyses."""
    return distance_table(evidence.matrices)


def distance_summary(table: pd.DataFrame) -> pd.DataFrame:
    """One row per group of the `distance_table`; models without distance are left out.

    `nearest_median_low` and `_high` enclose 90 % of the models; `nearest_relative` is the mean
    distance to the nearest original in units of the originals' own, each leaving out itself.
    """
    own = table.loc[table["group"] == "original", "nearest"].mean()
    groups = table.groupby("group", sort=False)
    near, index = groups["nearest"], groups["interpolation_index"]
    columns = {"models": groups.size(), "nearest_mean": near.mean(), "nearest_std": near.std()}
    names = {"nearest_median": 0.5, "nearest_median_low": 0.05, "nearest_median_high": 0.95}
    columns |= {name: near.quantile(share) for name, share in names.items()}
    columns["nearest_relative"] = near.mean() / own if own > 0 else math.nan
    columns |= {f"nearest_{name}_mean": groups[f"nearest_{name}"].mean() for name in HELD_OUT}
    columns |= {"interpolation_mean": index.mean(), "interpolation_std": index.std()}
    columns["outside_span_mean"] = groups["outside_span"].mean()
    return pd.DataFrame(columns).reset_index()


def plot_distances(evidence: Evidence, table: pd.DataFrame) -> Picture:
    """Boxes for each group of the L2 distance to the nearest original and the interpolation index.

    The range of the index is that of `MAIN` and held-back models; groups beyond it are named.
    """
    models = places(evidence)
    groups = few(models["group"])
    size = (6.4, rows_height(len(groups)) + 0.2)
    figure, (left, right) = plt.subplots(1, 2, figsize=size, sharey=True, layout="constrained")
    for axes, column in ((left, "nearest"), (right, "interpolation_index")):
        draw_boxes(axes, {g: models.loc[models["group"] == g, column].to_numpy() for g in groups})
        tidy(axes)
    left.set_xlabel("L2 distance to the\nnearest original (log scale)")
    low = models.groupby("group")["nearest"].quantile(0.05)
    if (low > 0).any():  # copies stand at a linear start
        copies = (low == 0).any()
        scale = {"value": "symlog", "linthresh": low[low > 0].min()} if copies else {"value": "log"}
        left.set_xscale(**scale)
        left.xaxis.get_major_locator().set_params(numticks=5)
    right.axvline(1, color=look("original").colour, lw=1, ls="--", zorder=0)
    right.set_xlabel("interpolation index: distance\nto the mean, in radii")
    index = models.groupby("group")["interpolation_index"]
    high = index.quantile(0.95)
    far = 1.1 * max(1.0, high[high.index.isin([*MAIN, "held_back"])].max())
    right.set_xlim(-0.05 * far, far)
    for line in right.lines:
        line.set_clip_on(True)
    if beyond := [group for group in groups if high[group] > far]:
        names = "; ".join(map(label, beyond))
        figure.supxlabel(f"partly or wholly beyond the right axis: {names}", **NOTE)
    name_rows(left, [label(group) for group in groups])
    right.grid(axis="y", visible=False)
    rows = table.set_index("group")
    steps = {g: f"{rows.loc[g, 'nearest_relative']:.1f}" for g in groups if g in BESIDE}
    return figure, (
        f"Steps to the nearest original, in the originals' own mean distance: {in_words(steps)}. "
        f"Generated models lie {rows.loc['generated', 'interpolation_mean']:.2f} radii from the "
        "originals' mean."
    )


NUMBERS = {
    "interpolation_mean": "interpolation_index",
    "outside_span_mean": "outside_span",
    "nearest_relative": "nearest_relative",
}
"""What experiments are compared by: columns, and what the numbers are called."""

ANALYSIS = Analysis(
    name="distances",
    order=4,
    title="Distance in parameters",
    question="Do generated models lie nearer to the checkpoints that were learned than unseen "
    "ones do?",
    reading="A group left of the unseen checkpoints lies nearer to an original than these do. An "
    "index below 1 says that it lies further inside than originals, as averages of them do.",
    definition="L2 distance in the parameters as they are. An original leaves out itself; "
    "held-back checkpoints follow the originals in their run, fresh runs have another data "
    "order. The index is the distance to the mean of all originals over the originals' root mean "
    "square distance from it; outside span is the share of that squared distance which no "
    "mixture of originals explains.",
    source=f"Not in the paper; {MEMORISATION}.",
    table=lambda evidence: distance_summary(places(evidence)),
    figures={"distances": plot_distances},
    numbers=lambda table: (
        table.set_index("group").loc["generated", list(NUMBERS)].rename(NUMBERS).to_dict()
    ),
)
