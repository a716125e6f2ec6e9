"""How far models lie from the checkpoints that were learned, from unseen ones, and from the centre.

Axes: M models of a group, K originals, R reference models, D parameters.

All distances are L2 in the parameters as they are, neither normalised nor scaled. A model that
holds a NaN or an infinity has no distance (NaN), and nothing is near to it.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from pdiff.core.runtime import derive_seed
from pdiff.novelty.bootstrap import interval
from pdiff.parameters.subset import spans, spread_evenly

HELD_OUT = ("held_back", "second_run")
"""Checkpoints that nothing learned from: the next ones of the run, and those of another run."""

CANCELS = 1e-6
"""Below this share of the squared norms a squared distance is computed anew from differences."""

RUNS = ("original", *HELD_OUT, "ema")
"""Groups whose models stand in the order of training, neighbours being alike."""

RATIOS = {
    "ratio_held_back": ("nearest", "nearest_held_back"),
    "ratio_second_run": ("nearest", "nearest_second_run"),
    "ratio_thinned": ("nearest_thinned", "nearest_second_run"),
}
"""Columns of the table per model whose means are divided."""

Matrices = Mapping[str, Float[Tensor, "_ D"]]
"""{group: parameters (M, D)}; M differs from group to group, and may be 0."""


def distances(
    models: Float[Tensor, "M D"], reference: Float[Tensor, "R D"]
) -> Float64[Tensor, "M R"]:
    """Distance of every pair; exactly 0 for equal models, NaN where one of the two is not finite.

    |a|^2 + |b|^2 - 2ab in fp64, with the mean of the reference as origin, since checkpoints of a
    run differ by thousandths of their norm. Whatever still cancels is computed from differences.
    """
    finite, usable = models.isfinite().all(1), reference.isfinite().all(1)
    norms, others, product = (torch.zeros(1, dtype=torch.float64) for _ in range(3))
    for span in spans(len(models) + len(reference), models.shape[1]):
        origin = reference[usable, span].double().mean(0)
        a, b = models[:, span].double() - origin, reference[:, span].double() - origin
        norms, others = norms + a.square().sum(1), others + b.square().sum(1)
        product = product + a @ b.T
    scale = norms[:, None] + others
    squared = scale - 2 * product
    squared[~finite], squared[:, ~usable] = math.nan, math.nan
    near = squared < CANCELS * scale
    for row in near.any(1).nonzero().flatten().tolist():
        difference = reference[near[row]].double() - models[row].double()
        squared[row, near[row]] = difference.square().sum(1)
    return squared.sqrt()


def distances_among(models: Float[Tensor, "M D"]) -> Float64[Tensor, "M M"]:
    """Distances between the models of one group; NaN on the diagonal: a model leaves out itself."""
    return distances(models, models).fill_diagonal_(math.nan)


def nearest(
    found: Float64[Tensor, "M R"],
) -> tuple[Float64[Tensor, " M"], Int64[Tensor, " M"]]:
    """Distance to the nearest reference model and its index; NaN and -1 where there is none."""
    if not found.shape[1]:
        found = found.new_full((len(found), 1), math.nan)
    values, index = torch.where(found.isnan(), math.inf, found).min(1)
    known = ~found.isnan().all(1)
    return torch.where(known, values, math.nan), torch.where(known, index, -1)


def interpolation_index(
    models: Float[Tensor, "M D"], originals: Float[Tensor, "K D"]
) -> Float64[Tensor, " M"]:
    """Distance to the originals' mean, over their root mean square distance from it.

    Below 1 a model lies nearer to the centre than the originals do: averages of w of them,
    independent, have 1 / sqrt(w), their mean 0, and a fresh checkpoint about 1. NaN where the
    originals do not spread: a single one, or all equal.
    """
    finite = originals[originals.isfinite().all(1)]
    if not len(finite):
        return torch.full((len(models),), math.nan, dtype=torch.float64)
    centre = finite.mean(0, dtype=torch.float64)[None]  # exact where fp32 values are all equal
    radius = distances(finite, centre).square().mean().sqrt()
    found = distances(models, centre)[:, 0] / radius
    return found if radius > 0 else torch.full_like(found, math.nan)


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
    spans, deviations = finite - mean, models.double() - mean
    values, vectors = torch.linalg.eigh(spans @ spans.T)
    kept = values > values[-1] * len(values) * 1e-12  # what rounding makes of equal checkpoints
    scores = deviations @ spans.T @ vectors[:, kept] / values[kept].sqrt()  # (M, rank)
    total = deviations.square().sum(1)
    share = (1 - scores.square().sum(1) / total).clamp(0, 1)
    far = total > values[-1] * 1e-12
    return torch.where(far & total.isfinite(), share, math.nan)


def distance_table(matrices: Matrices) -> pd.DataFrame:
    """One row per model: group, model, and where it lies among originals and held-out checkpoints.

    `nearest` is the distance to the nearest original, `nearest_original` its index (missing where
    there is none), `nearest_thinned` the same among as many originals, spread evenly, as the
    second run has checkpoints: the nearest of many is nearer than the nearest of few.
    `nearest_held_back` and `nearest_second_run` look among held-out checkpoints; NaN without any.
    A model that belongs to the reference itself is left out of it. `interpolation_index` and
    `outside_span` are what the functions of these names give.
    """
    originals = matrices["original"]
    held_out = {name: matrices.get(name, originals[:0]) for name in HELD_OUT}
    thinned = spread_evenly(len(originals), len(held_out["second_run"]))
    tables = []
    for group, models in matrices.items():
        found = _from(group, models, "original", originals)
        values, index = nearest(found)
        columns: dict[str, Any] = {
            "group": group,
            "model": range(len(models)),
            "nearest": values.numpy(),
            "nearest_original": pd.array(index.numpy(), dtype="Int64"),
            "nearest_thinned": nearest(found[:, thinned])[0].numpy(),
        }
        for name, reference in held_out.items():
            columns[f"nearest_{name}"] = nearest(_from(group, models, name, reference))[0].numpy()
        columns["interpolation_index"] = interpolation_index(models, originals).numpy()
        columns["outside_span"] = outside_span(models, originals).numpy()
        tables.append(pd.DataFrame(columns))
    table = pd.concat(tables, ignore_index=True)
    return table.assign(nearest_original=table["nearest_original"].replace(-1, pd.NA))


def _from(
    group: str, models: Float[Tensor, "M D"], name: str, reference: Float[Tensor, "R D"]
) -> Float64[Tensor, "M R"]:
    return distances_among(models) if group == name else distances(models, reference)


def distance_summary(table: pd.DataFrame, replicates: int, seed: int) -> pd.DataFrame:
    """One row per group, of the rows that `distance_table` gives; models without distance left out.

    `nearest_relative` is the mean distance to the nearest original in units of the originals' own,
    each leaving out itself. `ratio_*` is the mean distance to the nearest original over the mean
    distance to the nearest held-out checkpoint, with a 95 % bootstrap interval over models: below
    1 a group lies nearer to what was learned than to what was not. The ratio to the second run is
    given twice, `ratio_thinned` with as many originals as that run has checkpoints.
    """
    own = table.loc[table["group"] == "original", "nearest"].mean()
    rows = []
    for group, part in table.groupby("group", sort=False):
        row: dict[str, Any] = {"group": group, "models": len(part)}
        row |= _spread(part["nearest"])
        row["nearest_relative"] = row["nearest_mean"] / own if own > 0 else math.nan
        for name in HELD_OUT:
            row[f"nearest_{name}_mean"] = part[f"nearest_{name}"].mean()
        for name, (above, below) in RATIOS.items():
            pairs = part[[above, below]].dropna().to_numpy()
            own_seed = derive_seed(seed, "distances", str(group))
            found = ratio(pairs, replicates, own_seed, group in RUNS)
            row |= zip((name, f"{name}_low", f"{name}_high"), found, strict=True)
        index = part["interpolation_index"]
        row |= {"interpolation_mean": index.mean(), "interpolation_std": index.std()}
        row["outside_span_mean"] = part["outside_span"].mean()
        rows.append(row)
    return pd.DataFrame(rows)


def _spread(found: pd.Series) -> dict[str, float]:
    """Mean, std, median and the middle 90 % of distances to the nearest original."""
    low, median, high = found.quantile([0.05, 0.5, 0.95])
    return {
        "nearest_mean": found.mean(),
        "nearest_std": found.std(),
        "nearest_low": low,
        "nearest_median": median,
        "nearest_high": high,
    }


def ratio(
    pairs: Float64[np.ndarray, "M 2"], replicates: int, seed: int, in_order: bool
) -> tuple[float, float, float]:
    """Ratio of the two columns' means and its 95 % bootstrap interval over rows.

    NaN for no row, and for the interval of a single one. `in_order`: as `draws`.
    """
    count = len(pairs)
    low = high = math.nan
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(np.divide(*pairs.mean(0))) if count else math.nan
        if count > 1:
            drawn = draws(count, replicates, in_order, np.random.default_rng(seed))
            means = pairs[drawn].mean(1)  # (replicates, 2)
            low, high = interval(means[:, 0] / means[:, 1])
    return value, low, high


def draws(
    count: int, replicates: int, in_order: bool, random: np.random.Generator
) -> Int64[np.ndarray, "_ M"]:
    """Models drawn with replacement, `count` of them in each replicate.

    Those `in_order` of training come in circular blocks of about sqrt(M) that follow each other:
    neighbours are alike, and drawing each on its own would give too narrow an interval.
    """
    block = math.isqrt(count) if in_order else 1
    starts = random.integers(count, size=(replicates, -(-count // block), 1))
    return ((starts + np.arange(block)) % count).reshape(replicates, -1)[:, :count]
