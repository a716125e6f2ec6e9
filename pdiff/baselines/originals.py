"""Baselines made of the originals' parameters without a generator, by formula or by chance.

All are drawn from a seed, model by model, so whoever asks for a group with the same seed gets the
same parameters.

Axes: K originals, M models, D parameters, P tensors, N images.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from jaxtyping import Float, Float64, Int16, Int64
from torch import Tensor

from pdiff.baselines.registry import Draw, baseline, draw_groups
from pdiff.config import BaselinesConfig
from pdiff.core.statistics import spectrum
from pdiff.evaluation.predict import Model, accuracy
from pdiff.parameters.subset import CHUNK, Models, Rows, Subset, spread_evenly
from pdiff.system.progress import tqdm

Weights = Float64[Tensor, "M K"]
"""What each model takes of each original; the rows sum to one."""


def from_originals(
    originals: Rows, config: BaselinesConfig, seed: int, *, audit: bool
) -> dict[str, Rows]:
    """Every group that needs the originals alone, less the greedy soup; `audit` adds the rivals.

    A rival has `config.rival_models` models; only `ema` and projections have no more than K. An
    original that is not finite spoils those models alone that it has a part in.
    """
    small = len(originals) * originals.subset.length <= CHUNK  # read once for all groups
    known = Models(originals.subset, matrix(originals)) if small else originals
    return draw_groups(known, config, seed, audit=audit)


@baseline("original", order=10, paper=True)
def original(originals: Rows, _draw: Draw) -> Rows:
    """The K checkpoints that the autoencoder learns."""
    return originals


@baseline("ensemble", order=20, paper=True)
def ensemble(originals: Rows, _draw: Draw | None = None) -> Models:
    """The mean of all originals, one model."""
    blocks = (block for _, block in originals.columns())
    means = [block.double().mean(0, keepdim=True).float() for block in blocks]
    return Models(originals.subset, torch.cat(means, 1))


@baseline("exponential average", order=100)
def ema(originals: Rows, draw: Draw) -> Rows:
    """The exponential average along the run, at steps spread evenly over it."""
    decay, count = draw.config.ema_decay, len(originals)
    steps = torch.tensor(spread_evenly(count, draw.models))
    age = steps[:, None] - torch.arange(count)
    weights = (1 - decay) * torch.full((), decay, dtype=torch.float64) ** age
    weights[:, 0] = decay ** steps.double()  # it starts as the first original
    return combined(originals, weights.where(age >= 0, 0.0))


@baseline("interpolated", order=110)
def interpolated(originals: Rows, draw: Draw) -> Rows:
    """A random point between two random originals."""
    weights = torch.zeros(draw.models, len(originals), dtype=torch.float64)
    for index, row in enumerate(weights):
        generator = generator_of(draw.seed, index)
        pair = torch.randperm(len(originals), generator=generator)[:2]
        share = torch.rand((), generator=generator, dtype=torch.float64)
        row[pair] = torch.stack([share, 1 - share])
    return combined(originals, weights)


@baseline("soup of {}", order=120, levels="soups", most=lambda count: count)
def soup(originals: Rows, draw: Draw) -> Rows:
    """The mean of N random originals."""
    weights = torch.zeros(draw.models, len(originals), dtype=torch.float64)
    for index, row in enumerate(weights):
        order = torch.randperm(len(originals), generator=generator_of(draw.seed, index))
        row[order[: draw.level]] = 1 / draw.level
    return combined(originals, weights)


@baseline("rank {}", order=140, levels="ranks", most=lambda count: count - 2)
def projected(originals: Rows, draw: Draw) -> Rows:
    """Originals projected on their first N principal components."""
    return combined(originals, projections(originals, draw.level, draw.models))


@baseline("Gaussian, independent", order=150)
def gaussian_diagonal(originals: Rows, draw: Draw) -> Rows:
    """A Gaussian for each parameter on its own."""
    correction = min(1, len(originals) - 1)  # a single original has no std: models are copies
    parts = [
        torch.std_mean(block.double(), 0, correction=correction) for _, block in originals.columns()
    ]
    std, mean = (torch.cat(part).cpu() for part in zip(*parts, strict=True))

    def row(index: int) -> Float[Tensor, " D"]:
        generator = generator_of(draw.seed, index)
        return (mean + std * torch.randn(len(mean), generator=generator, dtype=mean.dtype)).float()

    return Made(originals.subset, draw.models, row)


@baseline("Gaussian, full", order=160)
def gaussian_full(originals: Rows, draw: Draw) -> Rows:
    """A Gaussian with the originals' covariance, in their span."""
    return combined(originals, gaussian(len(originals), draw.models, draw.seed))


@baseline("noise {}", order=170, paper=True, levels="noise_levels noise_ladder")
def noised(originals: Rows, draw: Draw) -> Rows:
    """Originals with noise in units of each tensor's std (authors')."""
    of_the_paper = draw.level in draw.config.noise_levels
    count = draw.config.noised_models if of_the_paper else draw.models

    def scale(original: Float[Tensor, " D"]) -> Float[Tensor, " D"]:
        parts = original.split(originals.subset.sizes)
        stds = [part.std().expand(len(part)) if len(part) > 1 else 0 * part for part in parts]
        return torch.cat(stds)

    return _noise_added(originals, draw, count, scale)


@baseline("absolute noise {}", order=180, levels="absolute_noise")
def absolute(originals: Rows, draw: Draw) -> Rows:
    """Originals with noise of this std."""
    return _noise_added(originals, draw, draw.models, torch.ones_like)


def _noise_added(originals: Rows, draw: Draw, count: int, scale: Callable) -> Rows:
    """Originals that take turns, plus Gaussian noise of std level times `scale(original)`."""
    sources = turns(len(originals), count, draw.seed)

    def row(index: int) -> Float[Tensor, " D"]:
        original = originals.row(int(sources[index]))
        noise = torch.randn(original.shape, generator=generator_of(draw.seed, index))
        return original + draw.level * scale(original) * noise.to(original.device)

    return Made(originals.subset, count, row)


def turns(count: int, models: int, seed: int) -> Int64[Tensor, " M"]:
    """Which of K originals each model is a copy of: a random order in which all take turns."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return order[torch.arange(models) % count]


def projections(originals: Rows, rank: int, models: int) -> Weights:
    """What an exact codec of this rank below K - 1 makes of originals that are spread evenly.

    With A (K, D) the originals less their mean and A A^T = U diag(e) U^T, largest e first, original
    i becomes mean + sum_k (U_R U_R^T)[i, k] (x_k - mean): its projection on the first R principal
    components, of which none is ever made. These are components of the parameters as they are,
    whatever normalisation an autoencoder has: no original is evaluated again when that changes.
    """
    count, u = len(originals), _components(originals)
    rows = u[spread_evenly(count, models), :rank] @ u[:, :rank].T
    # Rows sum to 0, as the deviations do; rounding, or u of e = 0, may say otherwise.
    return 1 / count + rows - rows.mean(1, keepdim=True)


@lru_cache(maxsize=1)
def _components(originals: Rows) -> Float64[Tensor, "K K"]:
    """U of `projections`, the same for every rank; NaN if any original is not finite."""
    gram = torch.zeros(len(originals), len(originals), dtype=torch.float64)
    for _, block in originals.columns():
        deviations = block.double().cpu()
        deviations -= deviations.mean(0)
        gram.addmm_(deviations, deviations.T)
    if not gram.isfinite().all():  # every component has a part of every original
        return torch.full_like(gram, torch.nan)
    return spectrum(gram)[1]


def gaussian(count: int, models: int, seed: int) -> Weights:
    """Draws from the Gaussian with mean and full covariance (K - 1) of `count` points.

    x = mean + sum_k z_k (x_k - mean) / sqrt(K - 1) with z from N(0, I): no covariance is ever
    made, and all draws lie in the span of the points. Of a single point they are copies.
    """
    z = normal(models, count, seed).double()
    return 1 / count + (z - z.mean(1, keepdim=True)) / max(count - 1, 1) ** 0.5


def normal(models: int, length: int, seed: int) -> Float[Tensor, "M _"]:
    """Draws from N(0, I); row i is the same however many there are."""
    rows = [torch.randn(length, generator=generator_of(seed, i)) for i in range(models)]
    return torch.stack(rows)


def generator_of(seed: int, index: int) -> torch.Generator:
    """Of model `index` alone, so that a model is the same whatever is asked for before it."""
    return torch.Generator().manual_seed(seed + 1 + index)


class Made(Rows):
    """Models that `make(index)` makes whenever they are asked for, and that are never stored."""

    def __init__(
        self, subset: Subset, count: int, make: Callable[[int], Float[Tensor, " D"]]
    ) -> None:
        self.subset, self._count, self._make = subset, count, make

    def __len__(self) -> int:
        return self._count

    def row(self, index: int) -> Float[Tensor, " D"]:
        return self._make(index)

    def block(self, span: slice) -> Float[Tensor, "M c"]:
        return torch.stack([self.row(index)[span] for index in range(len(self))])


def combined(originals: Rows, weights: Weights) -> Rows:
    """Linear combinations of originals, summed in fp64: model m is sum_k weights[m, k] original_k.

    An original of weight 0 is not even read, so whether it is finite is of no account. In memory
    is one sum at a time, and a model costs a reading of all originals that it combines.
    """

    def row(index: int) -> Float[Tensor, " D"]:
        total = torch.zeros(originals.subset.length, dtype=torch.float64)
        for k in weights[index].nonzero()[:, 0].tolist():
            total.add_(originals.row(k).cpu(), alpha=weights[index, k].item())
        return total.float()

    return Made(originals.subset, len(weights), row)


def greedy_soup(
    originals: Rows,
    predictions: Int16[Tensor, "K N"],
    labels: Int64[Tensor, " N"],
    candidates: int,
    predict: Callable[[Sequence[Model]], Int16[Tensor, "M N"]],
) -> tuple[list[int], list[float]]:
    """Which originals are taken, in order, and the accuracy of the mean after each of them.

    The recipe "greedy" of Wortsman et al. 2022, "Model soups", Recipe 1.

    The originals stand in the order of their accuracy on the choosing split, of equals the earlier
    first. Of the best `candidates` each joins if the accuracy of the mean does not drop.
    `predictions` are the originals' on that split, and `predict` gives those of other models.
    """
    single = accuracy(predictions, labels)
    order = single.sort(descending=True, stable=True).indices[:candidates].tolist()
    members, reached = order[:1], [single[order[0]].item()]
    for candidate in tqdm(order[1:], "greedy soup", disable=None):
        mean = soup_of(originals, [*members, candidate])
        found = accuracy(predict(mean), labels).item()
        if found >= reached[-1]:
            members.append(candidate)
            reached.append(found)
    return members, reached


def soup_of(originals: Rows, members: Sequence[int]) -> Rows:
    """One model: the mean of these originals."""
    weights = torch.zeros(1, len(originals), dtype=torch.float64)
    weights[0, list(members)] = 1 / len(members)
    return combined(originals, weights)


def matrix(models: Rows) -> Float[Tensor, "M D"]:
    """The parameters of all models of a group, on the CPU, in the order of the subset."""
    return models.block(slice(0, models.subset.length)).cpu()
