"""The parameter autoencoder's net: checkpoints to latents and back.

Axes: B batch, D subset length, P padded length, L latent length, C channels, N positions. A
checkpoint is one normalised vector, read as a 1-D signal with one channel (paper section 3.2;
sizes and details from the authors' code).
"""

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pdiff.autoencoder.blocks import Block, Norm, checkpointed, plain
from pdiff.autoencoder.low_memory import normalised_as_one, streamed

Vectors, Padded = Float[Tensor, "B D"], Float[Tensor, "B P"]
Latents = Float[Tensor, "B L"]


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

        The kernel size is odd. `variance_head` adds the log-variance of a VAE.
        """
        super().__init__()
        convolutions = {"channels": list(channels), "kernel_size": kernel_size}
        vectors = {"length": length, "latent_dim": latent_dim, "variance_head": variance_head}
        self.config = convolutions | vectors
        """JSON-able arguments: `Autoencoder(**config)` rebuilds the architecture."""
        self.length, self.channels = length, tuple(channels)
        self.save_memory()
        multiple = max(64, 2 ** len(channels))
        self.padded_length = -(-length // multiple) * multiple

        size = {"kernel_size": kernel_size, "stride": 2, "padding": kernel_size // 2}
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        for fan_in, width in zip((1, *channels), channels, strict=False):
            self.encoder.append(Block(nn.Conv1d(fan_in, width, **size), width, nn.LeakyReLU()))
        for fan_in, width in pairwise((*reversed(channels), channels[0])):
            conv = nn.ConvTranspose1d(fan_in, width, **size, output_padding=1)
            self.decoder.append(Block(conv, width, nn.ELU()))
        self.output = nn.Conv1d(channels[0], 1, kernel_size, padding=kernel_size // 2)

        features = channels[-1] * self.padded_length // 2 ** len(channels)
        self.to_latent = nn.Linear(features, latent_dim)
        self.mean = nn.Linear(latent_dim, latent_dim)
        self.log_variance = nn.Linear(latent_dim, latent_dim) if variance_head else None
        self.from_latent = nn.Linear(latent_dim, features)

    def save_memory(self, checkpointing: bool = False, micro_batch: int | None = None) -> None:
        """Let training keep activations between blocks only, or of `micro_batch` samples.

        Gradients are the same but for rounding.
        """
        self.checkpointing, self.micro_batch = checkpointing, micro_batch

    def pad(self, x: Vectors) -> Padded:
        """Zeros at the end of each vector: what the encoder reads and the loss compares with."""
        return F.pad(x, (0, self.padded_length - self.length))

    def posterior(self, padded: Padded, norm: Norm | None = None) -> tuple[Latents, Latents | None]:
        """Mean and log-variance of q(z | x); the latter is None without a variance head."""
        x = self._run(self.encoder, nn.Identity(), padded[:, None], norm)  # (B, 1, P) -> (B, C, N)
        x = self.to_latent(x.flatten(1))
        return self.mean(x), None if self.log_variance is None else self.log_variance(x)

    def decode_padded(self, z: Latents, norm: Norm | None = None) -> Padded:
        x = self.from_latent(z).unflatten(1, (self.channels[-1], -1))
        return self._run(self.decoder, self.output, x, norm).squeeze(1)

    def _run(
        self, blocks: nn.ModuleList, output: nn.Module, x: Tensor, norm: Norm | None
    ) -> Tensor:
        """The chain of blocks, in training the way that `save_memory` chose."""
        if norm is not None or not self.training:
            return plain(blocks, output, x, norm)
        if self.micro_batch is not None:
            return streamed(blocks, output, x, self.micro_batch)
        return checkpointed(blocks, output, x) if self.checkpointing else plain(blocks, output, x)

    def encode(self, x: Vectors, norm: Norm | None = None) -> Latents:
        """Latents without noise: the mean where there is a variance head."""
        return self.posterior(self.pad(x), norm)[0]

    def encode_in_parts(self, x: Vectors, rows: int) -> Latents:
        """`encode` with the norm `batch` and the memory of `rows` vectors, but for rounding."""
        ends = normalised_as_one(self.encoder, self.pad(x)[:, None], rows)
        return self.mean(self.to_latent(ends.flatten(1)))

    def decode(self, z: Latents, norm: Norm | None = None) -> Vectors:
        """Vectors in the normalised space of the training matrix, the padding cut off."""
        return self.decode_padded(z, norm)[:, : self.length]
