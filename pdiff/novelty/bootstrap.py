"""Bootstrap replicates of an experiment's numbers, over test images and over models.

Axes: R replicates, M models of a group, T models of all groups, K originals, N images, V images
of the split that chooses.

Replicate r draws the same images in every experiment that has as many, so replicates of two
experiments may be subtracted, or averaged over seeds, row by row: they are paired on the images.
Drawing rows and columns of one table on their own is the pigeonhole bootstrap (Owen 2007): it
counts the chance that belongs to single pairs of model and image up to three times, so intervals
are too wide rather than too narrow.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from tqdm import tqdm

from pdiff.baselines.registry import FAMILIES, family
from pdiff.config import SeedConfig
from pdiff.core.runtime import make_generator
from pdiff.novelty.series import block_length, draw_blocks, draws_for_mean
from pdiff.system.errors import InputError

FOLLOWED = ("original", "generated")
"""Groups whose best and chosen models are followed too."""


@dataclass(frozen=True)
class Draws:
    """Which models of a group are drawn in each replicate."""

    models: Int64[Tensor, "R M"]
    averaged: int
    """Means take the first so many of the M, fewer where consecutive models are alike."""


def bootstrap(
    wrong: Mapping[str, Bool[Tensor, "_ N"]],
    wrong_choosing: Mapping[str, Bool[Tensor, "_ V"]],
    replicates: int,
    seeds: SeedConfig,
) -> pd.DataFrame:
    """One row a replicate: accuracies as fractions and maximum similarities, of every group.

    Images and models are both drawn with replacement, models of a run in blocks as long as their
    accuracies are autocorrelated. The originals that maximum similarities are looked up in are
    always all, and what is made from originals is drawn given them. The best of a replicate is the
    best of the models drawn, on the images drawn, so its median lies a little above the best on
    all images; the chosen one is that of the models drawn which errs least on the split that
    chooses, which is not drawn.
    """
    empty = [group for group, errors in wrong.items() if len(errors) == 0]
    if empty:
        raise InputError(f"groups without a model: {', '.join(empty)}")
    wrong = {"original": wrong["original"], **wrong}
    draws = {group: _draw(group, wrong[group], replicates, seeds) for group in wrong}
    weights = _image_weights(wrong["original"].shape[1], replicates)
    counts = {group: weights @ errors.float().T for group, errors in wrong.items()}
    similar = _max_similarities(wrong, weights, counts, draws)
    columns: dict[str, np.ndarray] = {}
    for group, drawn in draws.items():
        accuracy = 1 - counts[group].double() / weights.sum(1, keepdim=True)  # (R, M)
        columns |= _columns(group, drawn, accuracy, similar[group], wrong_choosing[group])
    return pd.DataFrame(columns)


def accuracy_column(group: str) -> str:
    """Where the mean accuracy of a group stands."""
    return group if group == "ensemble" else f"{group}_mean"


def similarity_column(group: str) -> str:
    """Where the mean maximum similarity of a group stands."""
    return f"{group}_max_similarity"


def interval(replicates: "np.ndarray | pd.Series", level: float = 0.95) -> tuple[float, float]:
    """The percentile interval of one column; NaN where it has no numbers.

    It leaves out as many replicates on either side as do not exceed half of 1 - level, as
    `statistics.bootstrap_p` counts them.
    """
    values = np.sort(np.asarray(replicates, dtype=float))
    if len(values) == 0 or np.isnan(values).any():
        return float("nan"), float("nan")
    left_out = min(int(len(values) * (1 - level) / 2 + 1e-9), (len(values) - 1) // 2)
    return float(values[left_out]), float(values[-1 - left_out])


def weighted_iou(
    a: Float[Tensor, "M N"], b: Float[Tensor, "Q N"], weights: Float[Tensor, " N"]
) -> Float[Tensor, "M Q"]:
    """IoU of wrong predictions (0 or 1) where image i was drawn `weights[i]` times."""
    return _iou(a @ (b * weights).T, a @ weights, b @ weights)


def _iou(
    both: Float[Tensor, "M Q"], a: Float[Tensor, " M"], b: Float[Tensor, " Q"]
) -> Float[Tensor, "M Q"]:
    """From numbers of images: wrong in both, in a, in b. Two without any are identical."""
    either = (a[:, None] + b) - both
    return torch.where(either > 0, both / either, 1.0)


def _draw(group: str, errors: Bool[Tensor, "M N"], replicates: int, seeds: SeedConfig) -> Draws:
    kind, count, length, averaged = FAMILIES[family(group)], len(errors), 1, len(errors)
    generator = make_generator(seeds.model if kind.codec else seeds.base, "bootstrap", group)
    if kind.series:
        accuracies = 1 - errors.double().mean(1).numpy()
        length = block_length(accuracies)
        averaged = draws_for_mean(accuracies, length)
    models = [draw_blocks(count, length, generator) for _ in range(replicates)]
    return Draws(torch.stack(models), averaged)


def _image_weights(count: int, replicates: int) -> Float[Tensor, "R N"]:
    """How often a resampled test set shows each image.

    Whole numbers, which fp32 adds exactly up to 2^24: equal models get equal results whatever
    models stand beside them.
    """
    generator = make_generator(count, "bootstrap", "images")
    weights = torch.empty(replicates, count)
    for row in weights:
        drawn = torch.randint(count, (count,), generator=generator)
        row.copy_(torch.bincount(drawn, minlength=count))
    return weights


def _max_similarities(
    wrong: Mapping[str, Bool[Tensor, "_ N"]],
    weights: Float[Tensor, "R N"],
    counts: Mapping[str, Float[Tensor, "R _"]],
    draws: Mapping[str, Draws],
) -> dict[str, Float[Tensor, "R _"]]:
    """IoU of each model drawn with the most similar original; groups start with the originals.

    Only images that some original gets wrong can be wrong in both, so only they are multiplied,
    and of them and of the models those that are drawn.
    """
    seen = wrong["original"].any(0)
    table = torch.cat([errors[:, seen] for errors in wrong.values()]).float()
    errors = torch.cat(list(counts.values()), 1)  # (R, T)
    sizes = [len(errors) for errors in wrong.values()]
    starts = np.cumsum([0, *sizes[:-1]]).tolist()
    parts = zip(draws.values(), starts, strict=True)
    drawn = torch.cat([draw.models + start for draw, start in parts], 1)  # (R, T)
    found = torch.empty(drawn.shape)
    for r in tqdm(range(len(weights)), "bootstrap", unit="replicate", disable=None):
        models, places = drawn[r].unique(return_inverse=True)
        found[r] = _nearest(table, models, sizes[0], weights[r, seen], errors[r])[places]
    return dict(zip(wrong, found.split(sizes, 1), strict=True))


def _nearest(
    table: Float[Tensor, "T I"],
    models: Int64[Tensor, " U"],
    originals: int,
    weights: Float[Tensor, " I"],
    errors: Float[Tensor, " T"],
) -> Float[Tensor, " U"]:
    """Maximum similarity of some models; the first rows of `table` are the originals.

    An original leaves out itself; a single one has no other, and NaN.
    """
    shown = weights.nonzero().flatten()
    a = table.index_select(0, models).index_select(1, shown)
    b = table[:originals].index_select(1, shown) * weights[shown]
    similarity = _iou(a @ b.T, errors[models], errors[:originals])
    own = models[models < originals]
    similarity[torch.arange(len(own)), own] = -1 if originals > 1 else torch.nan
    return similarity.amax(1)


def _columns(
    group: str,
    draws: Draws,
    accuracy: Float[Tensor, "R M"],
    similar: Float[Tensor, "R M"],
    wrong_choosing: Bool[Tensor, "M V"],
) -> dict[str, np.ndarray]:
    """The columns of one group; `similar` is of the models drawn, `accuracy` of all."""
    accuracy, name = accuracy.gather(1, draws.models), similarity_column(group)
    found = {
        accuracy_column(group): accuracy[:, : draws.averaged].mean(1),
        name: similar[:, : draws.averaged].mean(1),
    }
    if group in FOLLOWED:
        chosen = preference(wrong_choosing)[draws.models].argmin(1, keepdim=True)
        found |= {
            f"{group}_best": accuracy.amax(1),
            f"{group}_chosen": accuracy.gather(1, chosen)[:, 0],
            f"{name}_low": similar.amin(1),
            f"{name}_high": similar.amax(1),
        }
    return {column: values.double().numpy() for column, values in found.items()}


def preference(wrong_choosing: Bool[Tensor, "M V"]) -> Int64[Tensor, " M"]:
    """Each model's place in the order in which the choosing split likes them; 0 is the chosen.

    Of models that err equally often the first comes first.
    """
    return wrong_choosing.sum(1).argsort(stable=True).argsort()
