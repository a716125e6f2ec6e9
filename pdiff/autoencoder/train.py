"""Training of the parameter autoencoder, with noise augmentation (paper, Section 3.2).

Axes: K checkpoints, B batch, D subset length, L latent length.
"""

from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from pdiff.autoencoder.codec import Codec, ConvCodec, normalised_pairs, reconstruction_error
from pdiff.autoencoder.linear import LinearCodec
from pdiff.autoencoder.net import Autoencoder, Latents
from pdiff.config import AutoencoderConfig, NoiseConfig
from pdiff.core.optimise import Log, Recipe, autocast, check_finite, optimise, seeded
from pdiff.parameters.normalisation import Normalisation
from pdiff.parameters.subset import Models, Rows
from pdiff.system.resume import Checkpointer


def reparameterise(mean: Latents, log_variance: Latents, noise: Latents) -> Latents:
    """A draw from N(mean, variance) that gradients pass through; `noise` is from N(0, 1)."""
    return mean + (log_variance / 2).exp() * noise


def kl_divergence(mean: Latents, log_variance: Latents) -> Float[Tensor, ""]:
    """KL(N(mean, variance) || N(0, I)) in nats: summed over L, averaged over B."""
    return (mean**2 + log_variance.exp() - 1 - log_variance).sum(1).mean() / 2


def make_autoencoder(length: int, config: AutoencoderConfig) -> Autoencoder:
    """An untrained autoencoder for subsets of `length` parameters."""
    sizes = config.channels, config.kernel_size, config.latent_dim
    model = Autoencoder(length, *sizes, variance_head=config.kind == "vae")
    model.save_memory(config.checkpointing, config.micro_batch)
    return model


def batch_loss(
    model: Autoencoder,
    matrix: Float[Tensor, "K D"],
    config: AutoencoderConfig,
    noise: NoiseConfig,
    generator: torch.Generator,
    precision: torch.autocast,
) -> Float[Tensor, ""]:
    """The loss of a batch that `generator` draws; the net runs within `precision`."""

    def normal(shape: torch.Size) -> Tensor:
        return torch.randn(shape, generator=generator, device=matrix.device)

    size = (config.batch_size,)
    rows = torch.randint(len(matrix), size, generator=generator, device=matrix.device)
    clean = model.pad(matrix[rows])
    noised = clean + noise.param * normal(clean.shape)  # the padding too
    with precision:
        mean, log_variance = model.posterior(noised)
        if log_variance is None:
            z = mean + noise.latent * normal(mean.shape)
        else:
            z = reparameterise(mean, log_variance, normal(mean.shape))
        reconstruction = model.decode_padded(z)
    loss = F.mse_loss(reconstruction.to(noised.dtype), noised)
    if log_variance is not None:
        posterior = mean.to(noised.dtype), log_variance.to(noised.dtype)
        loss = loss + config.kl_weight * kl_divergence(*posterior)
    return loss


def train_autoencoder(
    matrix: Float[Tensor, "K D"],
    config: AutoencoderConfig,
    noise: NoiseConfig,
    generator: torch.Generator,
    log: Log,
    resume: Checkpointer | None = None,
) -> Autoencoder:
    """Train on the normalised checkpoints; returns the autoencoder in eval mode.

    Input and target are the same noised, padded vector, as in the authors' code (the paper's
    eq. 5 has the clean one as target). `conv` adds noise of std `noise.latent` to the latents;
    a `vae` draws them with its own variance and adds `kl_weight` times the KL divergence.
    `generator` must live on the matrix's device.
    """
    check_finite(matrix, "checkpoints")
    device, length = matrix.device, matrix.shape[1]
    model = seeded(lambda: make_autoencoder(length, config), generator).to(device)
    loss = partial(batch_loss, model, matrix, config, noise, generator, autocast(device))
    recipe = Recipe(config.steps, config.lr, config.weight_decay, config.optimizer)
    optimise(model, loss, recipe, generator, log, resume, "autoencoder")
    return model


def fit_codec(
    checkpoints: Rows,
    config: AutoencoderConfig,
    noise: NoiseConfig,
    generator: torch.Generator,
    log: Log,
    resume: Checkpointer | None = None,
) -> tuple[Codec, Float[Tensor, "K L"], dict[str, float]]:
    """The codec of `config.kind`, the checkpoints' latents and its `reconstruction_error` on them.

    An autoencoder is trained on the device of `generator`; principal components are not random,
    and are found on the CPU.
    """
    if config.kind == "linear":
        codec: Codec = LinearCodec.fit(checkpoints, config.latent_dim, config.normalise)
        latents = codec.latents
    else:
        matrix = checkpoints.block(slice(0, checkpoints.subset.length)).to(generator.device)
        checkpoints = Models(checkpoints.subset, matrix)
        normalisation = Normalisation.fit(checkpoints, config.normalise)
        normalised = normalisation.apply(matrix)
        net = train_autoencoder(normalised, config, noise, generator, log, resume)
        norms = config.encode_norm, config.decode_norm
        codec = ConvCodec(checkpoints.subset, net, normalisation, *norms)
        latents = codec.encode(checkpoints)
    return codec, latents, reconstruction_error(normalised_pairs(codec, checkpoints, latents))
