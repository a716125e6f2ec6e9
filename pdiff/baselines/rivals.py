"""The groups that generated models have to beat: what is made without a diffusion model.

All are drawn from a seed, model by model, so whoever asks for a group with the same seed gets the
same parameters. Their names are those of `pdiff.baselines.registry`.

Axes: K originals, M models of a group, D parameters, L latent length, N images.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int16, Int64
from torch import Tensor
from tqdm import tqdm

from pdiff.baselines.originals import (
    Combined,
    Independent,
    Noised,
    generator_of,
    noised,
    of_the_paper,
)
from pdiff.config import EvaluateConfig
from pdiff.core.runtime import derive_seed
from pdiff.evaluation.predict import Model, accuracy
from pdiff.parameters.subset import CHUNK, Models, Rows, Subset, spread_evenly

Weights = Float64[Tensor, "M K"]
"""What each model takes of each original; the rows sum to one."""


def from_originals(originals: Rows, config: EvaluateConfig, seed: int) -> dict[str, Rows]:
    """Every group that needs the originals alone, those of the paper first, less the greedy soup.

    A rival has `config.rival_models` models; only `ema` and projections have no more than K. Soups
    of more than K originals are left out, so are ranks from K - 1 on, which give the originals
    back, and interpolations of a single original. An original that is not finite spoils those
    models alone that it has a part in.
    """
    originals, count, models = _in_memory(originals), len(originals), config.rival_models
    paper = of_the_paper(originals, config, seed)
    groups = paper | noised(originals, config.noise_ladder, models, seed) | paper
    for level in config.absolute_noise:
        own = derive_seed(seed, "absolute", repr(level))
        groups[f"absolute_{level:g}"] = Noised(originals, level, models, own, absolute=True)
    for size in config.soups:
        if size <= count:
            weights = soups(count, size, models, derive_seed(seed, "soup", size))
            groups[f"soup_{size}"] = Combined(originals, weights)
    if count > 1:
        weights = interpolations(count, models, derive_seed(seed, "interpolated"))
        groups["interpolated"] = Combined(originals, weights)
    groups["ema"] = Combined(originals, exponential_averages(count, models, config.ema_decay))
    for rank, weights in projections(originals, config.ranks, models).items():
        groups[f"projected_{rank}"] = Combined(originals, weights)
    weights = gaussian(count, models, derive_seed(seed, "gaussian_full"))
    groups["gaussian_full"] = Combined(originals, weights)
    own = derive_seed(seed, "gaussian_diagonal")
    return groups | {"gaussian_diagonal": Independent(originals, models, own)}


def soups(count: int, size: int, models: int, seed: int) -> Weights:
    """The mean of `size` different originals out of `count`, drawn anew for each model."""
    weights = torch.zeros(models, count, dtype=torch.float64)
    for index, row in enumerate(weights):
        row[torch.randperm(count, generator=generator_of(seed, index))[:size]] = 1 / size
    return weights


def interpolations(count: int, models: int, seed: int) -> Weights:
    """A point on the line between two different originals, anywhere with the same chance."""
    weights = torch.zeros(models, count, dtype=torch.float64)
    for index, row in enumerate(weights):
        generator = generator_of(seed, index)
        pair = torch.randperm(count, generator=generator)[:2]
        share = torch.rand((), generator=generator, dtype=torch.float64)
        row[pair] = torch.stack([share, 1 - share])
    return weights


def exponential_averages(count: int, models: int, decay: float) -> Weights:
    """The exponential average along the run, as it stands at `models` steps spread evenly over it.

    It starts as the first original, so the first model is a copy; `decay` is what it keeps of
    itself at each further original.
    """
    steps = torch.tensor(spread_evenly(count, models))
    age = steps[:, None] - torch.arange(count)
    weights = (1 - decay) * torch.full((), decay, dtype=torch.float64) ** age
    weights[:, 0] = decay ** steps.double()
    return weights.where(age >= 0, 0.0)


def projections(originals: Rows, ranks: Iterable[int], models: int) -> dict[int, Weights]:
    """What an exact codec of each rank below K - 1 makes of originals that are spread evenly.

    With A (K, D) the originals less their mean and A A^T = U diag(e) U^T, largest e first, original
    i becomes mean + sum_k (U_R U_R^T)[i, k] (x_k - mean): its projection on the first R principal
    components, of which none is ever made. These are components of the parameters as they are,
    whatever normalisation an autoencoder has: no original is evaluated again when that changes.
    """
    count = len(originals)
    chosen, ranks = spread_evenly(count, models), [rank for rank in ranks if rank < count - 1]
    if not ranks:
        return {}
    gram = torch.zeros(count, count, dtype=torch.float64)
    for _, block in originals.columns():
        deviations = block.double().cpu()
        deviations -= deviations.mean(0)
        gram.addmm_(deviations, deviations.T)
    if not gram.isfinite().all():  # every component has a part of every original
        return {rank: gram.new_full((len(chosen), count), torch.nan) for rank in ranks}
    u = torch.linalg.eigh(gram).eigenvectors.flip(1)
    found = {rank: u[chosen, :rank] @ u[:, :rank].T for rank in ranks}
    # Rows sum to 0, as the deviations do; rounding, or u of e = 0, may say otherwise.
    return {rank: 1 / count + rows - rows.mean(1, keepdim=True) for rank, rows in found.items()}


def gaussian(count: int, models: int, seed: int) -> Weights:
    """Draws from the Gaussian with mean and full covariance (K - 1) of `count` points.

    x = mean + sum_k z_k (x_k - mean) / sqrt(K - 1) with z from N(0, I): no covariance is ever
    made, and all draws lie in the span of the points. Of a single point they are copies.
    """
    rows = [torch.randn(count, generator=generator_of(seed, i)) for i in range(models)]
    z = torch.stack(rows).double()
    return 1 / count + (z - z.mean(1, keepdim=True)) / max(count - 1, 1) ** 0.5


def latents_of_rivals(
    latents: Float[Tensor, "K L"], config: EvaluateConfig, kind: str, seed: int
) -> dict[str, Float[Tensor, "M L"]]:
    """What the codec has to decode for each group that needs it but no diffusion model.

    `reconstructed_noise_LEVEL` adds Gaussian noise of std LEVEL to latents of originals, which
    take turns in a random order; `latent_gaussian` is fitted to all latents; `vae_prior` draws
    from N(0, I), where the autoencoder's `kind` is vae.
    """
    models, (count, length) = config.rival_models, latents.shape

    def normal(*purpose: str) -> Float[Tensor, "M L"]:
        own = derive_seed(seed, *purpose)
        return torch.stack(
            [torch.randn(length, generator=generator_of(own, i)) for i in range(models)]
        ).to(latents)

    generator = torch.Generator().manual_seed(derive_seed(seed, "reconstructed_noise"))
    order = torch.randperm(count, generator=generator)
    sources = latents[order[torch.arange(models) % count].to(latents.device)]
    groups = {
        f"reconstructed_noise_{level:g}": sources
        + level * normal("reconstructed_noise", repr(level))
        for level in config.latent_noise
    }
    weights = gaussian(count, models, derive_seed(seed, "latent_gaussian"))
    groups["latent_gaussian"] = (weights @ latents.double().cpu()).to(latents)
    return groups | ({"vae_prior": normal("vae_prior")} if kind == "vae" else {})


@dataclass(frozen=True)
class GreedySoup:
    """Which originals were taken, in order, and the accuracy of the mean after each of them."""

    members: list[int]
    accuracy: list[float]


def greedy_soup(
    originals: Rows,
    predictions: Int16[Tensor, "K N"],
    labels: Int64[Tensor, " N"],
    candidates: int,
    predict: Callable[[Sequence[Model]], Int16[Tensor, "M N"]],
) -> GreedySoup:
    """The recipe "greedy" of Wortsman et al. 2022, "Model soups", Recipe 1.

    The originals stand in the order of their accuracy on the choosing split, of equals the earlier
    first. Of the best `candidates` each joins if the accuracy of the mean does not drop.
    `predictions` are the originals' on that split, and `predict` gives those of other models.
    """
    originals = _in_memory(originals)
    single = accuracy(predictions, labels)
    order = single.sort(descending=True, stable=True).indices[:candidates].tolist()
    members, reached = order[:1], [single[order[0]].item()]
    for candidate in tqdm(order[1:], "greedy soup", disable=None):
        mean = soup_of(originals, [*members, candidate])
        found = accuracy(predict(mean), labels).item()
        if found >= reached[-1]:
            members.append(candidate)
            reached.append(found)
    return GreedySoup(members, reached)


def soup_of(originals: Rows, members: Sequence[int]) -> Combined:
    """One model: the mean of these originals."""
    weights = torch.zeros(1, len(originals), dtype=torch.float64)
    weights[0, list(members)] = 1 / len(members)
    return Combined(originals, weights)


def matrix(group: Sequence[Model], subset: Subset) -> Float[Tensor, "M D"]:
    """The parameters of all models of a group, on the CPU, in the order of the subset."""
    if isinstance(group, Rows):
        return group.block(slice(0, subset.length)).cpu()
    rows = [torch.cat([model[name].flatten() for name in subset.names]) for model in group]
    return torch.stack(rows).float().cpu()


def _in_memory(originals: Rows) -> Rows:
    """The same originals, read once where they are small."""
    length = originals.subset.length
    if len(originals) * length > CHUNK:
        return originals
    return Models(originals.subset, originals.block(slice(0, length)))
