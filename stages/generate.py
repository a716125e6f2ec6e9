"""Draw new latents and decode them; follow some further ones on their way from noise.

denoiser, autoencoder, checkpoints
-> generated models (G, D), their latents (G, L), trajectories (S, P, L)
"""

from pathlib import Path

from pdiff import tracking
from pdiff.codec import load_codec
from pdiff.config import load_params
from pdiff.files import save_tensors
from pdiff.latents import LatentModel
from pdiff.optimise import check_finite
from pdiff.runtime import get_device, make_generator
from pdiff.speed import measured
from pdiff.stack import write_columns
from stages import stage

CHECKPOINTS = Path("data/checkpoints.safetensors")
AUTOENCODER = Path("models/autoencoder.safetensors")
DENOISER = Path("models/denoiser.safetensors")
GENERATED = Path("data/generated.safetensors")
LATENTS = Path("data/generated_latents.safetensors")


def main() -> None:
    params = load_params()
    device = get_device()
    codec = load_codec(AUTOENCODER, CHECKPOINTS, device)
    model = LatentModel.load(DENOISER, device)
    generator = make_generator(params.seed.model, "generate", device=device)

    with tracking.run("generate", params, "seed", "generate") as log:
        with measured(models=params.generate.models):
            latents = model.sample(params.generate, generator)
            check_finite(latents, "generated latents")
            write_columns(GENERATED, codec.subset, len(latents), codec.decode(latents))
        log.summary({"models": len(latents), "parameters": codec.subset.length})
        own = make_generator(params.seed.model, "trajectories", device=device)
        steps, trajectories = model.follow(params.generate, own)
        tensors = {"latents": latents, "trajectories": trajectories, "trajectory_steps": steps}
        save_tensors(LATENTS, tensors)


if __name__ == "__main__":
    stage(main)
