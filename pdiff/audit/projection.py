"""All groups of models in two dimensions: principal components of the originals, and t-SNE.

Axes: M models of a group, K originals, D parameters, P points over all groups.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from sklearn.manifold import TSNE
from torch import Tensor

from pdiff.audit.draw import NOTE, back_to_front, family_legend, few_levels, save_small
from pdiff.baselines.registry import colour
from pdiff.novelty.summary import tidy
from pdiff.parameters.subset import spread_evenly

Matrices = Mapping[str, Float[Tensor, "_ D"]]
MIN_POINTS = 5
"""With fewer, t-SNE has no neighbourhoods to keep."""


def project(matrices: Matrices, models: int, seed: int) -> tuple[pd.DataFrame, dict[str, float]]:
    """Up to `models` of each group as points: columns group, model, pc1, pc2, tsne1, tsne2.

    PCA: the components of all originals, others are projected onto them. t-SNE: of the L2
    distances between the chosen models themselves, so that what leaves the originals' span
    counts; started from the PCA. A ladder is shown at three of its levels. Models that hold a NaN
    are left out; t-SNE is NaN for fewer than five models.

    Also `explained_1` and `explained_2`, the share of the originals' variance along each component
    (0 where they do not vary), and `left_out`, the number of models with NaN.
    """
    originals = matrices["original"]
    originals = originals[originals.isfinite().all(1)].double()
    chosen, rows, left_out = [], [], 0
    for group in few_levels(matrices):
        matrix = matrices[group]
        usable = matrix.isfinite().all(1).nonzero().flatten()
        left_out += len(matrix) - len(usable)
        picked = usable[spread_evenly(len(usable), models)]
        chosen.append(matrix[picked].double())
        rows += [{"group": group, "model": model} for model in picked.tolist()]
    points = torch.cat(chosen)  # (P, D)
    scores, explained = _components(originals, points)
    table = pd.DataFrame(rows, columns=["group", "model"])
    table[["pc1", "pc2"]] = scores.numpy()
    table[["tsne1", "tsne2"]] = _tsne(points, scores, seed)
    facts = {f"explained_{i + 1}": float(share) for i, share in enumerate(explained)}
    return table, facts | {"left_out": left_out}


def _components(
    originals: Float[Tensor, "K D"], points: Float[Tensor, "P D"]
) -> tuple[Float[Tensor, "P 2"], Float[Tensor, " 2"]]:
    """Scores on the originals' first two components, and the variance that each explains.

    By way of the (K, K) products, since D may be large. The sign of a component is chosen so that
    its largest original score is positive.
    """
    if not len(originals):
        return torch.full((len(points), 2), torch.nan, dtype=torch.double), torch.zeros(2)
    mean = originals.mean(0)
    centred = originals - mean
    values, vectors = torch.linalg.eigh(centred @ centred.T)  # rising
    values, vectors = values.flip(0)[:2].clamp(min=0), vectors.flip(1)[:, :2]
    total = float(centred.square().sum())
    tiny = values <= 1e-12 * max(total, 1e-300)
    axes = centred.T @ vectors / torch.where(tiny, 1.0, values.sqrt())  # (D, 2 or 1)
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    axes = axes * torch.where(tiny, 0.0, largest.sign())
    scores, explained = points.new_zeros(len(points), 2), points.new_zeros(2)
    scores[:, : axes.shape[1]] = (points - mean) @ axes
    explained[: len(values)] = torch.where(tiny, 0.0, values) / (total or 1.0)
    return scores, explained


def _tsne(
    points: Float[Tensor, "P D"], start: Float[Tensor, "P 2"], seed: int
) -> Float[np.ndarray, "P 2"]:
    """t-SNE (van der Maaten and Hinton 2008) of the L2 distances; NaN for very few points.

    It starts from `start`, scaled as scikit-learn scales principal components.
    """
    count = len(points)
    if count < MIN_POINTS:
        return np.full((count, 2), np.nan)
    centred = points - points.mean(0)
    distances = torch.cdist(centred, centred, compute_mode="use_mm_for_euclid_dist")
    width = float(start[:, 0].std())
    model = TSNE(
        metric="precomputed",
        init=(start / width * 1e-4).float().numpy() if width > 0 else "random",
        perplexity=min(30.0, (count - 1) / 3),
        max_iter=500,
        random_state=seed,
        n_jobs=1,
    )
    return model.fit_transform(distances.numpy())


def plot_projection(path: Path, table: pd.DataFrame, facts: Mapping[str, float]) -> None:
    """Both maps side by side; `table` and `facts` come from `project`.

    The PCA panel shows the range of the originals, held-out and generated models, and says how
    many models lie outside of it.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 5), layout="constrained")
    _draw_points(left, table, "pc1", "pc2")
    shares = [f"{100 * facts[f'explained_{i}']:.1f} %" for i in (1, 2)]
    left.set(xlabel=f"component 1 ({shares[0]} of the originals' variance)", title="PCA")
    left.set_ylabel(f"component 2 ({shares[1]})")
    notes = _focus(left, table)
    right.set_title("t-SNE of L2 distances")
    if table["tsne1"].notna().any():
        _draw_points(right, table, "tsne1", "tsne2")
    else:
        right.text(0.5, 0.5, "fewer than five models", ha="center", va="center")
    right.set(xticks=[], yticks=[])
    if facts["left_out"]:
        notes.append(f"{facts['left_out']:g} models with NaN are left out")
    if notes:
        figure.supxlabel("; ".join(notes), x=0.01, ha="left", **NOTE)
    tidy(left)
    family_legend(figure, table["group"].value_counts().to_dict())
    save_small(figure, path)


def _draw_points(axes: Axes, table: pd.DataFrame, x: str, y: str) -> None:
    groups = set(table["group"])
    for group in back_to_front(groups):
        part = table[table["group"] == group]
        star = {"s": 130, "marker": "*"} if group == "ensemble" else {"s": 16}
        axes.scatter(part[x], part[y], color=colour(group, groups), lw=0, alpha=0.8, **star)


def _focus(axes: Axes, table: pd.DataFrame) -> list[str]:
    """Limits around what matters most; a note if models lie outside."""
    main = table[table["group"].isin(("original", "generated", "held_back", "second_run"))]
    inside = np.ones(len(table), dtype=bool)
    for column, limit in (("pc1", axes.set_xlim), ("pc2", axes.set_ylim)):
        low, high = main[column].min(), main[column].max()
        room = 0.15 * (high - low)
        if np.isfinite(room) and room > 0:
            inside &= table[column].between(low - room, high + room).to_numpy()
            limit(low - room, high + room)
    outside = int((~inside).sum())
    return [f"{outside} of {len(table)} models lie outside of the PCA panel"] if outside else []
