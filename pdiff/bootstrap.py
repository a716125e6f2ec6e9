"""Bootstrap replicates of an experiment's headline numbers, over test images and over models.

Axes: R replicates, M models of a group, K originals, G generated, N images, P patterns.

Replicate r draws the same images in every experiment that has as many, so replicates of two
experiments may be subtracted, or averaged over seeds, row by row: they are paired on the images.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from pdiff.runtime import make_generator


def bootstrap(
    wrong: Mapping[str, Bool[Tensor, "_ N"]], replicates: int, seeds: Mapping[str, int]
) -> pd.DataFrame:
    """One row a replicate: accuracies as fractions and maximum similarities.

    `wrong` holds the groups original, generated and ensemble; `seeds` one seed for the draws of
    models of each of the first two. Images and models are both drawn with replacement; the
    originals that maximum similarities are looked up in are always all. The best of a replicate
    is the best of the models drawn, on the images drawn, so its median lies a little above the
    best on all images.
    """
    names = ("original", "generated", "ensemble")
    patterns, inverse = torch.cat([wrong[name] for name in names]).unique(
        dim=1, return_inverse=True
    )
    models = {
        name: part.float()
        for name, part in zip(names, patterns.split([len(wrong[n]) for n in names]), strict=True)
    }
    draws = {
        name: make_generator(seeds[name], "bootstrap", name) for name in ("original", "generated")
    }
    rows = []
    for weights in _image_weights(inverse, patterns.shape[1], replicates):
        images = weights.sum()
        row = {"ensemble": (1 - models["ensemble"] @ weights / images).item()}
        for name, generator in draws.items():
            count = len(models[name])
            drawn = torch.randint(count, (count,), generator=generator)
            accuracy = (1 - models[name] @ weights / images)[drawn]
            similar = _max_similarity(models, name, weights)[drawn]
            row |= {
                f"{name}_best": accuracy.max().item(),
                f"{name}_mean": accuracy.mean().item(),
                f"{name}_max_similarity": similar.mean().item(),
                f"{name}_max_similarity_low": similar.min().item(),
                f"{name}_max_similarity_high": similar.max().item(),
            }
        rows.append(row)
    return pd.DataFrame(rows)


def interval(replicates: "np.ndarray | pd.Series", level: float = 0.95) -> tuple[float, float]:
    """The percentile interval of one column; NaN where it has no numbers."""
    values = np.asarray(replicates, dtype=float)
    if np.isnan(values).any():
        return float("nan"), float("nan")
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _image_weights(
    inverse: Int64[Tensor, " N"], patterns: int, replicates: int
) -> Iterator[Float[Tensor, " P"]]:
    """How many images of a resampled test set show each pattern of errors.

    Whole numbers, which fp32 adds exactly up to 2^24: equal models get equal results whatever
    models stand beside them.
    """
    count = len(inverse)
    generator = make_generator(count, "bootstrap", "images")
    for _ in range(replicates):
        drawn = inverse[torch.randint(count, (count,), generator=generator)]
        yield torch.bincount(drawn, minlength=patterns).float()


def _max_similarity(
    models: Mapping[str, Float[Tensor, "_ P"]], name: str, weights: Float[Tensor, " P"]
) -> Float[Tensor, " M"]:
    """IoU of wrong predictions with the most similar original, on weighted images.

    An original leaves out itself; a single one has no other, and NaN. As in `novelty`, two
    models without any error are identical.
    """
    a, b = models[name], models["original"]
    both = (a * weights) @ b.T  # (M, K)
    either = (a @ weights)[:, None] + b @ weights - both
    similarity = torch.where(either > 0, both / either, 1.0)
    if name == "original":
        similarity.fill_diagonal_(-1 if len(a) > 1 else float("nan"))
    return similarity.amax(1)
