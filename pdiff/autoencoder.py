"""The parameter autoencoder: checkpoints to latents and back.

Axes: K checkpoints, B batch, D subset length, P padded length, L latent length, C channels, N
positions. A checkpoint is one normalised vector that is read as a 1-D signal with one channel
(paper section 3.2; sizes and details from the authors' code).
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pdiff.config import AutoencoderConfig, NoiseConfig
from pdiff.errors import InputError
from pdiff.optimise import Log, Resume, autocast, check_finite, optimise, seeded

Norm = Literal["batch", "sample", "running"]
"""Where a batch norm takes mean and variance from: the batch, each sample, or training."""


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation whose statistics the caller may choose."""

    def forward(self, x: Float[Tensor, "B C N"], norm: Norm | None = None) -> Tensor:
        """`norm` None goes by the mode: the batch's in training, which updates the running ones.

        `sample` normalises each sample over its own positions, which is what this layer does in
        the authors' generation: training mode, batches of one.
        """
        if norm is None:
            return super().forward(x)
        if norm == "sample":
            return F.instance_norm(x, weight=self.weight, bias=self.bias, eps=self.eps)
        mean, var = (None, None) if norm == "batch" else (self.running_mean, self.running_var)
        return F.batch_norm(x, mean, var, self.weight, self.bias, norm == "batch", eps=self.eps)


class Block(nn.Module):
    """Convolution, batch norm, activation."""

    def __init__(self, conv: nn.Module, channels: int, activation: nn.Module) -> None:
        super().__init__()
        self.conv = conv
        self.norm = BatchNorm(channels)
        self.activation = activation

    def forward(self, x: Float[Tensor, "B C N"], norm: Norm | None = None) -> Tensor:
        return self.activation(self.norm(self.conv(x), norm))


class Autoencoder(nn.Module):
    """Strided 1-D convolutions with a dense bottleneck; each block halves or doubles the length.

    Inside, vectors are zero-padded at the end to P, a multiple of 64 and of 2 ** len(channels).
    `norm` chooses the batch norms' statistics; None follows `train()` and `eval()`.
    """

    def __init__(
        self,
        length: int,
        channels: Sequence[int],
        kernel_size: int,
        latent_dim: int,
        *,
        variance_head: bool = False,
    ) -> None:
        """`length` is D, `channels` the widths of the encoder's blocks, which the decoder mirrors.

        `variance_head` adds the log-variance of a VAE.
        """
        super().__init__()
        if kernel_size % 2 == 0:
            raise InputError(f"autoencoder: kernel_size must be odd, not {kernel_size}")
        if length < 1 or not channels:
            raise InputError(f"autoencoder: no vector or no block: {length=}, {channels=}")
        self.length, self.kernel_size, self.latent_dim = length, kernel_size, latent_dim
        self.channels = tuple(channels)
        multiple = max(64, 2 ** len(channels))
        self.padded_length = -(-length // multiple) * multiple

        size = {"kernel_size": kernel_size, "stride": 2, "padding": kernel_size // 2}
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        for fan_in, width in zip((1, *channels), channels, strict=False):
            self.encoder.append(Block(nn.Conv1d(fan_in, width, **size), width, nn.LeakyReLU()))
        up = (*reversed(channels), channels[0])
        for fan_in, width in pairwise(up):
            conv = nn.ConvTranspose1d(fan_in, width, **size, output_padding=1)
            self.decoder.append(Block(conv, width, nn.ELU()))
        self.output = nn.Conv1d(channels[0], 1, kernel_size, padding=kernel_size // 2)

        features = channels[-1] * self.padded_length // 2 ** len(channels)
        self.to_latent = nn.Linear(features, latent_dim)
        self.mean = nn.Linear(latent_dim, latent_dim)
        self.log_variance = nn.Linear(latent_dim, latent_dim) if variance_head else None
        self.from_latent = nn.Linear(latent_dim, features)

    def config(self) -> dict[str, Any]:
        """JSON-able arguments: `Autoencoder(**config)` rebuilds the architecture."""
        return {
            "length": self.length,
            "channels": list(self.channels),
            "kernel_size": self.kernel_size,
            "latent_dim": self.latent_dim,
            "variance_head": self.log_variance is not None,
        }

    def pad(self, x: Float[Tensor, "B D"]) -> Float[Tensor, "B P"]:
        """Zeros at the end of each vector: what the encoder reads and the loss compares with."""
        if x.shape[1] != self.length:
            raise ValueError(f"the autoencoder takes vectors of {self.length}, not {x.shape[1]}")
        return F.pad(x, (0, self.padded_length - self.length))

    def posterior(
        self, padded: Float[Tensor, "B P"], norm: Norm | None = None
    ) -> tuple[Float[Tensor, "B L"], Float[Tensor, "B L"] | None]:
        """Mean and log-variance of q(z | x); the latter is None without a variance head."""
        x = padded[:, None]  # (B, 1, P)
        for block in self.encoder:
            x = block(x, norm)
        x = self.to_latent(x.flatten(1))
        return self.mean(x), None if self.log_variance is None else self.log_variance(x)

    def decode_padded(
        self, z: Float[Tensor, "B L"], norm: Norm | None = None
    ) -> Float[Tensor, "B P"]:
        x = self.from_latent(z).unflatten(1, (self.channels[-1], -1))
        for block in self.decoder:
            x = block(x, norm)
        return self.output(x).squeeze(1)

    def encode(self, x: Float[Tensor, "B D"], norm: Norm | None = None) -> Float[Tensor, "B L"]:
        """Latents without noise: the mean where there is a variance head."""
        return self.posterior(self.pad(x), norm)[0]

    def decode(self, z: Float[Tensor, "B L"], norm: Norm | None = None) -> Float[Tensor, "B D"]:
        """Vectors in the normalised space of the training matrix, the padding cut off."""
        return self.decode_padded(z, norm)[:, : self.length]

    def forward(self, x: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        """Reconstruction, without noise."""
        return self.decode(self.encode(x))


def reparameterise(
    mean: Float[Tensor, "B L"], log_variance: Float[Tensor, "B L"], noise: Float[Tensor, "B L"]
) -> Float[Tensor, "B L"]:
    """A draw from N(mean, variance) that gradients pass through; `noise` is from N(0, 1)."""
    return mean + (log_variance / 2).exp() * noise


def kl_divergence(
    mean: Float[Tensor, "B L"], log_variance: Float[Tensor, "B L"]
) -> Float[Tensor, ""]:
    """KL(N(mean, variance) || N(0, I)) in nats: summed over L, averaged over B."""
    return (mean**2 + log_variance.exp() - 1 - log_variance).sum(1).mean() / 2


def train_autoencoder(
    matrix: Float[Tensor, "K D"],
    config: AutoencoderConfig,
    noise: NoiseConfig,
    generator: torch.Generator,
    log: Log,
    *,
    resume: Resume | None = None,
) -> Autoencoder:
    """Train on the normalised checkpoints; returns the autoencoder in eval mode.

    Input and target are the same noised, padded vector, as in the authors' code (the paper's
    eq. 5 names the clean one as target). `conv` adds noise of std `noise.latent` to the latents;
    a `vae` draws them with its own variance instead and adds `kl_weight` times the KL divergence.
    `generator` must live on the matrix's device.
    """
    check_finite(matrix, "checkpoints")
    model = seeded(
        lambda: Autoencoder(
            matrix.shape[1],
            config.channels,
            config.kernel_size,
            config.latent_dim,
            variance_head=config.kind == "vae",
        ),
        generator,
    ).to(matrix.device)

    def normal(shape: torch.Size) -> Tensor:
        return torch.randn(shape, generator=generator, device=matrix.device)

    def batch_loss() -> Float[Tensor, ""]:
        size = (config.batch_size,)
        rows = torch.randint(len(matrix), size, generator=generator, device=matrix.device)
        clean = model.pad(matrix[rows])
        noised = clean + noise.param * normal(clean.shape)  # the padding too
        with autocast(matrix.device):
            mean, log_variance = model.posterior(noised)
            if log_variance is None:
                z = mean + noise.latent * normal(mean.shape)
            else:
                z = reparameterise(mean, log_variance, normal(mean.shape))
            reconstruction = model.decode_padded(z)
        loss = F.mse_loss(reconstruction.float(), noised)
        if log_variance is not None:
            loss = loss + config.kl_weight * kl_divergence(mean.float(), log_variance.float())
        return loss

    optimise(
        model,
        batch_loss,
        steps=config.steps,
        lr=config.lr,
        weight_decay=config.weight_decay,
        generator=generator,
        log=log,
        resume=resume,
        name="autoencoder",
    )
    return model
