"""Bootstrap replicates of one run's numbers, over its test images and its generated models.

The originals, and every group that is compared with the generated models, stay as they are: the
generator learned from these originals, so redrawing them would ask about another run. Replicate r
draws the same images for all groups and in every run with as many images, so replicates may be
subtracted row by row: they are paired on the images.

Axes: R replicates, M models of a group, T models of all groups, K originals, N images, V images
of the split that chooses.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor
from tqdm import tqdm

from pdiff.core.runtime import make_generator
from pdiff.system.errors import InputError

Numbers = Float64[np.ndarray, " R"]


@dataclass(frozen=True)
class Replicates:
    """One group on R redrawn test sets. Accuracies are fractions, similarities maximum IoU."""

    accuracy: Numbers
    """The mean over the models."""
    best: Numbers
    chosen: Numbers
    """The accuracy of the model that errs least on the split that chooses."""
    similarity: Numbers
    """The mean over the models of the maximum similarity."""
    similarity_low: Numbers
    similarity_high: Numbers


def bootstrap(
    wrong: Mapping[str, Bool[Tensor, "_ N"]],
    wrong_choosing: Mapping[str, Bool[Tensor, "_ V"]],
    replicates: int,
    seed: int,
) -> dict[str, Replicates]:
    """Replicates of every group; `seed` draws the generated models.

    The split that chooses is not redrawn. A maximum over models or originals is larger on redrawn
    images, which are fewer different ones: `interval_around` moves replicates to the estimate.

    Raises:
        InputError: a group has no model.
    """
    if empty := [group for group, errors in wrong.items() if len(errors) == 0]:
        raise InputError(f"groups without a model: {', '.join(empty)}")
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
        chosen = preference(wrong_choosing[group])[models].argmin(1, keepdim=True)
        columns = (
            *(accuracy.mean(1), accuracy.amax(1), accuracy.gather(1, chosen)[:, 0]),
            *(own.mean(1), own.amin(1), own.amax(1)),
        )
        found[group] = Replicates(*(column.numpy() for column in columns))
    return found


def preference(wrong_choosing: Bool[Tensor, "M V"]) -> Tensor:
    """Each model's place in the order in which the choosing split likes them; 0 is the chosen.

    Of models that err equally often the first comes first.
    """
    return wrong_choosing.sum(1).argsort(stable=True).argsort()


def interval(replicates: "np.ndarray | pd.Series", level: float = 0.95) -> tuple[float, float]:
    """The percentile interval: each tail leaves out at most (1 - level) / 2 of the replicates.

    NaN without replicates, and where one is NaN.
    """
    values = np.sort(np.asarray(replicates, dtype=float))
    if len(values) == 0 or np.isnan(values).any():
        return float("nan"), float("nan")
    left_out = min(int(len(values) * (1 - level) / 2 + 1e-9), (len(values) - 1) // 2)
    return float(values[left_out]), float(values[-1 - left_out])


def interval_around(estimate: float, replicates: Numbers) -> tuple[float, float]:
    """The 95 % interval of replicates that are moved so that their mean is the estimate.

    Efron & Tibshirani 1993, section 10.2: the bootstrap's estimate of bias. The interval is for
    the number on as many images as there are, not for the limit of many images.
    """
    return interval(replicates + (estimate - replicates.mean()))


def save_replicates(path: Path, found: Mapping[str, Replicates]) -> None:
    """A CSV with one row per group and replicate: group, replicate, the fields, in six digits."""
    tables = []
    for group, own in found.items():
        table = pd.DataFrame(asdict(own))
        table.insert(0, "replicate", range(len(table)))
        table.insert(0, "group", group)
        tables.append(table)
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.concat(tables).to_csv(path, index=False, float_format="%.6f", lineterminator="\n")


def by_group(table: pd.DataFrame) -> dict[str, Replicates]:
    """The replicates of each group from the table that `save_replicates` writes."""
    names = [field.name for field in fields(Replicates)]
    return {
        str(group): Replicates(*(part[name].to_numpy(dtype=float) for name in names))
        for group, part in table.groupby("group", sort=False)
    }


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


def _image_weights(count: int, replicates: int) -> Float[Tensor, "R N"]:
    """How often each redrawn test set shows each image; fp32 adds whole numbers exactly."""
    generator = make_generator(count, "bootstrap", "images")
    weights = torch.empty(replicates, count)
    for row in weights:
        drawn = torch.randint(count, (count,), generator=generator)
        row.copy_(torch.bincount(drawn, minlength=count))
    return weights


def _max_similarities(
    wrong: Mapping[str, Bool[Tensor, "_ N"]], weights: Float[Tensor, "R N"]
) -> dict[str, Float[Tensor, "R _"]]:
    """Each model's IoU with the most similar original; an original leaves out itself.

    Only images that some original gets wrong can be wrong in both, so only they are multiplied.
    A single original has no other, and NaN.
    """
    seen, count = wrong["original"].any(0), len(wrong["original"])
    rest = {group: errors for group, errors in wrong.items() if group != "original"}
    groups = {"original": wrong["original"], **rest}
    everything = torch.cat(list(groups.values()))
    totals = weights @ everything.float().T  # (R, T)
    table = everything[:, seen].float()
    found, itself = torch.empty(totals.shape), torch.arange(count)
    for r in tqdm(range(len(weights)), "bootstrap", unit="replicate", disable=None):
        shown = weights[r, seen].nonzero().flatten()
        a = table.index_select(1, shown)
        both = a @ (a[:count] * weights[r, seen][shown]).T
        similarity = _iou(both, totals[r], totals[r, :count])
        similarity[itself, itself] = -1 if count > 1 else torch.nan
        found[r] = similarity.amax(1)
    sizes = [len(errors) for errors in groups.values()]
    return dict(zip(groups, found.split(sizes, 1), strict=True))
