"""Training of the denoiser on the checkpoints' latents (paper, Section 3.3).

Axes: K checkpoints, L latent length, B batch.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from pdiff.config import DdpmConfig
from pdiff.core.optimise import Log, Resume, autocast, check_finite, optimise, seeded
from pdiff.diffusion.denoiser import Denoiser
from pdiff.diffusion.schedule import Diffusion

Encode = Callable[[Int64[Tensor, " B"]], Float[Tensor, "B L"]]
"""Indices of checkpoints to their latents."""


def train_denoiser(
    latents: Float[Tensor, "K L"],
    config: DdpmConfig,
    generator: torch.Generator,
    log: Log,
    *,
    resume: Resume | None = None,
    encode: Encode | None = None,
) -> Denoiser:
    """Train a denoiser on the latents as they are; returns it in eval mode.

    Standardising them (`config.standardise`) is the caller's business, and undoing it after
    sampling too. `encode(rows)` gives the latents of a batch of checkpoints anew in each step; by
    default they are `latents[rows]`. `generator` must live on the latents' device.
    """
    check_finite(latents, "latents")
    device = latents.device
    diffusion = Diffusion(config.timesteps, config.beta_start, config.beta_end, device)
    model = seeded(
        lambda: Denoiser(latents.shape[1], config.channels, config.kernel_size), generator
    ).to(device)

    def batch_loss() -> Float[Tensor, ""]:
        size = (config.batch_size,)
        rows = torch.randint(len(latents), size, generator=generator, device=device)
        batch = latents[rows] if encode is None else encode(rows)
        with autocast(device):
            return diffusion.loss(model, batch, generator, config.prediction)

    optimise(
        model,
        batch_loss,
        steps=config.steps,
        lr=config.lr,
        weight_decay=config.weight_decay,
        generator=generator,
        log=log,
        ema=config.ema,
        resume=resume,
        name="denoiser",
    )
    return model
