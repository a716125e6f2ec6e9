"""How well generated latents are distributed as the originals' are.

Axes: K originals, G generated, L latent length, R directions.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from pdiff.config import GenerateConfig
from pdiff.core.optimise import draw_seed
from pdiff.diffusion.latents import LatentModel, principal_directions
from pdiff.diffusion.schedule import Diffusion, PredictNoise

HELD, SMALL = 0.99, 0.01
"""Leading directions together hold `HELD` of the originals' variance; a direction that holds less
than `SMALL` of it is not compared by itself."""
DRAWS = 2000
"""Noisy latents behind each denoising loss."""


def variance_along(
    originals: Float[Tensor, "K L"], generated: Float[Tensor, "G L"]
) -> tuple[Float[Tensor, " R"], float]:
    """Variance along the originals' principal directions, generated over originals.

    Directions that hold more than `SMALL` of the originals' variance are compared. The second
    number is the share of the generated variance outside the leading directions.
    """
    std, directions = principal_directions(originals)
    share = std.square() / std.square().sum()
    along = (generated - generated.mean(0)) @ directions  # (G, R)
    variance = along.square().sum(0) / max(len(generated) - 1, 1)
    leading = int((share.cumsum(0) < HELD).sum()) + 1
    total = generated.var(0).sum()
    outside = 1 - variance[:leading].sum() / total if total > 0 else torch.zeros(())
    compared = max(int((share > SMALL).sum()), 1)
    return (variance / std.square())[:compared], outside.clamp(min=0).item()


@torch.no_grad()
def denoising_loss(
    predict_noise: PredictNoise,
    latents: Float[Tensor, "K R"],
    diffusion: Diffusion,
    generator: torch.Generator,
) -> float:
    """Mean squared error of the predicted noise (DDPM eq. 14) over latents, steps and noise.

    The latents take turns and the steps are spread evenly, so equal generators compare two
    predictors on the same noisy latents.
    """
    rows = torch.arange(DRAWS, device=latents.device) % len(latents)
    order = torch.randperm(DRAWS, generator=generator, device=generator.device)
    t = order * diffusion.timesteps // DRAWS
    noise = torch.randn(DRAWS, latents.shape[1], generator=generator, device=generator.device)
    noisy = diffusion.add_noise(latents[rows], noise, t)
    return (predict_noise(noisy, t) - noise).square().mean().item()


def gaussian_predictor(latents: Float[Tensor, "K R"], diffusion: Diffusion) -> PredictNoise:
    """The best prediction of the noise in x_t if x_0 is from the Gaussian of these latents."""
    std, directions = principal_directions(latents)
    mean, variance = latents.mean(0), std.square()  # (R), (R)

    def predict(xt: Float[Tensor, "B R"], t: Tensor) -> Float[Tensor, "B R"]:
        signal, noise = diffusion.signal[t, None], diffusion.noise[t, None]
        off = xt - signal * mean
        along = off @ directions
        inside = along * noise / (signal**2 * variance + noise**2)
        return inside @ directions.T + (off - along @ directions.T) / noise

    return predict


def latent_fit(
    model: LatentModel,
    latents: Float[Tensor, "K L"],
    generated: Float[Tensor, "G L"],
    config: GenerateConfig,
    generator: torch.Generator,
) -> dict[str, float | int | None]:
    """The numbers that judge the generator, before any of its models is evaluated.

    They are those of `config.fit_latents` further latents, or of the generated ones. `variance_*`
    and `outside` are those of `variance_along`. The losses are the denoiser's on the latents that
    it learned from and on those held out, and on the latter that of a Gaussian of the former; None
    where nothing was held out.
    """
    if config.fit_latents is not None:
        further = config.model_copy(update={"models": config.fit_latents})
        generated = model.sample(further, generator)
    ratios, outside = variance_along(latents, generated)
    scaled = model.statistics.apply(latents)
    seen, held_out = scaled[~model.held_out], scaled[model.held_out]
    diffusion, seed = model.diffusion, draw_seed(generator)
    predict_noise = diffusion.predicts_noise(model.denoiser)

    def loss(predict: PredictNoise, rows: Float[Tensor, "M R"]) -> float | None:
        own = torch.Generator(rows.device).manual_seed(seed)
        return denoising_loss(predict, rows, diffusion, own) if len(rows) else None

    return {
        "directions": len(ratios),
        "variance_first": ratios[0].item(),
        "variance_least": ratios.min().item(),
        "variance_median": ratios.median().item(),
        "variance_most": ratios.max().item(),
        "outside": outside,
        "loss_training": loss(predict_noise, seen),
        "loss_held_out": loss(predict_noise, held_out),
        "loss_gaussian": loss(gaussian_predictor(seen, diffusion), held_out),
    }
