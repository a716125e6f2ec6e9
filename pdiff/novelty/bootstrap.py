"""Bootstrap replicates of one run's numbers, over its test images and its generated models.

The originals, and every group that is compared with the generated models, stay as they are: the
generator learned from these originals, so redrawing them would ask about another run. Replicate r
draws the same images for all groups and in every run with as many images, so replicates may be
subtracted row by row: they are paired on the images.

Axes: R replicates, M models of a group, T models of all groups, K originals, N images.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from pdiff.core.runtime import make_generator
from pdiff.system.progress import tqdm

Numbers = Float64[np.ndarray, " R"]


@dataclass(frozen=True)
class Replicates:
    """One group on R redrawn test sets. Accuracies are fractions, similarities maximum IoU."""

    accuracy: Numbers
    """The mean over the models."""
    best: Numbers
    similarity: Numbers
    """The mean over the models of the maximum similarity."""
    similarity_low: Numbers
    similarity_high: Numbers


def bootstrap(
    wrong: Mapping[str, Bool[Tensor, "_ N"]], replicates: int, seed: int
) -> dict[str, Replicates]:
    """Replicates of every group; `seed` draws the generated models.

    A maximum over models or originals is larger on redrawn images, which are fewer different ones:
    `interval_around` moves replicates to the estimate.
    """
    weights = _image_weights(wrong["original"].shape[1], replicates)
    similar = _max_similarities(wrong, weights)
    found = {}
    for group, errors in wrong.items():
        count = len(errors)
        models = torch.arange(count).expand(replicates, -1)  # (R, M)
        if group == "generated":
            generator = make_generator(seed, "bootstrap", group)
            drawn = [torch.randint(count, (count,), generator=generator) for _ in range(replicates)]
            models = torch.stack(drawn)
        accuracy = 1 - (weights @ errors.float().T).double() / weights.sum(1, keepdim=True)
        accuracy, own = accuracy.gather(1, models), similar[group].double().gather(1, models)
        columns = (accuracy.mean(1), accuracy.amax(1), own.mean(1), own.amin(1), own.amax(1))
        found[group] = Replicates(*(column.numpy() for column in columns))
    return found


def interval_around(estimate: float, replicates: Numbers) -> tuple[float, float]:
    """The 95 % percentile interval of replicates that are moved until their mean is the estimate.

    Each tail leaves out at most 2.5 % of them. NaN without replicates, and where one is NaN.
    Efron & Tibshirani 1993, section 10.2: the bootstrap's estimate of bias. The interval is for
    the number on as many images as there are, not for the limit of many images.
    """
    if not len(replicates) or np.isnan(replicates).any():
        return float("nan"), float("nan")
    values = np.sort(replicates + (estimate - replicates.mean()))
    left_out = int(len(values) * 0.025 + 1e-9)
    return float(values[left_out]), float(values[-1 - left_out])


def save_replicates(path: Path, found: Mapping[str, Replicates]) -> None:
    """A CSV with one row per group and replicate: group, replicate, the fields, in six digits."""
    tables = {group: pd.DataFrame(asdict(own)) for group, own in found.items()}
    table = pd.concat(tables, names=["group", "replicate"])
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, float_format="%.6f", lineterminator="\n")


def by_group(table: pd.DataFrame) -> dict[str, Replicates]:
    """The replicates of each group from the table that `save_replicates` writes."""
    names = [field.name for field in fields(Replicates)]
    return {
        str(group): Replicates(*(part[name].to_numpy(dtype=float) for name in names))
        for group, part in table.groupby("group", sort=False)
    }


def _image_weights(count: int, replicates: int) -> Float[Tensor, "R N"]:
    """How often each redrawn test set shows each image; fp32 adds whole numbers exactly."""
    generator = make_generator(count, "bootstrap", "images")
    drawn = (torch.randint(count, (count,), generator=generator) for _ in range(replicates))
    return torch.stack([torch.bincount(images, minlength=count).float() for images in drawn])


def _max_similarities(
    wrong: Mapping[str, Bool[Tensor, "_ N"]], weights: Float[Tensor, "R N"]
) -> dict[str, Float[Tensor, "R _"]]:
    """Each model's IoU with the most similar original; an original leaves out itself.

    Only images that some original gets wrong can be wrong in both, so only they are multiplied.
    A single original has no other, and NaN.
    """
    seen, count = wrong["original"].any(0), len(wrong["original"])
    groups = {"original": wrong["original"], **wrong}  # the originals come first
    everything = torch.cat(list(groups.values()))
    totals = weights @ everything.float().T  # (R, T)
    table = everything[:, seen].float()
    found, itself = torch.empty(totals.shape), torch.arange(count)
    for r in tqdm(range(len(weights)), "bootstrap", unit="replicate", disable=None):
        shown = weights[r, seen].nonzero().flatten()
        a = table.index_select(1, shown)
        both = a @ (a[:count] * weights[r, seen][shown]).T  # (T, K)
        either = totals[r][:, None] + totals[r, :count] - both
        similarity = torch.where(either > 0, both / either, 1.0)
        similarity[itself, itself] = -1 if count > 1 else torch.nan
        found[r] = similarity.amax(1)
    sizes = [len(errors) for errors in groups.values()]
    return dict(zip(groups, found.split(sizes, 1), strict=True))
