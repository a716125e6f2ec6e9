"""Are generated models copies? Nearer to the checkpoints that were learned than unseen ones are.

The three-sample test of Meehan, Chaudhuri and Dasgupta, "A Non-Parametric Test to Detect
Data-Copying in Generative Models" (AISTATS 2020): training set, held-out set, generated set.

Axes: M models of a group, H held-out checkpoints, K originals, D parameters.

The test takes each set as independent draws of one distribution, and checkpoints of a run are
not: those held back follow the originals and drift away from them, and neighbours are alike. Three
runs of one AR(1) process with coefficient 0.9 have |Z| > 1.96 in 45 % of simulations, not in 5 %.
The block bootstrap's interval of `farther` leaves out 0.5 in 13 % of them. So read that, and Z
beside that of the other groups: what copies (noise of a low level), averages and checkpoints of
the other run score against the same held-out set.
"""

import math
import warnings
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float64, Int64
from scipy.stats import rankdata, tiecorrect
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from pdiff.audit.distances import HELD_OUT, RUNS, Matrices, distances, distances_among, draws
from pdiff.core.runtime import derive_seed
from pdiff.novelty.bootstrap import interval

CELLS = 5
"""k-means cells of the originals: few, so that 100 held-out checkpoints fill them."""

ENOUGH = 20
"""Fewest models of the group in a cell that counts: the paper's tau is 20 / M."""

Distances = Float64[np.ndarray, " _"]
NOBODY, NOWHERE = np.zeros(0), np.zeros(0, np.int64)
"""A held-out set that is empty: its distances and cells."""


def farther(own: Distances, held_out: Distances) -> float:
    """Share of pairs in which the model lies farther from the originals than the held-out one.

    U / (M H) of Mann and Whitney, ties counted half: 0.5 where neither set is nearer. It does not
    grow with the number of models, as Z does. Distances that are NaN are left out.
    """
    return _mann_whitney(own, held_out)[0]


def farther_interval(
    own: Distances, held_out: Distances, replicates: int, seed: int, in_order: bool
) -> tuple[float, float]:
    """The 95 % bootstrap interval of `farther`, over models and held-out checkpoints.

    The latter are drawn in blocks, and the models too if they stand `in_order` of training. The
    originals stay as they are. NaN for fewer than two of either.
    """
    own, held_out = own[~np.isnan(own)], held_out[~np.isnan(held_out)]
    if min(len(own), len(held_out)) < 2:
        return math.nan, math.nan
    above = (own[:, None] > held_out) + 0.5 * (own[:, None] == held_out)  # (M, H)
    random = np.random.default_rng(seed)
    models = _counts(draws(len(own), replicates, in_order, random))
    others = _counts(draws(len(held_out), replicates, True, random))
    return interval(((models @ above) * others).sum(1) / above.size)


def _counts(drawn: Int64[np.ndarray, "R M"]) -> Float64[np.ndarray, "R M"]:
    """How often each replicate holds each model."""
    counts = np.zeros(drawn.shape)
    np.add.at(counts, (np.arange(len(drawn))[:, None], drawn), 1)
    return counts


def z_u(own: Distances, held_out: Distances) -> float:
    """Z_U, the standardised Mann-Whitney U of distances to the nearest original (Section 3.1).

    Far below 0 models lie nearer to the originals than held-out checkpoints do: copying. Far
    above 0 they lie farther: underfitting. Normal with std 1 if both sets are independent draws
    of one distribution. The variance is corrected for ties; there is no continuity correction
    (the authors' code shifts U by a half). NaN without models; 0 if all distances are equal.
    """
    share, pairs, std = _mann_whitney(own, held_out)
    return (share - 0.5) * pairs / std if std > 0 else 0.0 * share


def _mann_whitney(own: Distances, held_out: Distances) -> tuple[float, int, float]:
    """U / (M H), M H, and the standard deviation of U."""
    own, held_out = own[~np.isnan(own)], held_out[~np.isnan(held_out)]
    m, h = len(own), len(held_out)
    if not m * h:
        return math.nan, 0, math.nan
    ranks = rankdata(np.concatenate([own, held_out]))
    u = ranks[:m].sum() - m * (m + 1) / 2
    return u / (m * h), m * h, math.sqrt(tiecorrect(ranks) * m * h * (m + h + 1) / 12)


def c_t(
    own: Distances,
    own_cells: Int64[np.ndarray, " _"],
    held_out: Distances,
    held_out_cells: Int64[np.ndarray, " _"],
) -> tuple[float, int]:
    """C_T, Z_U within cells weighted by their held-out checkpoints, and how many cells count.

    A cell counts if it holds `ENOUGH` models and any held-out checkpoint (Section 3.2); NaN if
    none does. Over few, equal cells its std is about 1 / sqrt(cells), so it is no z score itself.
    Distances are to all originals, in whatever cell.
    """
    total, weight, count = 0.0, 0, 0
    for cell in range(CELLS):
        here, there = own[own_cells == cell], held_out[held_out_cells == cell]
        here, there = here[~np.isnan(here)], there[~np.isnan(there)]
        if len(here) >= ENOUGH and len(there):
            total, weight = total + len(there) * z_u(here, there), weight + len(there)
            count += 1
    return (total / weight if weight else math.nan), count


def cells(matrices: Matrices, seed: int) -> dict[str, Int64[np.ndarray, " _"]]:
    """The k-means cell of the originals that each model of each group lies in."""
    originals = matrices["original"]
    originals = originals[originals.isfinite().all(1)]
    if not len(originals):
        return {group: np.zeros(len(models), np.int64) for group, models in matrices.items()}
    means = KMeans(min(CELLS, len(originals)), n_init=10, random_state=derive_seed(seed) % 2**32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different originals than cells
        labels = torch.from_numpy(means.fit_predict(originals.numpy()))
    parts = [originals[labels == label] for label in labels.unique()]
    centres = torch.stack([part.mean(0, dtype=torch.float64) for part in parts])
    return {
        group: distances(models, centres).argmin(1).numpy() for group, models in matrices.items()
    }


def nearest_rank(
    nearest: Distances, index: Int64[np.ndarray, " _"], among: Float64[Tensor, "K K"]
) -> Distances:
    """1 + how many originals are nearer to a model's nearest original than the model is.

    1 for a copy, and for whatever else is nearer to an original than all other originals are:
    about every second checkpoint of a run, so compare with the originals' own. NaN where nothing
    is near (`index` -1).

    Args:
        nearest: distance of each model to its nearest original.
        index: which original that is.
        among: distances between originals, NaN with themselves.
    """
    # a model that is an original itself is as far from the other as that from it, up to rounding
    nearer = among.numpy()[index] < nearest[:, None] * (1 - 1e-9)
    return np.where(index >= 0, 1.0 + nearer.sum(1), math.nan)


def copying_table(
    matrices: Matrices, table: pd.DataFrame, replicates: int, seed: int
) -> pd.DataFrame:
    """One row per group: the test against both held-out sets, and nearest-neighbour ranks.

    Columns `z_NAME`, `farther_NAME` with its interval, `c_t_NAME` and `cells_NAME` for either
    set, NaN for the set itself and where it is empty; median rank and the share of rank 1.
    Originals stand for a sample of their own run, each left out of the others.

    Args:
        table: `distance_table(matrices)`.
    """
    among, cell = distances_among(matrices["original"]), cells(matrices, seed)
    near = {
        group: table.loc[table["group"] == group, "nearest"].to_numpy(float) for group in matrices
    }
    rows = []
    for group, part in table.groupby("group", sort=False):
        own = str(group)
        row: dict[str, Any] = {"group": own, "models": len(part)}
        for name in HELD_OUT:
            known = name in near and name != own
            distance, where = (near[name], cell[name]) if known else (NOBODY, NOWHERE)
            own_seed = derive_seed(seed, "copying", own, name)
            row |= {
                f"z_{name}": z_u(near[own], distance),
                f"farther_{name}": farther(near[own], distance),
            }
            row[f"farther_{name}_low"], row[f"farther_{name}_high"] = farther_interval(
                near[own], distance, replicates, own_seed, own in RUNS
            )
            row[f"c_t_{name}"], row[f"cells_{name}"] = c_t(near[own], cell[own], distance, where)
        index = part["nearest_original"].fillna(-1).to_numpy(int)
        rank = pd.Series(nearest_rank(near[own], index, among)).dropna()
        row["rank_median"] = rank.median()
        row["rank_first"] = (rank == 1).mean() if len(rank) else math.nan
        rows.append(row)
    return pd.DataFrame(rows)
