"""The 1-D convolutional net that predicts the noise in a latent; it knows no noise schedule.

Axes: B batch, L latent length, C channels. A latent is read as a 1-D signal with one channel, at
full length throughout (paper section 3.3; sizes and details from the authors' code).
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pdiff.system.errors import InputError

TIME_FEATURES = 256


def timestep_embedding(t: Int[Tensor, " B"], size: int = TIME_FEATURES) -> Float[Tensor, "B E"]:
    """Sinusoids of the step number, cosines first: frequencies 10000^(-i / (size / 2))."""
    half = size // 2
    exponents = torch.arange(half, device=t.device, dtype=torch.float32) / half
    angles = t[:, None].float() * torch.exp(-math.log(10000) * exponents)  # (B, E / 2)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class Denoiser(nn.Module):
    """A 1-D U-Net without downsampling; skip connections are added.

    With n widths there are n + 1 convolutions. The output of number i <= (n - 1) / 2 is added to
    the input of number n + 2 - i, and the time vector (L) to every input.
    """

    def __init__(self, latent_dim: int, channels: Sequence[int], kernel_size: int) -> None:
        """`channels` are the widths between the one channel at the start and at the end.

        Skips need them symmetric and odd in number, else `InputError`. The kernel size is odd.
        """
        super().__init__()
        if len(channels) % 2 == 0 or tuple(channels) != tuple(reversed(channels)):
            raise InputError(
                f"denoiser: channels must be symmetric and odd in number, not {tuple(channels)}"
            )
        widths = {"latent_dim": latent_dim, "channels": list(channels)}
        self.config = widths | {"kernel_size": kernel_size}
        """JSON-able arguments: `Denoiser(**config)` rebuilds the architecture."""
        self.skips = len(channels) // 2
        self.time = nn.Sequential(
            nn.Linear(TIME_FEATURES, latent_dim), nn.SiLU(), nn.Linear(latent_dim, latent_dim)
        )
        self.blocks = nn.ModuleList()
        for fan_in, width in zip((1, *channels), channels, strict=False):
            conv = nn.Conv1d(fan_in, width, kernel_size, padding=kernel_size // 2)
            self.blocks.append(nn.Sequential(conv, nn.BatchNorm1d(width), nn.ELU()))
        self.output = nn.Conv1d(channels[-1], 1, kernel_size, padding=kernel_size // 2)

    def forward(self, x: Float[Tensor, "B L"], t: Int[Tensor, " B"]) -> Float[Tensor, "B L"]:
        """The noise predicted in `x` at diffusion steps `t`, counted from 0."""
        time = self.time(timestep_embedding(t))[:, None]  # (B, 1, L)
        x = x[:, None]  # (B, C, L), here C = 1
        outputs: list[Tensor] = []  # still to be joined, the innermost last
        for i, layer in enumerate([*self.blocks, self.output]):
            if i > len(self.blocks) - self.skips:
                x = x + outputs.pop()
            x = layer(x + time)
            if i < self.skips:
                outputs.append(x)
        return x.squeeze(1)
