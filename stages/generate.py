"""Draw new latents and decode them; measure how well they are distributed as the originals' are.

denoiser, autoencoder, checkpoints with their latents
-> generated models (G, D), their latents (G, L), trajectories (S, P, L); the fit of the latents
"""

from pdiff import outputs, tracking
from pdiff.autoencoder.codec import load_codec
from pdiff.config import load_params
from pdiff.core.files import load_tensor, save_tensors, write_json
from pdiff.core.optimise import check_finite
from pdiff.core.runtime import get_device, make_generator
from pdiff.diffusion.bars import missed_latent_bars
from pdiff.diffusion.fit import latent_fit
from pdiff.diffusion.latents import LatentModel
from pdiff.parameters.stack import write_columns
from pdiff.system.speed import measured
from stages import stage, warn


def main() -> None:
    params, device = load_params(), get_device()
    codec = load_codec(outputs.AUTOENCODER, outputs.CHECKPOINTS, device)
    model = LatentModel.load(outputs.DENOISER, device)
    originals = load_tensor(outputs.LATENTS, "latents", device)  # (K, L)
    generator = make_generator(params.seed.model, "generate", device=device)

    with tracking.run("generate", params, "seed", "generate") as log:
        with measured(models=params.generate.models):
            latents = model.sample(params.generate, generator)
            check_finite(latents, "generated latents")
            write_columns(outputs.GENERATED, codec.subset, len(latents), codec.decode(latents))
        log.summary({"models": len(latents), "parameters": codec.subset.length})
        own = make_generator(params.seed.model, "trajectories", device=device)
        steps, trajectories = model.follow(params.generate, own)
        tensors = {"latents": latents, "trajectories": trajectories, "trajectory_steps": steps}
        save_tensors(outputs.GENERATED_LATENTS, tensors)

        own = make_generator(params.seed.model, "latent_fit", device=device)
        fit = latent_fit(model, originals, latents, params.generate, own)
        if missed := missed_latent_bars(fit, params.generate):
            warn(f"the generator does not fit the originals' latents: {'; '.join(missed)}")
        log.summary({"latent_fit": fit})
        write_json(outputs.GENERATE_METRICS, {"latent_fit": fit})


if __name__ == "__main__":
    stage(main)
