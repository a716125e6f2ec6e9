"""Train the denoising diffusion model on the latents.

latents (K, L) -> denoiser with its schedule and latent statistics
"""

from pathlib import Path

from pdiff import tracking
from pdiff.config import load_params
from pdiff.curve import Curve
from pdiff.diffusion import train_denoiser
from pdiff.files import load_tensor
from pdiff.latents import LatentModel, LatentStatistics
from pdiff.resume import make_checkpointer
from pdiff.runtime import get_device, make_generator
from stages import stage

LATENTS = Path("data/latents.safetensors")
DENOISER = Path("models/denoiser.safetensors")
PLOT = Path("plots/train_ddpm.csv")


def main() -> None:
    params = load_params()
    device = get_device()
    latents = load_tensor(LATENTS, "latents", device)  # (K, L)
    generator = make_generator(params.seed.model, "train_ddpm", device=device)
    config = params.ddpm
    sections = [params.seed, config]

    with (
        tracking.run("train_ddpm", params, "seed", "ddpm") as log,
        make_checkpointer("train_ddpm", sections, [LATENTS], device) as resume,
    ):
        curve = Curve(log, "ddpm", "loss", "lr")
        statistics = LatentStatistics.fit(latents, config.standardise)
        denoiser = train_denoiser(
            statistics.apply(latents), config, generator, curve, resume=resume
        )
        LatentModel.of(denoiser, statistics, config).save(DENOISER)
        curve.write(PLOT)


if __name__ == "__main__":
    stage(main)
