"""Rivals that only zoos of independent nets have: the literature's generators, unaligned soups.

S_KDE30 (Schuerholt et al. 2022, arXiv 2209.14733) and SANE_KDE30 (Schuerholt et al. 2024, arXiv
2406.09997) learn an autoencoder of whole nets, fit a Gaussian kernel density to the latents of the
best 30 % of the nets, sample and decode; SANE_SUB keeps the best of the samples. Ours are small: no
contrastive loss, no windows, no augmentation; widths and steps for minutes on two cores.

Axes: K originals, M models, D parameters, P parts of a latent that are drawn together, W numbers of
a part, T tokens, F numbers of a token.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from pdiff.baselines.originals import Made, generator_of, matrix
from pdiff.baselines.registry import Draw, baseline
from pdiff.core.optimise import Recipe, optimise, seeded
from pdiff.evaluation.predict import accuracy
from pdiff.evaluation.predictions import Predictions
from pdiff.parameters.align import Chain
from pdiff.parameters.normalisation import Normalisation
from pdiff.parameters.subset import Models, Rows, Subset

BEST = 0.3
"""Share of the originals, by validation accuracy, that the densities are fitted to."""
KEPT = 10
"""Models that SANE_SUB keeps of those that SANE_KDE30 draws."""
S_BANDWIDTH, SANE_BANDWIDTH = 0.002, 0.2
BATCH, LR = 32, 1e-3


@dataclass(frozen=True)
class Zoo:
    """Originals and their accuracy on validation images."""

    originals: Rows
    accuracy: Float[Tensor, " K"]

    def __len__(self) -> int:
        return len(self.originals)


@baseline("soup of {}, not aligned", order=126, levels="soups", most=lambda count: count, zoo=True)
def soup_shuffled(originals: Rows, draw: Draw) -> Rows:
    """The mean of N random originals whose neurons are in a random order, as if never aligned."""

    def row(index: int) -> Float[Tensor, " D"]:
        layers = Chain.of_shapes(originals.subset)
        generator = generator_of(draw.seed, index)
        chosen = torch.randperm(len(originals), generator=generator)[: draw.level].tolist()
        rows = [layers.shuffled(originals.row(k).cpu(), generator) for k in chosen]
        return torch.stack(rows).double().mean(0).float()

    return Made(originals.subset, draw.models, row)


@baseline("S_KDE30", order=61, zoo=True, rated=True)
def s_kde30(zoo: Zoo, draw: Draw) -> Rows:
    """An autoencoder of whole nets; a density for each latent dimension, bandwidth 0.002."""
    return _generated(zoo, draw, lambda subset: WholeNets(subset.length), S_BANDWIDTH)


@baseline("SANE_KDE30", order=62, zoo=True, rated=True)
def sane_kde30(zoo: Zoo, draw: Draw) -> Rows:
    """A transformer of tokens, one a neuron; a density for each token, bandwidth 0.2."""
    return _generated(zoo, draw, Tokens, SANE_BANDWIDTH)


def keep_best(predictions: Predictions, labels: Int64[Tensor, " N"]) -> None:
    """Add SANE_SUB: the draws of SANE_KDE30 that validation images, with these labels, choose."""
    drawn = predictions["validation"].get("sane_kde30")
    if drawn is not None:
        best = accuracy(drawn, labels).sort(descending=True, stable=True)[1]
        for groups in predictions.values():
            groups["sane_sub"] = groups["sane_kde30"][best[:KEPT]]


class WholeNets(nn.Module):
    """An MLP autoencoder of flat nets. A latent has P parts of one number, each in (-1, 1)."""

    def __init__(self, length: int, width: int = 512, latent: int = 64) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            *(nn.Linear(length, width), nn.GELU(), nn.Linear(width, latent), nn.Tanh())
        )
        self.decoder = nn.Sequential(
            *(nn.Linear(latent, width), nn.GELU(), nn.Linear(width, length))
        )

    def encode(self, nets: Float[Tensor, "M D"]) -> Float[Tensor, "M P 1"]:
        return self.encoder(nets)[..., None]

    def decode(self, latents: Float[Tensor, "M P 1"]) -> Float[Tensor, "M D"]:
        return self.decoder(latents[..., 0])


class Tokens(nn.Module):
    """A transformer autoencoder. A token holds the weights and bias of one neuron, and zeros.

    A latent has P = T parts of W numbers, each in (-1, 1).
    """

    def __init__(self, subset: Subset, width: int = 128, latent: int = 16) -> None:
        super().__init__()
        index = token_index(subset)  # (T, F), D where a token has no number
        places = torch.empty(subset.length + 1, dtype=torch.long)
        places[index.flatten()] = torch.arange(index.numel())
        self.register_buffer("index", index)
        self.register_buffer("places", places[:-1])
        self.shape = index.shape
        self.position = nn.Parameter(0.02 * torch.randn(len(index), width))
        self.into = nn.Sequential(nn.Linear(self.shape[1], width), _Add(self.position))
        self.encoder = nn.Sequential(_transformer(width), nn.Linear(width, latent), nn.Tanh())
        self.decoder = nn.Sequential(
            *(nn.Linear(latent, width), _Add(self.position), _transformer(width)),
            nn.Linear(width, self.shape[1]),
        )

    def encode(self, nets: Float[Tensor, "M D"]) -> Float[Tensor, "M P W"]:
        return self.encoder(self.into(functional.pad(nets, (0, 1))[:, self.index]))

    def decode(self, latents: Float[Tensor, "M P W"]) -> Float[Tensor, "M D"]:
        return self.decoder(latents).flatten(1)[:, self.places]


class _Add(nn.Module):
    def __init__(self, position: nn.Parameter) -> None:
        super().__init__()
        self.position = position

    def forward(self, tokens: Float[Tensor, "M T E"]) -> Float[Tensor, "M T E"]:
        return tokens + self.position


def _transformer(width: int) -> nn.Module:
    options = {"dim_feedforward": 2 * width, "dropout": 0.0, "batch_first": True}
    layer = nn.TransformerEncoderLayer(width, 4, norm_first=True, activation="gelu", **options)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


def token_index(subset: Subset) -> Int64[Tensor, "T F"]:
    """Where the numbers of each neuron stand in a flat net, its bias last; D beyond its end."""
    places = torch.arange(subset.length).split(subset.sizes)
    layers: dict[str, list[Tensor]] = {}
    for (name, shape), own in zip(subset.shapes.items(), places, strict=True):
        layers.setdefault(name.rpartition(".")[0], []).append(own.view(shape[0], -1))
    tokens = [row for parts in layers.values() for row in torch.cat(parts, 1)]
    longest = max(map(len, tokens))
    return torch.stack(
        [functional.pad(row, (0, longest - len(row)), value=subset.length) for row in tokens]
    )


def _generated(
    zoo: Zoo, draw: Draw, make: Callable[[Subset], nn.Module], bandwidth: float
) -> Models:
    """Train an autoencoder, sample a kernel density of the best originals' latents, decode.

    Each tensor of the nets is normalised, so the loss weighs layers alike, whatever their scale.
    """
    subset, options = zoo.originals.subset, draw.config.zoo
    normalisation = Normalisation.fit(zoo.originals, "tensor")
    known = normalisation.apply(matrix(zoo.originals))
    generator = torch.Generator().manual_seed(draw.seed)
    net = seeded(lambda: make(subset), generator)

    def batch_loss() -> Float[Tensor, ""]:
        batch = known[torch.randint(len(known), (min(BATCH, len(known)),), generator=generator)]
        return functional.mse_loss(net.decode(net.encode(batch)), batch)

    recipe = Recipe(options.steps, LR, 0.0)
    optimise(net, batch_loss, recipe, generator, lambda *_: None, None, draw.family)
    best = zoo.accuracy >= zoo.accuracy.quantile(1 - BEST)
    with torch.no_grad():
        latents = net.encode(known[best])
        shared = options.kde_seed == "shared"
        decoded = net.decode(kde(latents, bandwidth, draw.models, generator, shared=shared))
    return Models(subset, normalisation.invert(decoded))


def kde(
    latents: Float[Tensor, "K P W"],
    bandwidth: float,
    models: int,
    generator: torch.Generator,
    *,
    shared: bool,
) -> Float[Tensor, "M P W"]:
    """Draws from a Gaussian kernel density of each part: that of a random latent, plus noise.

    `shared` draws both once for all parts, as scikit-learn does with one `random_state`.
    """
    count, parts, width = latents.shape
    drawn = 1 if shared else parts
    rows = torch.randint(count, (models, drawn), generator=generator).expand(-1, parts)
    noise = torch.randn(models, drawn, width, generator=generator)
    return latents[rows, torch.arange(parts)] + bandwidth * noise
