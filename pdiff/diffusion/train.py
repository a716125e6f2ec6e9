"""Training of the denoiser on the checkpoints' latents (paper, Section 3.3).

Axes: K checkpoints, L latent length, B batch.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from pdiff.config import DdpmConfig
from pdiff.core.optimise import Log, Recipe, autocast, check_finite, optimise, seeded
from pdiff.diffusion.denoiser import Denoiser
from pdiff.diffusion.latents import LatentModel, LatentStatistics, held_out_rows
from pdiff.diffusion.schedule import Diffusion
from pdiff.system.errors import InputError
from pdiff.system.resume import Checkpointer

Encode = Callable[[Int64[Tensor, " B"]], Float[Tensor, "B L"]]
"""Indices of checkpoints to their latents."""


def train_denoiser(
    latents: Float[Tensor, "K L"],
    config: DdpmConfig,
    generator: torch.Generator,
    log: Log,
    *,
    resume: Checkpointer | None = None,
    encode: Encode | None = None,
) -> Denoiser:
    """Train a denoiser on latents that the caller has standardised; returns it in eval mode.

    `encode(rows)` gives the latents of a batch anew in each step; by default they are
    `latents[rows]`. `generator` must live on the latents' device.
    """
    check_finite(latents, "latents")
    device, length = latents.device, latents.shape[1]
    diffusion = Diffusion.of(config, device)
    sizes = length, config.channels, config.kernel_size
    model = seeded(lambda: Denoiser(*sizes), generator).to(device)

    def batch_loss() -> Float[Tensor, ""]:
        size = (config.batch_size,)
        rows = torch.randint(len(latents), size, generator=generator, device=device)
        batch = latents[rows] if encode is None else encode(rows)
        with autocast(device):
            return diffusion.loss(model, batch, generator)

    recipe = Recipe(config.steps, config.lr, config.weight_decay, ema=config.ema)
    optimise(model, batch_loss, recipe, generator, log, resume, "denoiser")
    return model


def fit_latents(
    latents: Float[Tensor, "K L"],
    config: DdpmConfig,
    generator: torch.Generator,
    log: Log,
    *,
    resume: Checkpointer | None = None,
    encode: Encode | None = None,
) -> LatentModel:
    """The diffusion model of all latents but `config.held_out` of them, which scales them itself.

    `encode` is that of `train_denoiser`, with latents as they come from the codec.
    """
    held_out = held_out_rows(len(latents), config.held_out).to(latents.device)
    seen = (~held_out).nonzero()[:, 0]  # which checkpoints the rows of a batch are
    if not len(seen):
        raise InputError(f"ddpm.held_out: {config.held_out} leaves none of {len(latents)} latents")
    statistics = LatentStatistics.fit(latents[seen], config.standardise)
    fresh = None if encode is None else lambda rows: statistics.apply(encode(seen[rows]))
    scaled = statistics.apply(latents[seen])
    denoiser = train_denoiser(scaled, config, generator, log, resume=resume, encode=fresh)
    return LatentModel(denoiser, statistics, Diffusion.of(config, latents.device), held_out)
